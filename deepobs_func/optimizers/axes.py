"""Matrices that act on the axes of parameters, as Shampoo and SOAP have them.

A parameter `(d_1, ..., d_n)` has a matrix `(d_k, d_k)` for each axis that is not too long; they are kept by the name of
the parameter and the number of the axis. Inside a branch of `torch.cond`, an operand must not be transposed by `.mT`,
which Dynamo takes for a second input that is the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from deepobs_func.base import Params
from deepobs_func.tree import Tree


def axes_of(shape: torch.Size, max_dim: int, *, vectors: bool) -> list[int]:
    """The axes that have a matrix: those of up to `max_dim`, of matrices and above, or of vectors too."""
    if len(shape) < (1 if vectors else 2):
        return []
    return [axis for axis, size in enumerate(shape) if size <= max_dim]


def name_of(name: str, axis: int) -> str:
    """The name of a parameter's matrix."""
    return f"{name}/{axis}"


def matrices_like(params: Params, max_dim: int, *, vectors: bool, make: Callable[[Tensor, int], Tensor]) -> Tree:
    """A matrix for each axis that has one, `make(leaf, size)`; in float32 at least, as LAPACK wants it."""
    return {
        name_of(name, axis): make(leaf, leaf.shape[axis])
        for name, leaf in params.items()
        for axis in axes_of(leaf.shape, max_dim, vectors=vectors)
    }


def wide(leaf: Tensor) -> torch.dtype:
    """The type in which matrices of a parameter are computed."""
    return torch.promote_types(leaf.dtype, torch.float32)


def unfolded(leaf: Tensor, axis: int) -> Tensor:
    """`(d_axis, the rest)`."""
    return leaf.movedim(axis, 0).reshape(leaf.shape[axis], -1)


def grams(grads: Params, like: Mapping[str, Tensor]) -> Tree:
    """`G_k G_k^T` of the unfolded gradients, for each axis that has a matrix."""
    found = {}
    for name, grad in grads.items():
        for axis in range(grad.ndim):
            if name_of(name, axis) in like:
                rows = unfolded(grad.to(like[name_of(name, axis)].dtype), axis)
                found[name_of(name, axis)] = rows @ rows.transpose(0, 1)
    return found


def rotated(grads: Params, matrices: Mapping[str, Tensor], *, back: bool = False) -> Params:
    """Each axis times its matrix: `sum_i G_..i.. Q_ij`, or `sum_i G_..i.. Q_ji` back."""
    found = {}
    for name, grad in grads.items():
        turned = grad
        for axis in range(grad.ndim):
            matrix = matrices.get(name_of(name, axis))
            if matrix is not None:
                turned = _along(turned.to(matrix.dtype), matrix.transpose(0, 1) if back else matrix, axis)
        found[name] = turned.to(grad.dtype)
    return found


def _along(leaf: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """`sum_i leaf_..i.. matrix_ij`, in place of the axis; of a matrix without a copy."""
    if leaf.ndim == 2:
        return leaf @ matrix if axis else matrix.transpose(0, 1) @ leaf
    return (leaf.movedim(axis, -1) @ matrix).movedim(-1, axis)


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, rising, and eigenvectors; of zeros where it is not finite, so that a run may diverge."""
    finite = matrix.isfinite().all()
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, torch.zeros_like(matrix)))
    return values, vectors


def fresh(matrix: Tensor) -> Tensor:
    """Memory of its own, row by row: what both branches of `torch.cond` return."""
    return matrix.clone(memory_format=torch.contiguous_format)
