"""The 100-dimensional quadratic and the two-dimensional test functions: nets whose output is where they stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Outer
from deepobs_func.nets.initializers import Initializer, constant
from deepobs_func.nets.layers import Layer, Pass

DIM = 100


def rotation(r: np.random.RandomState, dim: int) -> np.ndarray:
    """A Haar-random rotation in SO(dim), by the subgroup algorithm of Diaconis and Shahshahani (1987).

    Source: `random_rotation` of DeepOBS 1.1.2, draw for draw.
    """
    angle = 2 * np.pi * r.uniform()
    result = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for size in range(2, dim):
        v = r.normal(size=(size + 1, 1))
        v /= np.linalg.norm(v)
        x = np.eye(size + 1, 1) - v
        x /= np.linalg.norm(x)
        embedded = np.eye(size + 1)
        embedded[1:, 1:] = result
        result = embedded - 2 * x @ (x.T @ embedded)
    return -result


def hessian() -> np.ndarray:
    """The Hessian of `quadratic_deep`, `(100, 100)` float64: `R^T diag(eigenvalues) R`.

    90 eigenvalues from U(0, 1) and 10 from U(30, 60), all from `RandomState(42)`. DeepOBS 1.1.2 draws from a generator
    of the module, so a second instance in one process gets another Hessian; here it is always the first one.
    """
    r = np.random.RandomState(42)
    eigenvalues = np.concatenate((r.uniform(0, 1, DIM - 10), r.uniform(30, 60, 10)))
    rotated = rotation(r, DIM)
    return rotated.T @ np.diag(eigenvalues) @ rotated


def _hessian(key: random.Key, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.as_tensor(hessian(), dtype=dtype, device=key.device)


class Quadratic(Layer):
    """`theta - x`, `(B, 100)`; theta starts at ones. Source: `quadratic_deep.py` of DeepOBS 1.1.2."""

    theta: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.declare("theta", (DIM,), constant(1.0))
        self.declare_constant(
            "hessian", (DIM, DIM), Initializer("90 eigenvalues from U(0, 1), 10 from U(30, 60)", _hessian)
        )

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        return p.tapped(self, x, self.theta - x)

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"theta": g}


class Point(Layer):
    """The point `(u, v)` itself for each example, `(B, 2)`. Source: `two_d_*.py` of DeepOBS 1.1.2.

    Where it may be shared (`Pass.shared`) it is returned once, as two 0-d tensors, so that nothing is stacked and
    expanded on the way there and back.

    Args:
        u, v: where it starts.
    """

    u: Tensor
    v: Tensor

    def __init__(self, u: float, v: float) -> None:
        super().__init__()
        self.declare("u", (), constant(u))
        self.declare("v", (), constant(v))

    def forward(self, x: Tensor, p: Pass) -> Tensor | tuple[Tensor, Tensor]:
        if p.shared:
            return self.u, self.v
        return p.tapped(self, x, torch.stack((self.u, self.v)).expand(x.shape[0], 2))

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"u": g[:, 0], "v": g[:, 1]}
