"""Damped linear solves with a curvature matrix."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from deepobs_func import tree
from deepobs_func.errors import ConfigError
from deepobs_func.probes.contract import checked_count, count_vectors, is_known_to_hold
from deepobs_func.tree import Tree

Product = Callable[[Tree], Tree]


class Solution(NamedTuple):
    """The result of conjugate gradients.

    Attributes:
        x: the solution so far, a tree like the right-hand side.
        residual: `|b - (A + damping I) x|`, as the iteration updates it, 0-d.
        steps: how many of the steps moved x, 0-d.
        converged: whether the residual is finite and at most `tol |b|`, 0-d.
        negative_curvature: whether a direction p with `p . (A + damping I) p <= 0` ended the iteration, 0-d; then x is
            the solution before it.
    """

    x: Tree
    residual: Float[Tensor, ""]
    steps: Int[Tensor, ""]
    converged: Bool[Tensor, ""]
    negative_curvature: Bool[Tensor, ""]


class _Iterate(NamedTuple):
    """The state of the iteration: solution, residual, direction, `residual . preconditioned residual`, counters."""

    x: Tree
    residual: Tree
    direction: Tree
    slope: Tensor
    steps: Tensor
    negative: Tensor


def conjugate_gradients(
    matvec: Product,
    b: Tree,
    *,
    damping: float | Tensor = 0.0,
    tol: float | Tensor = 1e-5,
    max_steps: int = 100,
    x0: Tree | None = None,
    preconditioner: Product | None = None,
) -> Solution:
    """Solves `(A + damping I) x = b` by preconditioned conjugate gradients.

    In eager code it stops when it has converged; under `vmap` and in a compiled graph it runs all steps, of which those
    after the end change nothing.

    Args:
        matvec: `v -> A v`, symmetric; a `LinearMap` from `make_hvp` or `make_ggnvp`, or any function on trees.
        b: the right-hand side.
        damping: added to the diagonal; a number or a 0-d tensor, 0 or more.
        tol: converged when the residual is at most `tol |b|`; a number or a 0-d tensor.
        max_steps: the largest number of steps, each with one product.
        x0: where to start; 0 by default.
        preconditioner: `r -> M r`, symmetric positive definite, an approximate inverse of `A + damping I`.

    Returns:
        The solution and how it was found.

    Raises:
        ConfigError: `x0` does not match `b`, or a number is out of its range.

    Source: M. Hestenes and E. Stiefel, J. Res. Nat. Bur. Standards 1952; with negative curvature as in J. Nocedal and
    S. Wright, "Numerical Optimization", 2006, algorithm 7.1.

    >>> from deepobs_func import probes, problems, tree
    >>> problem = problems.get("quadratic_deep")
    >>> params, _ = problem.init()
    >>> batch = problem.fake_batch(4)
    >>> hessian = probes.make_hvp(problem, params, batch)
    >>> newton = conjugate_gradients(hessian, tree.scale(-1.0, params), damping=1.0, tol=1e-3)
    >>> newton.converged
    tensor(True)
    """
    _check_numbers(damping, tol, max_steps)
    shift = torch.as_tensor(damping, dtype=torch.float64, device=next(iter(b.values())).device)
    if x0 is not None and count_vectors(b, x0) is not None:
        raise ConfigError("x0 holds several vectors and b one; solve for several with torch.func.vmap.")
    approximate = preconditioner or (lambda v: v)

    def damped(v: Tree) -> Tree:
        return _plus(matvec(v), shift, v)

    goal = tol * tree.norm(b)
    residual = b if x0 is None else tree.sub(b, damped(x0))
    direction = approximate(residual)
    slope = tree.dot(residual, direction)
    none = torch.zeros_like(slope, dtype=torch.bool)
    now = _Iterate(tree.zeros_like(b) if x0 is None else x0, residual, direction, slope, none.to(torch.int64), none)
    for _ in range(max_steps):
        active = (tree.norm(now.residual) > goal) & ~now.negative
        if is_known_to_hold(~active):
            break
        now = _step(now, damped, approximate, active)
    size = tree.norm(now.residual)
    return Solution(now.x, size, now.steps, (size <= goal) & size.isfinite(), now.negative)


def _step(now: _Iterate, damped: Product, approximate: Product, active: Tensor) -> _Iterate:
    """One step; where it is not active, or meets negative curvature, nothing moves."""
    image = damped(now.direction)
    curvature = tree.dot(now.direction, image)
    moves = active & (curvature > 0)
    length = torch.where(moves, now.slope / curvature, 0.0)  # finite, as the direction is: x needs no mask of its own
    residual = tree.map(
        lambda new, old: torch.where(moves, new, old), _plus(now.residual, -length, image), now.residual
    )
    preconditioned = approximate(residual)
    slope = tree.dot(residual, preconditioned)
    direction = _plus(preconditioned, torch.where(moves, slope / now.slope, 0.0), now.direction)
    negative = now.negative | (active & ~moves)
    return _Iterate(_plus(now.x, length, now.direction), residual, direction, slope, now.steps + moves, negative)


def _plus(a: Tree, factor: Tensor, b: Tree) -> Tree:
    """`a + factor b`, in one pass over the memory."""
    return tree.map(lambda p, q: torch.addcmul(p, q, factor.to(p.dtype)), a, b)


def _check_numbers(damping: float | Tensor, tol: float | Tensor, max_steps: int) -> None:
    if not isinstance(damping, Tensor) and not 0 <= damping < math.inf:
        raise ConfigError(f"damping is {damping!r}; it must be 0 or more and finite.")
    if not isinstance(tol, Tensor) and not 0 <= tol < math.inf:
        raise ConfigError(f"tol is {tol!r}; it must be 0 or more and finite.")
    checked_count("max_steps", max_steps, 1)
