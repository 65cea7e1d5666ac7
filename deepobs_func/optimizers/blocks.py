"""Kronecker-factored blocks of curvature: a matrix for the rows and one for the columns of every parameter.

A parameter with two axes or more is a matrix W `(m, n)`, m being the length of its first axis. Its block of the Fisher
matrix is approximated by `R (m, m)` and `C (n, n)`: `F vec(V) = vec(R V C)`. A scalar or vector, such as a bias, has
the diagonal of its block. A side that is longer than a bound is diagonal, too. Kept by the name of the parameter and
`rows`, `columns` or `squares`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepobs_func.base import Outer, Params
from deepobs_func.optimizers.axes import eigh, fresh, wide
from deepobs_func.probes.outer_products import LayerGradients
from deepobs_func.tree import Tree

SMALL = 256  # rows of a matrix that LAPACK inverts


def sides(name: str) -> tuple[str, str]:
    """The names of a matrix's two factors."""
    return f"{name}/rows", f"{name}/columns"


def squares_of(name: str) -> str:
    """The name of the diagonal of a vector's block, and of a matrix's in the eigenbasis."""
    return f"{name}/squares"


def zero_factors(params: Params, max_dim: int) -> Tree:
    """Factors of no curvature."""
    found = {}
    for name, leaf in params.items():
        if leaf.ndim < 2:
            found[squares_of(name)] = torch.zeros_like(leaf, dtype=wide(leaf))
            continue
        m = leaf.shape[0]
        for side, size in zip(sides(name), (m, leaf.numel() // m), strict=True):
            found[side] = leaf.new_zeros((size, size) if size <= max_dim else (size,), dtype=wide(leaf))
    return found


def factors_of(found: LayerGradients, like: Tree) -> Tree:
    """`R = 1/N sum_n r_n r_n^T` and `C = 1/(N T) sum c_n c_n^T`, or the mean of squares; `like` as it is elsewhere.

    For gradients that are no outer products, `(N, m, n)`, `R = 1/N sum G G^T` and `C = 1/N sum G^T G / tr R`.
    """
    factors = dict(like)
    for name, grads in found.grads.items():
        if squares_of(name) in like:
            whole = grads.product().squeeze(2) if isinstance(grads, Outer) else grads
            factors[squares_of(name)] = whole.to(like[squares_of(name)].dtype).square().sum(0) / found.examples
            continue
        rows, columns = sides(name)
        if isinstance(grads, Outer):
            factors[rows] = _moment(grads.rows, like[rows]) / found.examples
            factors[columns] = _moment(grads.columns, like[columns]) / (grads.rows.shape[0] * grads.sizes[2])
        else:
            whole = grads.reshape(len(grads), grads.shape[1], -1)
            factors[rows] = _moment(whole, like[rows]) / found.examples
            trace = whole.to(like[rows].dtype).square().sum() / found.examples
            columns_of = _moment(whole.transpose(1, 2), like[columns]) / found.examples
            factors[columns] = torch.where(trace > 0, columns_of / trace, columns_of)
    return factors


def _moment(x: Tensor, like: Tensor) -> Tensor:
    """`sum_{n, t} x_nt x_nt^T` of `(N, m, T)`, or its diagonal."""
    rows = x.to(like.dtype).transpose(1, 2).reshape(-1, x.shape[1])
    return rows.square().sum(0) if like.ndim == 1 else rows.transpose(0, 1) @ rows


def inverses_of(factors: Tree, damping: Tensor) -> Tree:
    """`(R + sqrt(damping) / pi I)^-1` and `(C + pi sqrt(damping) I)^-1`, `pi^2 = (tr C / n) / (tr R / m)`.

    Of a diagonal, `1 / (squares + damping)`.
    """
    found = {}
    for name, factor in factors.items():
        own, _, side = name.rpartition("/")
        if side == "squares":
            found[name] = 1 / (factor + damping.to(factor.dtype))
        if side != "rows":
            continue
        rows, columns = sides(own)
        means = [_mean_of_diagonal(factors[each]) for each in (rows, columns)]
        pi = torch.where((means[0] > 0) & (means[1] > 0), torch.sqrt(means[1] / means[0]), 1.0)
        root = torch.sqrt(damping).to(factor.dtype)
        found[rows] = _damped_inverse(factors[rows], root / pi)
        found[columns] = _damped_inverse(factors[columns], root * pi)
    return {name: found[name] for name in factors}


def _mean_of_diagonal(factor: Tensor) -> Tensor:
    return factor.mean() if factor.ndim == 1 else factor.diagonal().mean()


def _damped_inverse(factor: Tensor, damping: Tensor) -> Tensor:
    if factor.ndim == 1:
        return 1 / (factor + damping)
    # Not by `torch.eye`, of which Inductor computes each number by itself: 7 ms for 1000 rows.
    return fresh(_inverse(torch.diagonal_scatter(factor, factor.diagonal() + damping)))


def _inverse(matrix: Tensor) -> Tensor:
    """NaN where the matrix is not positive definite, without an exception: a run, or a member of it, may diverge.

    A large matrix `[[A, B], [B^T, D]]` has `S = D - B^T A^-1 B` and, with `Y = A^-1 B S^-1`, the inverse
    `[[A^-1 + Y (A^-1 B)^T, -Y], [-Y^T, S^-1]]`: nearly all of it products.
    """
    if len(matrix) <= SMALL:
        lower, info = torch.linalg.cholesky_ex(matrix)
        return torch.cholesky_inverse(torch.where(info == 0, lower, torch.nan)).transpose(0, 1)  # lies row by row
    half = len(matrix) // 2
    beside = matrix[:half, half:]
    first = _inverse(matrix[:half, :half])
    across = first @ beside
    second = _inverse(matrix[half:, half:] - beside.transpose(0, 1) @ across)
    off = across @ second
    above = torch.cat([first + off @ across.transpose(0, 1), -off], dim=1)
    return torch.cat([above, torch.cat([-off.transpose(0, 1), second], dim=1)])


def solved(rows: Tensor, inverse: Tensor) -> Tensor:
    """`rows A^-1`, `(k, n)`, of a factor A `(n, n)` with its damping, by what `inverses_of` has found."""
    return rows * inverse if inverse.ndim == 1 else rows @ inverse


def bases_of(factors: Tree) -> Tree:
    """Eigenvectors of the factors, in columns; ones where a factor is diagonal, whose eigenvectors are the axes."""
    return {
        name: fresh(eigh(factor)[1]) if factor.ndim == 2 else torch.ones_like(factor)
        for name, factor in factors.items()
        if not name.endswith("/squares")
    }


def squares_in(found: LayerGradients, bases: Tree, like: Tree) -> Tree:
    """The mean square of the gradients in the eigenbases of their factors; `like` as it is where there are none."""
    squares = dict(like)
    for name, grads in found.grads.items():
        place, dtype = squares_of(name), like[squares_of(name)].dtype
        if sides(name)[0] not in bases:
            whole = grads.product().squeeze(2) if isinstance(grads, Outer) else grads
            squares[place] = whole.to(dtype).square().sum(0) / found.examples
            continue
        left, right = (bases[side] for side in sides(name))
        if not isinstance(grads, Outer):
            whole = grads.to(dtype).reshape(len(grads), grads.shape[1], -1)
            turned = _turned(_turned(whole, left).transpose(1, 2), right).transpose(1, 2)
            squares[place] = turned.square().sum(0) / found.examples
            continue
        rows, columns = _turned(grads.rows.to(dtype), left), _turned(grads.columns.to(dtype), right)
        if grads.sizes[2] == 1:
            total = rows.squeeze(2).square().transpose(0, 1) @ columns.squeeze(2).square()
        else:
            total = (rows @ columns.transpose(1, 2)).square().sum(0)
        squares[place] = total / found.examples
    return squares


def _turned(x: Tensor, basis: Tensor) -> Tensor:
    """`Q^T x` of `(N, m, T)`."""
    return x if basis.ndim == 1 else basis.transpose(0, 1) @ x


def multiplied(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """`L W R`, each of them a matrix or, by its diagonal, diagonal."""
    matrix = left.unsqueeze(1) * matrix if left.ndim == 1 else left @ matrix
    return matrix * right if right.ndim == 1 else matrix @ right
