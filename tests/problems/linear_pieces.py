"""Piecewise linear operations held at the piece they are on, so that differences of a net cross no kinks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


class LinearPieces(TorchDispatchMode):
    """Notes at one point which units of a net are on and which pixels are the largest, and holds on to it at others.

    At that point the function held equals the function itself, and, off the kinks, so do all its derivatives.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[Tensor] = []
        self.held: Iterator[Tensor] | None = None

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Within, every operation takes the piece that was noted in the same place."""
        self.held = iter(self.pieces)
        with self:
            yield
        assert next(self.held, None) is None  # every piece was taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (aten.relu.default, aten.leaky_relu.default):
            x, slope = args[0], args[1] if len(args) > 1 else 0.0
            return torch.where(self._piece(x > 0), x, slope * x)
        result = func(*args, **(kwargs or {}))
        if func is aten.max_pool2d_with_indices.default:
            indices = self._piece(result[1])
            return args[0].flatten(-2).gather(-1, indices.flatten(-2)).view_as(indices), indices
        return result

    def _piece(self, here: Tensor) -> Tensor:
        if self.held is None:
            self.pieces.append(here)
            return here
        return next(self.held)
