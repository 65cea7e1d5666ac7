"""Operations of torch whose derivatives are wrong or missing, written out in primitives that have them all.

Reverse mode through the forward-mode formula of `layer_norm` takes its mean for a constant; `weight_norm`'s double
backward is wrong; fused kernels of recurrent nets and of attention have no second derivative, no forward mode or no
rule for `vmap`. Inside of `exactly()`, each is computed by operations whose derivatives of every order and mode are
right. The values are the same, rounding aside; the plain gradient of torch's own kernels is right and faster, so that
nothing changes where no more is asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from deepobs_func.backend.standardising import standardised
from deepobs_func.probes import loss_formulas, recurrent


class _Exact(TorchFunctionMode):
    """Calls the formula of an operation in its place."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return called(FORMULAS.get(func, func), args, kwargs or {})


def called(function: Any, args: Any, kwargs: Any) -> Any:
    """Calls a function inside of a mode, so that `torch.compile` can follow."""
    return (_unflatten if function is Tensor.unflatten else function)(*args, **kwargs)


def _unflatten(x: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """`Tensor.unflatten`, whose own code calls `super()`, which Dynamo cannot trace inside of a mode."""
    dim = dim % x.ndim
    return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])


class Recorder(TorchFunctionMode):
    """Writes down which operations with a formula are called, as `called`."""

    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in FORMULAS:
            self.called.add(func.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def exactly() -> Iterator[None]:
    """A context in which operations with a formula are computed by it.

    It holds for what torch's Python functions are called with, wherever the call stands: in a layer of torch's, in a
    user's own forward method, or in a loss. Code that `torch.jit` has compiled is out of its reach.

    >>> import torch
    >>> x = torch.tensor([[1.0, 3.0]])
    >>> with exactly():
    ...     F.layer_norm(x, (2,), eps=0.0)
    tensor([[-1.,  1.]])
    """
    with _Exact():
        yield


def _wide(x: Tensor) -> Tensor:
    """Statistics of half precision are taken in single, as torch's kernels do."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _standardised(x: Tensor, axes: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """`(x - mean) / sqrt(var + eps)`, with the mean and the biased variance over some axes."""
    mean = x.mean(axes, keepdim=True)
    centred = x - mean
    variance = centred.square().mean(axes, keepdim=True)
    return centred * (variance + eps).rsqrt(), mean, variance


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(
    x: Tensor,
    shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    y = standardised(_wide(x).flatten(-len(shape)), eps).reshape(x.shape)
    return _affine(y, weight, bias).to(x.dtype)


def _rms_norm(x: Tensor, shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    wide = _wide(x)
    square = wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
    y = wide * (square + (torch.finfo(wide.dtype).eps if eps is None else eps)).rsqrt()
    return _affine(y, weight, None).to(x.dtype)


def _group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    y = standardised(_wide(x).reshape(len(x), groups, -1), eps)
    return _affine(y.reshape(x.shape), _channels(weight, x), _channels(bias, x)).to(x.dtype)


def _channels(values: Tensor | None, x: Tensor) -> Tensor | None:
    """Numbers of the channels, to be broadcast against `(B, C, ...)`."""
    return None if values is None else values.view(-1, *[1] * (x.ndim - 2))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if training:
        axes = (0, *range(2, x.ndim))
        if x.numel() == x.shape[1]:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}")
        y, mean, variance = _standardised(_wide(x), axes, eps)
        _move(running_mean, running_var, mean.flatten(), variance.flatten(), x.numel() // x.shape[1], momentum)
    else:
        centre, spread = _channels(running_mean, x), _channels(running_var, x)
        if centre is None or spread is None:
            raise RuntimeError("Expected running_mean and running_var to be defined when training=False")
        y = (_wide(x) - centre) * (spread + eps).rsqrt()
    return _affine(y, _channels(weight, x), _channels(bias, x)).to(x.dtype)


def _move(
    running_mean: Tensor | None, running_var: Tensor | None, mean: Tensor, variance: Tensor, count: int, momentum: float
) -> None:
    """Moves the running statistics, in place and without a gradient, as torch does."""
    if running_mean is not None:
        running_mean.lerp_(mean.detach().to(running_mean.dtype), momentum)
    if running_var is not None:
        running_var.lerp_(variance.detach().to(running_var.dtype) * (count / (count - 1)), momentum)


def _instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    y, mean, variance = _standardised(_wide(x), tuple(range(2, x.ndim)), eps)
    count = math.prod(x.shape[2:])
    if count == 1:
        raise ValueError(f"Expected more than 1 spatial element when training, got input size {tuple(x.shape)}")
    _move(running_mean, running_var, mean.flatten(1).mean(0), variance.flatten(1).mean(0), count, momentum)
    return _affine(y, _channels(weight, x), _channels(bias, x)).to(x.dtype)


def _embedding(
    ids: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """The rows of the weight; the gradient is dense, and cut where torch cuts it."""
    if max_norm is not None:  # changes the weight in place
        return F.embedding(ids, weight, padding_idx, max_norm, norm_type, scale_grad_by_freq, sparse)
    rows = F.embedding(ids, weight)
    if scale_grad_by_freq:
        flat = ids.flatten()
        counts = (flat.unsqueeze(1) == flat).sum(1).view(ids.shape).unsqueeze(-1)
        part = rows / counts
        rows = part + (rows - part).detach()
    if padding_idx is None:
        return rows
    padding = (ids == padding_idx % weight.shape[0]).unsqueeze(-1)
    return torch.where(padding, rows.detach(), rows)


def _raw_embedding(
    weight: Tensor, ids: Tensor, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Tensor:
    """`torch.embedding`, which takes -1 where there is no padding."""
    return _embedding(ids, weight, None if padding_idx < 0 else padding_idx, None, 2.0, scale_grad_by_freq)


def _embedding_bag(
    ids: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    if ids.ndim != 2 or max_norm is not None:  # bags of several lengths stay torch's
        options = (max_norm, norm_type, scale_grad_by_freq, mode, False, per_sample_weights, include_last_offset)
        return F.embedding_bag(ids, weight, offsets, *options, padding_idx)
    rows = _embedding(ids, weight, None, None, 2.0, scale_grad_by_freq)
    rows = rows if per_sample_weights is None else rows * per_sample_weights.unsqueeze(-1)
    counted = torch.ones_like(ids) if padding_idx is None else (ids != padding_idx % weight.shape[0]).to(ids.dtype)
    present = counted.unsqueeze(-1)
    if mode == "max":
        most = rows.masked_fill(present == 0, -math.inf).amax(1)
        return torch.where(present.sum(1) > 0, most, 0.0)
    total = (rows * present).sum(1)
    return total if mode == "sum" else total / present.sum(1).clamp(min=1)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    y = F.relu6(x + 3.0) / 6.0
    return x.copy_(y) if inplace else y


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    """`g v / |v|`, one norm for each index of an axis; one in all where the axis is -1."""
    axes = [axis for axis in range(v.ndim) if dim == -1 or axis != dim % v.ndim]
    return v * (g * v.square().sum(axes, keepdim=True).rsqrt())


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`softmax(q k^T / sqrt(d) + mask) v`; a query that may look at nothing gets 0."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    logits = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=query.device).tril()
    return F.dropout(attention_weights(logits, attn_mask), dropout_p) @ value


def attention_weights(logits: Tensor, mask: Tensor | None) -> Tensor:
    """`softmax(logits + mask)`, of a mask of numbers or of truth values; a query that may look at nothing gets 0."""
    if mask is None:
        return logits.softmax(-1)
    logits = logits.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else logits + mask
    blind = (logits == -math.inf).all(-1, keepdim=True)
    return logits.masked_fill(blind, 0.0).softmax(-1).masked_fill(blind, 0.0)


def _multi_head_attention(*args: Any, **kwargs: Any) -> Any:
    """By torch's formula of attention in primitives; its fused kernels lack derivatives."""
    with sdpa_kernel(SDPBackend.MATH):
        return F.multi_head_attention_forward(*args, **kwargs)


def _raw(norm: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`torch.batch_norm` and `torch.instance_norm`, which take weight and bias first and a flag for cuDNN last."""
    return lambda x, weight, bias, mean, var, *rest: norm(x, mean, var, weight, bias, *rest[:3])


def _functions() -> Iterable[tuple[Any, Callable[..., Any]]]:
    norms = (("layer_norm", _layer_norm), ("group_norm", _group_norm), ("rms_norm", _rms_norm))
    for name, formula in norms:
        yield getattr(F, name), formula
        yield getattr(torch, name), formula
    yield from ((F.batch_norm, _batch_norm), (torch.batch_norm, _raw(_batch_norm)))
    yield from ((F.instance_norm, _instance_norm), (torch.instance_norm, _raw(_instance_norm)))
    yield from ((F.embedding, _embedding), (torch.embedding, _raw_embedding), (F.embedding_bag, _embedding_bag))
    yield from ((F.glu, _glu), (torch._C._nn.glu, _glu), (torch._weight_norm, _weight_norm))
    yield F.hardsigmoid, _hardsigmoid
    yield F.scaled_dot_product_attention, _attention
    yield F.multi_head_attention_forward, _multi_head_attention
    yield from loss_formulas.functions()
    yield from recurrent.FORMULAS.items()


FORMULAS: dict[Any, Callable[..., Any]] = dict(_functions())
"""The formula of each operation, by the function of torch's that is called."""
