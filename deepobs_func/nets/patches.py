"""Per-example gradients of a convolution's weight: outer products of its output gradients and patches of its input.

Those of a convolution of several groups are computed as they are: a depthwise kernel is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_weight, conv3d_weight

from deepobs_func.base import Outer


class Patches(Outer):
    """Factors of a convolution's weight whose columns, the patches `(B, C k k, T)`, are cut when they are asked for.

    Args:
        g: the gradient of each example's loss by the output, `(B, outputs, H', W')`; `T = H' W'`.
        x: the input, `(B, C, H, W)`.
        kernel, stride, padding, dilation: of the convolution.
    """

    def __init__(
        self,
        g: Tensor,
        x: Tensor,
        kernel: tuple[int, int],
        stride: int | tuple[int, int],
        padding: tuple[int, int],
        dilation: int | tuple[int, int] = 1,
    ) -> None:
        self._g, self._x = g, x
        self._kernel, self._stride, self._padding, self._dilation = kernel, stride, padding, dilation
        self.rows = g.flatten(2)

    @property
    def columns(self) -> Tensor:
        """Computed at each access."""
        return F.unfold(self._x, self._kernel, self._dilation, self._padding, self._stride)

    @property
    def sizes(self) -> tuple[int, int, int]:
        height, width = self._kernel
        return self._g.shape[1], self._x.shape[1] * height * width, self._g.shape[2] * self._g.shape[3]

    @property
    def columns_made(self) -> int:
        _, n, t = self.sizes
        return n * t

    @property
    def columns_for_product(self) -> int:
        return 0 if self._in_groups else self.columns_made

    @property
    def _in_groups(self) -> bool:
        return self._g.device.type == "cpu"

    def product(self) -> Tensor:
        """On a CPU by one convolution with a group for each example, which needs no patches.

        oneDNN takes a third to a half of the time of patches and a batched product: on one core, 128 examples at a few
        at once, 160 in place of 370 ms for a layer of All-CNN-C (192 x 192 x 3 x 3 on 16 x 16), 17 in place of 42 ms
        for one of 3c3d (64 -> 96 on 14 x 14).
        """
        if not self._in_groups:
            return super().product()
        m, n, _ = self.sizes
        count, channels = self._x.shape[:2]
        grads = conv2d_weight(
            self._x.flatten(0, 1).unsqueeze(0),
            (count * m, channels, *self._kernel),
            self._g.flatten(0, 1).unsqueeze(0),
            self._stride,
            self._padding,
            self._dilation,
            groups=count,
        )
        return grads.view(count, m, n)


def of_groups(
    x: Tensor, g: Tensor, shape: Sequence[int], stride: Any, padding: Any, dilation: Any = 1, *, groups: int
) -> Tensor:
    """The gradients of a weight, by one convolution with a group for each example and each group of its channels.

    Args:
        x: the input, `(B, C, H, W)`, or `(B, C, D, H, W)`.
        g: the gradient of each example's loss by the output.
        shape: of the weight.
        stride, padding, dilation: of the convolution.
        groups: of its channels.

    Returns:
        `(B, *shape)`.
    """
    size, extent = len(x), tuple(shape[2:]) if len(shape) == x.ndim else (1, *shape[2:])
    of_weight = conv2d_weight if x.ndim == 4 else conv3d_weight
    found = of_weight(
        x.flatten(0, 1).unsqueeze(0),
        (size * shape[0], shape[1], *extent),
        g.flatten(0, 1).unsqueeze(0),
        stride,
        padding,
        dilation,
        groups=size * groups,
    )
    return found.view(size, *shape)
