"""The layers that networks of DeepOBS 1.2 are written in: TensorFlow's padding for torch's layers.

With `tf_padding_type="same"` the height and the width after a layer are those before it, divided by the stride and
rounded up; what is padded is split evenly, and an odd one goes after. With None they are torch's own.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func.errors import ConfigError
from deepobs_func.nets.images import same_padding

_SAME = "same"


class tfconv2d(nn.Conv2d):  # noqa: N801  # DeepOBS's name
    """`nn.Conv2d` with TensorFlow's padding.

    Args:
        tf_padding_type: `"same"`, or None for none but that of `padding`.
        args, kwargs: of `nn.Conv2d`.

    Raises:
        ConfigError: there is no such type of padding.
    """

    def __init__(self, *args: Any, tf_padding_type: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tf_padding_type: str | None = _checked(tf_padding_type)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of images `x (B, C, H, W)`."""
        return super().forward(_padded(x, self, 0.0))


class tfmaxpool2d(nn.MaxPool2d):  # noqa: N801
    """`nn.MaxPool2d` with TensorFlow's padding, which pads with minus infinity.

    DeepOBS 1.2 pads with zeros, which is the same after a ReLU.

    Args:
        tf_padding_type: `"same"`, or None for none but that of `padding`.
        args, kwargs: of `nn.MaxPool2d`.

    Raises:
        ConfigError: there is no such type of padding.
    """

    def __init__(self, *args: Any, tf_padding_type: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tf_padding_type: str | None = _checked(tf_padding_type)

    def forward(self, x: Tensor) -> Tensor:
        """The maxima of images `x (B, C, H, W)`."""
        pooled: Tensor = super().forward(_padded(x, self, float("-inf")))
        return pooled


class tfconv2d_transpose(nn.ConvTranspose2d):  # noqa: N801
    """`nn.ConvTranspose2d` with TensorFlow's padding: height and width are multiplied by the stride.

    Args:
        tf_padding_type: `"same"`, or None for torch's own padding.
        args, kwargs: of `nn.ConvTranspose2d`.

    Raises:
        ConfigError: there is no such type of padding.
    """

    def __init__(self, *args: Any, tf_padding_type: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tf_padding_type: str | None = _checked(tf_padding_type)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """The transposed convolution of images `x (B, C, H, W)`; `output_size` is torch's own padding's."""
        if self.tf_padding_type is None:
            return super().forward(x, output_size)
        cut: list[int] = []  # of the last axis first, as `F.pad` takes it; a negative padding cuts off
        missing: list[int] = []  # of an axis whose windows leave gaps
        for size, kernel, stride in zip(x.shape[-2:], _extents(self), _pair(self.stride), strict=True):
            before = max(kernel - stride, 0) // 2
            missing.append(max(stride - kernel, 0))
            full = (size - 1) * stride + kernel + missing[-1]
            cut = [-before, size * stride + before - full, *cut]
        how = (_pair(self.stride), 0, tuple(missing), self.groups, _pair(self.dilation))
        return F.pad(F.conv_transpose2d(x, self.weight, self.bias, *how), cut)


class flatten(nn.Module):  # noqa: N801
    """`(B, ...) -> (B, n)`."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """The numbers of each example of `x (B, ...)` in a row."""
        return x.flatten(1)


class mean_allcnnc(nn.Module):  # noqa: N801
    """The mean over height and width, `(B, C, H, W) -> (B, C)`."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """The mean of images `x (B, C, H, W)`."""
        return x.mean((2, 3))


def _truncated_normal_init(tensor: Tensor, mean: float = 0.0, stddev: float = 1.0) -> Tensor:
    """Normal numbers in the shape of a tensor, drawn again beyond two standard deviations, by torch's generator."""
    bounds = (mean - 2 * stddev, mean + 2 * stddev)
    return nn.init.trunc_normal_(torch.empty_like(tensor), mean, stddev, *bounds)


def _checked(tf_padding_type: str | None) -> str | None:
    if tf_padding_type not in (None, _SAME):
        raise ConfigError(f'tf_padding_type {tf_padding_type!r}: it must be "same" or None.')
    return tf_padding_type


def _padded(x: Tensor, layer: tfconv2d | tfmaxpool2d, value: float) -> Tensor:
    if layer.tf_padding_type is None:
        return x
    how = zip(x.shape[-2:], _extents(layer), _pair(layer.stride), strict=True)
    (top, bottom), (left, right) = (same_padding(*each) for each in how)
    return F.pad(x, (left, right, top, bottom), value=value)


def _extents(layer: tfconv2d | tfmaxpool2d | tfconv2d_transpose) -> list[int]:
    """How many places a window reaches over, along height and width."""
    kernel, dilation = _pair(layer.kernel_size), _pair(layer.dilation)
    return [(size - 1) * step + 1 for size, step in zip(kernel, dilation, strict=True)]


def _pair(value: Any) -> tuple[int, int]:
    height, width = (value, value) if isinstance(value, int) else value
    return height, width


__all__ = ["flatten", "mean_allcnnc", "tfconv2d", "tfconv2d_transpose", "tfmaxpool2d"]
