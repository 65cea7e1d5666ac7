"""Eigenvalues and the spectral density of a curvature matrix."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, UserError, unknown
from deepobs_func.probes.contract import LossOrProblem, checked_count, checked_key, draw, is_known_to_hold
from deepobs_func.probes.curvature import Matrix, linear_map
from deepobs_func.probes.lanczos import Tridiagonal, lanczos
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.tree import Tree

Which = Literal["largest", "smallest", "magnitude", "both"]
WHICH = ("largest", "smallest", "magnitude", "both")


class Eigenpairs(NamedTuple):
    """Some eigenvalues of a symmetric matrix.

    Attributes:
        values: `(k,)`, descending (by magnitude for `which="magnitude"`).
        residuals: `|A u - value u|` of the unit Ritz vectors, `(k,)`: an eigenvalue lies within that distance.
        vectors: the Ritz vectors, a tree with a leading axis of k; None if not asked for.
    """

    values: Float[Tensor, " k"]
    residuals: Float[Tensor, " k"]
    vectors: Tree | None


class SpectralDensity(NamedTuple):
    """The spectral density of a symmetric matrix.

    Attributes:
        grid: where the density is given, `(points,)`.
        density: `(points,)`, with integral 1.
        nodes, weights: the quadrature of each sample, `(samples, steps)`; weights add up to 1 in each row.
        width: the standard deviation of the Gaussians, 0-d.
    """

    grid: Float[Tensor, " points"]
    density: Float[Tensor, " points"]
    nodes: Float[Tensor, "samples steps"]
    weights: Float[Tensor, "samples steps"]
    width: Float[Tensor, ""]


def lanczos_eigenvalues(
    subject: LossOrProblem | LinearMap,
    params: Params | None = None,
    batch: Any = None,
    *,
    k: int = 1,
    which: Which = "largest",
    steps: int | None = None,
    tolerance: float | None = None,
    vectors: bool = False,
    matrix: Matrix | None = None,
    key: random.Key | None = None,
) -> Eigenpairs:
    """The k extreme eigenvalues, by Lanczos with full reorthogonalisation.

    Args:
        subject: a loss or a Problem, whose Hessian is taken, or any `LinearMap` alone.
        params, batch: the point.
        k: how many eigenvalues.
        which: `"largest"`, `"smallest"`, the largest in `"magnitude"`, or `"both"` ends (half of k from each, one more
            from the upper end where k is odd).
        steps: the largest number of matrix-vector products; `2 k + 30` by default, and never more than P.
        tolerance: in eager code, stop as soon as every residual is at most `tolerance` times the largest magnitude.
            None runs all steps. (Under `vmap` and in a compiled graph all steps run anyway.)
        vectors: whether to return the eigenvectors.
        matrix: `"hessian"` (the default) or `"ggn"` of a loss.
        key: for the start vector; a fixed one by default.

    Returns:
        Values, residuals and vectors. Lanczos sees an eigenvalue of higher multiplicity once, until the Krylov space
        is exhausted.

    Raises:
        ConfigError: an argument is out of its range, or unknown, or does not fit the subject.
        UserError: the tolerance was not reached.

    Source: C. Lanczos 1950; Y. Saad, "Numerical Methods for Large Eigenvalue Problems", 2011.

    >>> from deepobs_func import problems
    >>> problem = problems.get("quadratic_deep")
    >>> params, _ = problem.init()
    >>> batch = problem.fake_batch(4)
    >>> lanczos_eigenvalues(problem, params, batch, k=2, tolerance=1e-4).values.round(decimals=2)
    tensor([53.1300, 52.8200])
    """
    operator = linear_map(subject, params, batch, matrix)
    checked_count("k", k, 1, operator.size)
    limit = min(2 * k + 30, operator.size) if steps is None else checked_count("steps", steps, k, operator.size)
    if which not in WHICH:
        raise ConfigError(unknown("end of the spectrum", str(which), WHICH))

    def stop(found: Tridiagonal) -> bool:
        if tolerance is None or len(found.alphas) < k:
            return False
        values, residuals, _ = _ritz(found, k, which)
        return is_known_to_hold(_excess(values, residuals, tolerance) <= 0)

    first = next(iter(operator.like.values()))
    key = random.key(0, first.device) if key is None else key
    start = tree.flatten(draw(checked_key(key, "Lanczos"), operator.like, "normal"))
    found = lanczos(operator.flat, start, limit, stop)
    values, residuals, coordinates = _ritz(found, k, which)
    if tolerance is not None and is_known_to_hold(_excess(values, residuals, tolerance) > 0):
        raise UserError(
            f"Lanczos did not reach the tolerance {tolerance} in {limit} steps; the residuals are "
            f"{residuals.tolist()}. Allow more steps=, or a larger tolerance."
        )
    if not vectors:
        return Eigenpairs(values, residuals, None)
    rows = coordinates @ found.basis  # (k, P)
    return Eigenpairs(values, residuals, torch.func.vmap(lambda row: tree.unflatten(row, operator.like))(rows))


def spectral_density(
    subject: LossOrProblem | LinearMap,
    params: Params | None = None,
    batch: Any = None,
    *,
    key: random.Key | None = None,
    samples: int = 10,
    steps: int | None = None,
    points: int = 1024,
    width: float | None = None,
    matrix: Matrix | None = None,
) -> SpectralDensity:
    """The spectral density by stochastic Lanczos quadrature.

    Formula: `phi(t) = 1/S sum_s sum_i w_si N(t; theta_si, width^2)`, where theta and w are the eigenvalues, and the
    squared first components of the eigenvectors, of the tridiagonal matrix of a run from a random unit vector.

    Args:
        subject: a loss or a Problem, whose Hessian is taken, or any `LinearMap` alone.
        params, batch: the point.
        key: for the start vectors.
        samples: S, runs of Lanczos.
        steps: products of each run; by default 90, and never more than P.
        points: of the grid, which extends five widths beyond the outermost nodes.
        width: the standard deviation of the Gaussians; by default a hundredth of the nodes' range, or
            1e-4 of their largest magnitude where that is more.
        matrix: `"hessian"` (the default) or `"ggn"` of a loss.

    Returns:
        The density on a grid, and the quadrature that it is made of.

    Raises:
        ConfigError: the key is missing, or an argument is out of its range.

    Source: B. Ghorbani, S. Krishnan and Y. Xiao, "An investigation into neural net optimization via Hessian eigenvalue
    density", ICML 2019; V. Papyan, "The full spectrum of deepnet Hessians at scale", 2018.

    >>> from deepobs_func import problems, random
    >>> problem = problems.get("quadratic_deep")
    >>> params, _ = problem.init()
    >>> batch = problem.fake_batch(4)
    >>> found = spectral_density(problem, params, batch, key=random.key(0), samples=2, steps=10)
    >>> round(float(torch.trapezoid(found.density, found.grid)), 3)
    1.0
    """
    operator = linear_map(subject, params, batch, matrix)
    key = checked_key(key, "spectral_density")
    checked_count("samples", samples, 1)
    checked_count("points", points, 2)
    limit = min(90, operator.size) if steps is None else checked_count("steps", steps, 1, operator.size)
    if width is not None and not 0 < width < math.inf:
        raise ConfigError(f"width is {width!r}; it must be positive and finite.")
    rules = []
    for each in random.split(key, samples):
        values, vectors = lanczos(operator.flat, tree.flatten(draw(each, operator.like, "normal")), limit).eigh()
        rules.append((values, vectors[0].square()))
    nodes, weights = (torch.stack(parts) for parts in zip(*rules, strict=True))
    return _smoothed(nodes, weights, points, width)


def _smoothed(
    nodes: Float[Tensor, "samples steps"], weights: Float[Tensor, "samples steps"], points: int, width: float | None
) -> SpectralDensity:
    """A quadrature as a density, with a Gaussian for each node."""
    low, high = nodes.amin(), nodes.amax()
    spread = torch.maximum(high - low, 0.01 * nodes.abs().amax())  # a multiple of the identity has no range
    spread = torch.where(spread > 0, spread, 1.0)  # nor has zero a magnitude
    sigma = 0.01 * spread if width is None else torch.full_like(low, width)
    unit = torch.linspace(0.0, 1.0, points, dtype=nodes.dtype, device=nodes.device)
    grid = low - 5 * sigma + (high - low + 10 * sigma) * unit
    distance = (grid.unsqueeze(1) - nodes.flatten()) / sigma  # (points, samples steps)
    bumps = torch.exp(-0.5 * distance.square()) / (sigma * math.sqrt(2 * math.pi))
    return SpectralDensity(grid, bumps @ weights.flatten() / len(weights), nodes, weights, sigma)


def _ritz(found: Tridiagonal, k: int, which: Which) -> tuple[Tensor, Tensor, Tensor]:
    """Of the tridiagonal matrix: the k wanted eigenvalues, their residuals, both `(k,)`, and eigenvectors `(k, m)`."""
    values, vectors = found.eigh()
    values, vectors = values.flip(0), vectors.mT.flip(0)  # descending, a row each
    if which == "magnitude":
        order = values.abs().argsort(descending=True)
        values, vectors = values[order], vectors[order]
    upper = {"smallest": 0, "both": (k + 1) // 2}.get(which, k)
    index = [*range(upper), *range(len(values) - (k - upper), len(values))]
    return values[index], (found.betas[-1] * vectors[index, -1]).abs(), vectors[index]


def _excess(values: Tensor, residuals: Tensor, tolerance: float) -> Tensor:
    """How far the worst residual is above what the tolerance allows, 0-d."""
    return (residuals - tolerance * values.abs().max()).max()
