"""The layers of our nets as torch's own, and their tensors from one to the other.

Ours describe shapes and take every tensor as an argument; torch's hold their parameters, draw their dropout and move
their moments. Both compute the same function.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.errors import ConfigError
from deepobs_func.nets.images import pad_fully
from deepobs_func.nets.layers import BatchNorm, Conv, ConvTranspose, Dense, Layer, Pass
from deepobs_func.nets.noise import Dropout, Epsilon
from deepobs_func.nets.norms import GroupNorm, LayerNorm, Scale
from deepobs_func.nets.rnn import FORGET_BIAS, LSTM, Embedding, torch_order
from deepobs_func.nets.transformer import ClassToken, Positions

Tensors = dict[str, Tensor]


class Normal(nn.Module):
    """Standard normal numbers in the shape of its input, `(B, ...)`, in both phases: the VAE's epsilon."""

    def forward(self, like: Tensor) -> Tensor:
        return torch.randn_like(like)


class CarryingLSTM(nn.LSTM):
    """`nn.LSTM` of one layer, `(B, T, inputs) -> (B, T, hidden)`, whose state is in the pass.

    Its second bias is a constant, TensorFlow's forget bias of 1, since the reference trains one bias alone.
    """

    def __init__(self, inputs: int, hidden: int, path: str) -> None:
        super().__init__(inputs, hidden, batch_first=True, device="meta")
        self.path = path
        constant = self.get_parameter("bias_hh_l0").detach()
        del self.bias_hh_l0
        self.register_buffer("bias_hh_l0", constant)
        self._init_flat_weights()

    def forward(self, x: Tensor, p: Pass) -> Tensor:  # type: ignore[override]  # the state is in the pass
        zeros = x.new_zeros(x.shape[0], self.hidden_size)
        c, h = (p.carry_in.get(f"{self.path}.{name}", zeros) for name in ("c", "h"))
        y, (h, c) = super().forward(x, (h.unsqueeze(0), c.unsqueeze(0)))
        p.carry[f"{self.path}.c"], p.carry[f"{self.path}.h"] = c[0].detach(), h[0].detach()
        return y


class Twin(NamedTuple):
    """How a layer of ours becomes one of torch's.

    Attributes:
        make: makes it, on the meta device.
        to_torch: `tensors -> tensors`, by the names within the layer; all that torch's has.
        to_core: the inverse.
    """

    make: Callable[[Any], nn.Module]
    to_torch: Callable[[Tensors], Tensors] = dict
    to_core: Callable[[Tensors], Tensors] = dict


def torch_layer(layer: Layer) -> nn.Module:
    """Torch's layer of the same function, on the meta device; it takes the pass that ours takes, and ignores it.

    Raises:
        ConfigError: there is none.
    """
    made = twin_of(layer).make(layer)
    if not isinstance(made, CarryingLSTM | Layer):
        made.register_forward_pre_hook(_without_pass, prepend=True)
    return made


def twin_of(layer: Layer) -> Twin:
    """The row of a layer in the table of twins.

    Raises:
        ConfigError: it has none.
    """
    found = next((TWINS[each] for each in type(layer).__mro__ if each in TWINS), None)
    if found is None:
        raise ConfigError(f"Torch has no layer like {type(layer).__name__}; the problem cannot be one of compat.")
    return found


def _without_pass(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    return arguments[:1]


def _dense(layer: Dense) -> nn.Module:
    return nn.Linear(layer.weight.shape[1], layer.weight.shape[0], device="meta")


def _conv(layer: Conv) -> nn.Module:
    """Torch pads the same on all sides; TensorFlow's padding, where it is another, comes from a hook."""
    outputs, inputs = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    is_even = layer.stride == 1 and all(extent % 2 for extent in layer.kernel)
    padding = tuple(extent // 2 for extent in layer.kernel) if layer.padding == "same" and is_even else (0, 0)
    if isinstance(layer.padding, int):
        padding = (layer.padding, layer.padding)
    how: dict[str, Any] = {"padding": padding, "groups": layer.groups, "bias": layer.bias is not None, "device": "meta"}
    made = nn.Conv2d(inputs, outputs, layer.kernel, layer.stride, **how)
    if layer.padding == "same" and not is_even:
        made.register_forward_pre_hook(functools.partial(_padded, kernel=layer.kernel, stride=layer.stride))
    return made


def _padded(module: nn.Module, arguments: tuple[Any, ...], kernel: tuple[int, int], stride: int) -> tuple[Any, ...]:
    return (pad_fully(arguments[0], kernel, stride),)


def _conv_transpose(layer: ConvTranspose) -> nn.Module:
    inputs, outputs = layer.weight.shape[:2]
    crop = (layer.kernel - layer.stride) // 2
    made = nn.ConvTranspose2d(inputs, outputs, layer.kernel, layer.stride, padding=crop, device="meta")
    made.register_forward_hook(functools.partial(_cropped, stride=layer.stride))
    return made


def _cropped(module: nn.Module, arguments: tuple[Any, ...], y: Tensor, stride: int) -> Tensor:
    height, width = (size * stride for size in arguments[0].shape[-2:])
    return F.pad(y, (0, width - y.shape[-1], 0, height - y.shape[-2]))  # a negative padding cuts off


def _embedding(layer: Embedding) -> nn.Module:
    entries, width = layer.weight.shape
    return nn.Embedding(entries, width, device="meta")


def _batch_norm(layer: BatchNorm) -> nn.Module:
    """Torch's momentum is one minus TensorFlow's."""
    return nn.BatchNorm2d(len(layer.weight), eps=layer.epsilon, momentum=1 - layer.momentum, device="meta")


def _group_norm(layer: GroupNorm) -> nn.Module:
    return nn.GroupNorm(layer.groups, len(layer.weight), layer.epsilon, device="meta")


def _layer_norm(layer: LayerNorm) -> nn.Module:
    return nn.LayerNorm(len(layer.weight), layer.epsilon, device="meta")


def _moments_to_torch(tensors: Tensors) -> Tensors:
    seen = torch.zeros((), dtype=torch.int64, device=tensors["mean"].device)
    return _renamed(tensors, {"mean": "running_mean", "variance": "running_var"}) | {"num_batches_tracked": seen}


def _moments_to_core(tensors: Tensors) -> Tensors:
    kept = {name: tensor for name, tensor in tensors.items() if name != "num_batches_tracked"}
    return _renamed(kept, {"running_mean": "mean", "running_var": "variance"})


def _renamed(tensors: Tensors, names: Mapping[str, str]) -> Tensors:
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _lstm(layer: LSTM) -> nn.Module:
    return CarryingLSTM(layer.inputs, layer.hidden, layer.path)


def _gates_to_torch(tensors: Tensors) -> Tensors:
    """One weight of inputs and state, gates i, j, f, o, to torch's two, gates i, f, g, o."""
    weight, bias = torch_order(tensors["weight"]), torch_order(tensors["bias"])
    inputs = weight.shape[1] - len(bias) // 4
    names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    return dict(zip(names, (weight[:, :inputs], weight[:, inputs:], bias, _forget_bias(bias)), strict=True))


def _forget_bias(like: Tensor) -> Tensor:
    """The second bias, gates i, f, g, o."""
    hidden, constant = len(like) // 4, torch.zeros_like(like)
    constant[hidden : 2 * hidden] = FORGET_BIAS
    return constant


def _gates_to_core(tensors: Tensors) -> Tensors:
    """The inverse; the order of the gates is that of two exchanged, so it is its own inverse.

    Whatever the second bias holds beyond the constant goes into the one bias. The constant is taken from the second
    bias, where the difference is exact; from the sum it would cost the last bits of the first one.
    """
    second = tensors["bias_hh_l0"]
    bias = torch_order(tensors["bias_ih_l0"] + (second - _forget_bias(second)))
    weight = torch.cat((tensors["weight_ih_l0"], tensors["weight_hh_l0"]), dim=1)
    return {"weight": torch_order(weight), "bias": bias}


TWINS: Mapping[type[Layer], Twin] = {
    Dense: Twin(_dense),
    Conv: Twin(_conv),
    ConvTranspose: Twin(_conv_transpose),
    BatchNorm: Twin(_batch_norm, _moments_to_torch, _moments_to_core),
    Embedding: Twin(_embedding),
    GroupNorm: Twin(_group_norm),
    LayerNorm: Twin(_layer_norm),
    # Torch has none of these; ours computes with the parameters that it holds.
    **dict.fromkeys((Scale, Positions, ClassToken), Twin(copy.deepcopy)),
    LSTM: Twin(_lstm, _gates_to_torch, _gates_to_core),
    Dropout: Twin(lambda layer: nn.Dropout(1 - layer.keep)),
    Epsilon: Twin(lambda layer: Normal()),
}
