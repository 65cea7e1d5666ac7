"""What tuning buys: the expected best value after k trials, and who wins at each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.samples import LEVEL, Values, check_level, values
from deepobs_func.errors import DataError, option

Draw = Literal["with", "without"]


@dataclass(frozen=True)
class TuningCurve:
    """The best value of k trials, for several budgets k.

    Attributes:
        budgets: the numbers of trials.
        expected: the expected best value.
        median: the median best value.
        low, high: a band that has the whole curve of the medians within it, at `level`; infinite where it has no end.
        level: of the band.
        trials: how many trials it was estimated from.
    """

    budgets: tuple[int, ...]
    expected: Values
    median: Values
    low: Values
    high: Values
    level: float
    trials: int


def tuning_curve(
    given: ArrayLike,
    budgets: Sequence[int] | None = None,
    *,
    higher_is_better: bool,
    level: float = LEVEL,
    draw: Draw = "with",
) -> TuningCurve:
    """The expected best value after k trials of random search.

    With replacement (Dodge et al.), for sorted values from worst to best,
    `E[best of k] = sum_i v_(i) ((i / n)^k - ((i - 1) / n)^k)`; it understates the best, at most by
    `(1 - 1 / n)^k` of the way. Without replacement (Tang et al.), unbiased,
    `sum_i v_(i) C(i - 1, k - 1) / C(n, k)`; it needs `k <= n`.

    The band is Kolmogorov and Smirnov's for the distribution function, carried over to the median best value, the
    `2^(-1/k)` quantile. It covers the whole curve with at least the level, whatever the distribution.

    Args:
        given: the value of each trial; NaN, a trial that diverged, is the worst of all, so that the expected best is
            infinitely bad while it has a share in it.
        budgets: numbers of trials; by default 1 to as many as there are values.
        higher_is_better: as of accuracies.
        level: of the band.
        draw: `"with"` or `"without"` replacement.

    Returns:
        The curve.

    Raises:
        DataError: there is no value, a budget is below 1, or above the number of values without replacement.

    Source: Dodge et al., EMNLP 2019; Tang et al., ACL 2020; Lourie, Cho and He, NAACL 2024 (the band).

    >>> tuning_curve([0.5, 0.7, 0.9], [1, 2, 3], higher_is_better=True, draw="without").expected.round(4).tolist()
    [0.7, 0.8333, 0.9]
    """
    sign = 1.0 if higher_is_better else -1.0
    found, level = np.sort(_worst(values(given), sign) * sign), check_level(level)
    ks = _budgets(budgets, found.size, draw)
    expected = np.array([_weighted(found, _weights(found.size, k, draw)) for k in ks])
    median = np.array([_quantile(found, 0.5 ** (1.0 / k)) for k in ks])
    width = margin(found.size, level)
    lowest = np.array([_quantile(found, 0.5 ** (1.0 / k) - width) for k in ks])
    highest = np.array([_quantile(found, 0.5 ** (1.0 / k) + width) for k in ks])
    low, high = (lowest, highest) if higher_is_better else (-highest, -lowest)
    return TuningCurve(tuple(ks), sign * expected, sign * median, low, high, level, found.size)


def win_probability(
    given_a: ArrayLike, given_b: ArrayLike, budgets: Sequence[int] | None = None, *, higher_is_better: bool
) -> Values:
    """For each budget k, the probability that the best of k trials of A is better than the best of k trials of B.

    Trials are drawn with replacement; ties count half:
    `sum over x of P(best_A = x) (P(best_B < x) + P(best_B = x) / 2)`.

    Args:
        given_a, given_b: the values of their trials; NaN is the worst of all.
        budgets: numbers of trials; by default 1 to the smaller number of values.
        higher_is_better: as of accuracies.

    Returns:
        A probability for each budget.

    Raises:
        DataError: there is no value, or a budget is below 1.

    >>> win_probability([0.9, 0.5], [0.8, 0.7], [1, 2], higher_is_better=True).tolist()
    [0.5, 0.75]
    """
    sign = 1.0 if higher_is_better else -1.0
    a = np.sort(_worst(values(given_a, "A"), sign) * sign)
    b = np.sort(_worst(values(given_b, "B"), sign) * sign)
    ks = np.array(_budgets(budgets, min(a.size, b.size), "with"), dtype=np.float64)[:, None]
    each = np.unique(a)
    best_a = _share(a, each, "right") ** ks - _share(a, each, "left") ** ks
    below, upto = _share(b, each, "left") ** ks, _share(b, each, "right") ** ks
    return np.asarray((best_a * (below + upto) / 2.0).sum(axis=1))


def _worst(found: Values, sign: float) -> Values:
    """NaN is the worst value of all."""
    return np.where(np.isnan(found), -sign * math.inf, found)


def _budgets(given: Sequence[int] | None, size: int, draw: str) -> list[int]:
    ks = list(range(1, size + 1)) if given is None else [int(k) for k in given]
    if draw not in ("with", "without"):
        raise DataError(f"{option('draw')} {draw!r}: it must be with or without.")
    if not ks or min(ks) < 1 or (draw == "without" and max(ks) > size):
        most = f" to {size}, the number of trials" if draw == "without" else ""
        raise DataError(f"{option('budgets')} {ks}: each must be a whole number from 1{most}.")
    return ks


def _weights(size: int, k: int, draw: Draw) -> Values:
    """The probability of each value, from the worst, to be the best of k."""
    if draw == "with":
        edges = (np.arange(size + 1) / size) ** k
        return np.diff(edges)
    return np.array([math.comb(i, k - 1) / math.comb(size, k) for i in range(size)])


def _weighted(found: Values, weights: Values) -> float:
    """What has no weight does not count, be it infinite."""
    counts = weights > 0
    return float((found[counts] * weights[counts]).sum())


def _quantile(found: Values, share: float) -> float:
    """The smallest value with at least this share of the values up to it; infinite beyond the ends."""
    if share <= 0:
        return -math.inf
    if share > 1:
        return math.inf
    return float(found[max(0, math.ceil(share * found.size - 1e-9) - 1)])


def margin(size: int, level: float) -> float:
    """The half-width of the band, of Kolmogorov and Smirnov, of a distribution function.

    Args:
        size: how many values it was estimated from.
        level: of the band.

    Returns:
        By how much the true distribution function may lie above or below.
    """
    from scipy.stats import kstwo

    return float(kstwo.ppf(level, size))


def _share(placed: Values, at: Values, side: Literal["left", "right"]) -> Values:
    """The share of values below, or up to, some points."""
    return np.searchsorted(placed, at, side=side) / placed.size
