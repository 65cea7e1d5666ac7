"""Functions of images without parameters, `(B, C, H, W)`: TensorFlow's padding, pooling, resize and flattening."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.backend.eager import is_traced
from deepobs_func.backend.kernels import current


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `SAME` along one axis: `(before, after)`; the odd one goes after.

    `total = max((ceil(size / stride) - 1) stride + kernel - size, 0)`, of which `total // 2` before.

    >>> same_padding(28, 4, 2), same_padding(7, 4, 1), same_padding(32, 3, 2)
    ((1, 1), (1, 2), (0, 1))
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def pad_same(x: Tensor, kernel: tuple[int, int], stride: int, value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """Pads what is asymmetric by hand; what is symmetric is left to the kernel, which pads for free."""
    (top, bottom), (left, right) = (
        same_padding(size, extent, stride) for size, extent in zip(x.shape[-2:], kernel, strict=True)
    )
    if top == bottom and left == right:
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def pad_fully(x: Tensor, kernel: tuple[int, int], stride: int) -> Tensor:
    """Pads all by hand, with zeros."""
    x, (height, width) = pad_same(x, kernel, stride)
    return F.pad(x, (width, width, height, height)) if height or width else x


def max_pool(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Max pooling with `SAME` padding, which pads with minus infinity.

    One row and column after the last are those that windows reach beyond the edge under `ceil_mode`, without a copy.
    Where nothing is differentiated, maxima of slices are taken: torch's loop for the CPU, which notes where each
    maximum lies, takes 10 times as long.
    """
    if _is_evaluated(x) and not any(same_padding(size, kernel, stride)[0] for size in x.shape[-2:]):
        return _max_of_slices(_max_of_slices(x, -2, kernel, stride), -1, kernel, stride)
    if stride > 1 and all(same_padding(size, kernel, stride) == (0, 1) for size in x.shape[-2:]):
        return F.max_pool2d(x, kernel, stride, ceil_mode=True)
    x, padding = pad_same(x, (kernel, kernel), stride, value=float("-inf"))
    return F.max_pool2d(x, kernel, stride, padding)


def _is_evaluated(x: Tensor) -> bool:
    """Whether it is a plain tensor of the CPU in an evaluation: there is no derivative, no transform, no compiler."""
    plain = not is_traced() and not x.requires_grad
    return current().fused and plain and x.device.type == "cpu" and x.is_contiguous()


def _max_of_slices(x: Tensor, axis: int, kernel: int, stride: int) -> Tensor:
    """Maxima along an axis of windows that begin at 0, stride, and so on, and are cut off at the edge."""
    slices = [x.transpose(axis, -1)[..., start::stride].transpose(axis, -1) for start in range(kernel)]
    result = slices[0].clone()
    for other in slices[1:]:
        part = result.narrow(axis, 0, other.shape[axis])
        torch.maximum(part, other, out=part)
    return result


def resize_bilinear(x: Tensor, height: int, width: int) -> Tensor:
    """TensorFlow 1's bilinear resize, `(B, C, H, W) -> (B, C, height, width)`, which no mode of torch's computes.

    Along an axis of n to m: `source = i n / m` in float32, between `floor(source)` and the next one (the last at the
    edge), so pixel centres are not aligned. Each axis is one product with a sparse `(m, n)` matrix.
    """
    rows, columns = (_resize_matrix(n, m, x) for n, m in zip(x.shape[-2:], (height, width), strict=True))
    return rows @ x @ columns.mT


def _resize_matrix(size: int, target: int, like: Tensor) -> Tensor:
    if size == target:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    source = torch.arange(target, dtype=torch.float32, device=like.device) * (size / target)
    low = source.floor()
    fraction = (source - low).to(like.dtype).unsqueeze(1)
    index = torch.arange(size, device=like.device)
    at_low = (index == low.long().unsqueeze(1)).to(like.dtype)
    at_high = (index == (low.long() + 1).clamp(max=size - 1).unsqueeze(1)).to(like.dtype)
    return at_low * (1 - fraction) + at_high * fraction


def flatten(x: Tensor) -> Tensor:
    """`(B, C, H, W) -> (B, H W C)`, the order in which TensorFlow flattens, so that its dense kernels fit."""
    return x.permute(0, 2, 3, 1).flatten(1)
