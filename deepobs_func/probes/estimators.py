"""Trace and diagonal of a curvature matrix from products with random vectors, with their standard errors."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes.contract import Distribution, LossOrProblem, checked_count, checked_key, draw, stack
from deepobs_func.probes.curvature import Matrix, linear_map
from deepobs_func.probes.ggn_diagonal import ggn_diagonal, sampled_ggn_diagonal
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.tree import Tree

TraceMethod = Literal["hutchinson", "hutch++"]
DiagonalMethod = Literal["hutchinson", "exact", "monte-carlo"]


class Trace(NamedTuple):
    """An estimated trace.

    Attributes:
        value: 0-d.
        standard_error: of the value, from the spread of its samples, 0-d; NaN where there is one sample only.
    """

    value: Float[Tensor, ""]
    standard_error: Float[Tensor, ""]


class Diagonal(NamedTuple):
    """A diagonal, exact or estimated.

    Attributes:
        value: a tree like the parameters.
        standard_error: of each entry, from the spread of its samples; NaN where there is one sample only, None where
            the diagonal is exact.
    """

    value: Tree
    standard_error: Tree | None


def trace(
    subject: LossOrProblem | LinearMap,
    params: Params | None = None,
    batch: Any = None,
    *,
    key: random.Key | None = None,
    samples: int = 30,
    method: TraceMethod = "hutchinson",
    distribution: Distribution = "rademacher",
    matrix: Matrix | None = None,
) -> Trace:
    """An unbiased estimate of the trace from products with random vectors.

    Hutchinson: `1/S sum_s v_s . A v_s`. Hutch++: `tr(Q^T A Q)` for an orthonormal basis Q of A times S/3 random
    vectors, plus Hutchinson with S/3 vectors on the rest, `(I - Q Q^T) A (I - Q Q^T)`; better where few eigenvalues
    dominate. Its standard error is that of the second part, for the Q that was found.

    Args:
        subject: a loss or a Problem, whose Hessian is taken, or any `LinearMap` alone.
        params, batch: the point.
        key: for the random vectors.
        samples: S, matrix-vector products; a multiple of 3 for Hutch++.
        method: `"hutchinson"` or `"hutch++"`.
        distribution: `"rademacher"` or `"normal"`.
        matrix: `"hessian"` (the default) or `"ggn"` of a loss.

    Returns:
        The estimate and its standard error.

    Raises:
        ConfigError: the key is missing, or an argument is unknown or out of its range.

    Source: M. Hutchinson, "A stochastic estimator of the trace of the influence matrix", 1989; R. Meyer, C. Musco,
    C. Musco and D. Woodruff, "Hutch++: optimal stochastic trace estimation", SOSA 2021.

    >>> from deepobs_func import problems, random
    >>> problem = problems.get("quadratic_deep")
    >>> params, _ = problem.init()
    >>> batch = problem.fake_batch(4)
    >>> found = trace(problem, params, batch, key=random.key(0), samples=10)
    >>> abs(found.value - 653) < 3 * found.standard_error  # the trace of the Hessian is 653
    tensor(True)
    """
    operator = linear_map(subject, params, batch, matrix)
    key = checked_key(key, "trace")
    if method == "hutchinson":
        checked_count("samples", samples, 1)
        terms = [tree.dot(v, operator.product(v)) for v in _drawn(key, samples, operator, distribution)]
        return Trace(*_mean(torch.stack(terms)))
    if method == "hutch++":
        checked_count("samples", samples, 3)
        return _hutch_plus_plus(operator, key, samples, distribution)
    raise ConfigError(unknown("method", str(method), ("hutchinson", "hutch++")))


def diagonal(
    subject: LossOrProblem | LinearMap,
    params: Params | None = None,
    batch: Any = None,
    *,
    method: DiagonalMethod = "hutchinson",
    key: random.Key | None = None,
    samples: int | None = None,
    distribution: Distribution = "rademacher",
    matrix: Matrix | None = None,
) -> Diagonal:
    """The diagonal of a curvature matrix.

    `"hutchinson"`: `1/S sum_s v_s * A v_s`, unbiased, of any matrix.
    `"exact"`: of the GGN, by backward passes from every output of every example.
    `"monte-carlo"`: of the GGN, `1/(B S) sum_n sum_s (J_n^T s)^2` for random vectors s with `E[s s^T]` the Hessian of
    example n's criterion in its outputs; unbiased, example by example. Where batch norm couples the examples, one
    backward pass for the whole batch, `1/(B S) sum_s (J^T s)^2`, unbiased too.

    Args:
        subject: a loss or a Problem, whose Hessian is taken, or any `LinearMap` alone.
        params, batch: the point.
        method: one of the three.
        key: for the random vectors.
        samples: S; 30 by default for Hutchinson, 1 for Monte-Carlo.
        distribution: of Hutchinson's vectors, `"rademacher"` or `"normal"`.
        matrix: `"hessian"` (the default) or `"ggn"` of a loss; must be `"ggn"` for the other two methods.

    Returns:
        The diagonal and, where it is estimated, the standard error of each entry.

    Raises:
        ConfigError: the key is missing, or an argument is unknown, out of its range, or does not fit the others.

    Source: C. Bekas, E. Kokiopoulou and Y. Saad, "An estimator for the diagonal of a matrix", 2007; F. Dangel,
    F. Kunstner and P. Hennig, "BackPACK: packing more into backprop", ICLR 2020 (DiagGGNExact and DiagGGNMC).

    >>> from deepobs_func import problems, random
    >>> problem = problems.get("quadratic_deep")
    >>> params, _ = problem.init()
    >>> batch = problem.fake_batch(4)
    >>> diagonal(problem, params, batch, method="exact", matrix="ggn").value["theta"].shape
    torch.Size([100])
    """
    if method == "hutchinson":
        operator = linear_map(subject, params, batch, matrix)
        count = checked_count("samples", 30 if samples is None else samples, 1)
        drawn = _drawn(checked_key(key, "diagonal"), count, operator, distribution)
        return _estimated([tree.map(torch.mul, v, operator.product(v)) for v in drawn])
    if method not in ("exact", "monte-carlo"):
        raise ConfigError(unknown("method", str(method), ("hutchinson", "exact", "monte-carlo")))
    if isinstance(subject, LinearMap) or matrix != "ggn" or params is None or batch is None:
        raise ConfigError(
            f"diagonal: the method {method!r} is of the GGN of a Problem at a point: pass problem, params, batch and "
            "matrix='ggn', or use method='hutchinson'."
        )
    if method == "exact":
        return Diagonal(ggn_diagonal(subject, params, batch), None)
    count = checked_count("samples", 1 if samples is None else samples, 1)
    keys = random.split(checked_key(key, "diagonal"), count)
    return _estimated([sampled_ggn_diagonal(subject, params, batch, each) for each in keys])


def _drawn(key: random.Key, samples: int, operator: LinearMap, distribution: Distribution) -> list[Tree]:
    return [draw(each, operator.like, distribution) for each in random.split(key, samples)]


def _mean(samples: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of samples along the first axis, `(S, *shape) -> (*shape)`, and its standard error."""
    count = samples.shape[0]
    if count == 1:
        return samples[0], torch.full_like(samples[0], math.nan)
    return samples.mean(0), samples.std(0) / math.sqrt(count)


def _estimated(samples: list[Tree]) -> Diagonal:
    pairs = {name: _mean(leaf) for name, leaf in stack(samples).items()}
    return Diagonal({name: value for name, (value, _) in pairs.items()}, {name: e for name, (_, e) in pairs.items()})


def _hutch_plus_plus(operator: LinearMap, key: random.Key, samples: int, distribution: Distribution) -> Trace:
    """Hutch++ on flat vectors; the basis has at most P columns."""
    third = samples // 3
    sketch_key, rest_key = random.split(key)
    sketch = [operator.flat(tree.flatten(v)) for v in _drawn(sketch_key, min(third, operator.size), operator, "normal")]
    basis, _ = torch.linalg.qr(torch.stack(sketch, dim=1))  # (P, S/3)
    within = sum((column @ operator.flat(column) for column in basis.unbind(1)), basis.new_zeros(()))

    def outside(v: Tensor) -> Tensor:
        return v - basis @ (basis.mT @ v)

    directions = [outside(tree.flatten(v)) for v in _drawn(rest_key, third, operator, distribution)]
    value, error = _mean(torch.stack([v @ operator.flat(v) for v in directions]))
    return Trace(within + value, error)
