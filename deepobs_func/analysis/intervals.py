"""Mean, median and interquartile mean of several seeds, with intervals whose coverage was measured.

`benchmarks/coverage.py` measures it, docs/statistics.md has the table. An interval that falls more than two points
short of its level is not offered: then `low` and `high` are NaN, and `missing` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.samples import LEVEL, RESAMPLES, SHORT, Values, check_level, draws, not_finite, values
from deepobs_func.errors import DataError, option

Assume = Literal["any", "normal"]
TRIM = 0.25  # of the interquartile mean, at each end
EQUAL = 1e-12  # of the largest value: below it a spread is rounding
ONE_SEED = "one seed has no spread"


@dataclass(frozen=True)
class Interval:
    """An estimate, and an interval for what it estimates.

    Attributes:
        estimate: of the sample; NaN where there is none.
        low, high: the ends; NaN where no interval is offered.
        level: how often such an interval covers, such as 0.95.
        size: how many values there are.
        method: how the interval was found.
        missing: why there is no interval; "" where there is one.
    """

    estimate: float
    low: float
    high: float
    level: float
    size: int
    method: str
    missing: str = ""

    @property
    def is_offered(self) -> bool:
        """Whether there is an interval."""
        return not self.missing

    def __str__(self) -> str:
        if self.missing:
            return f"{self.estimate:.4g} (no interval: {self.missing})"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def none(estimate: float, level: float, size: int, method: str, why: str) -> Interval:
    """An estimate without an interval, and the reason."""
    return Interval(estimate, math.nan, math.nan, level, size, method, why)


def mean(given: ArrayLike, level: float = LEVEL, assume: Assume = "any") -> Interval:
    """The mean, with an interval.

    `assume="normal"`: Student's `mean ± t s / sqrt(n)`, exact for normal values. With skewed ones it falls short (88 %
    at 5 exponential values), so that by default it is the wider one, at each end, of this and of the studentized
    bootstrap, `mean - s / sqrt(n - 1) * quantile of (mean* - mean) sqrt(n) / s*`, in which `n - 1` for n widens what
    a few values resampled understate.

    Args:
        given: one value a seed.
        level: of the interval.
        assume: `"any"` shape of the distribution up to the skewness of an exponential one, or `"normal"`.

    Returns:
        The interval; none where there is one value, or one that is not finite.

    Raises:
        DataError: there is no value, or `level` or `assume` is none.

    Source: Student, 1908; Hall, *The Bootstrap and Edgeworth Expansion*, 1992, section 3.5.

    >>> print(mean([0.90, 0.92, 0.91, 0.93, 0.94], assume="normal"))
    0.92 [0.9004, 0.9396]
    >>> print(mean([0.92]))
    0.92 (no interval: one seed has no spread)
    """
    found, level = values(given), check_level(level)
    if assume not in ("any", "normal"):
        raise DataError(f"{option('assume')} {assume!r}: it must be any or normal.")
    method = "Student's t" if assume == "normal" else "wider of Student's t and studentized bootstrap"
    why = not_finite(found) or (ONE_SEED if found.size == 1 else "")
    if why:
        return none(_average(found), level, found.size, method, why)
    return _trimmed(found, 0, level, method, bootstrap=assume == "any")


def interquartile_mean(given: ArrayLike, level: float = LEVEL) -> Interval:
    """The mean of the middle half: `floor(n / 4)` values are cut at each end. Few failed seeds do not move it.

    The interval is the wider one, at each end, of Tukey and McLaughlin's (a `t` with `n - 2 floor(n / 4) - 1` degrees
    of freedom and the winsorized deviation) and the studentized bootstrap with the same standard error.

    Args:
        given: one value a seed; infinite ones are cut, too.
        level: of the interval.

    Returns:
        The interval; none below five values, or where a value is not finite.

    Raises:
        DataError: there is no value, or `level` is none.

    Source: Tukey and McLaughlin, 1963; Agarwal et al., NeurIPS 2021 (the interquartile mean of `rliable`).

    >>> interquartile_mean([1.0, 2.0, 3.0, 4.0, 100.0]).estimate
    3.0
    """
    found, level = values(given), check_level(level)
    cut, method = int(TRIM * found.size), "wider of Tukey-McLaughlin and studentized bootstrap"
    middle = np.sort(found)[cut : found.size - cut]  # NaN is sorted to the end, but is no large value
    estimate = math.nan if np.isnan(found).any() else _average(middle)
    if not_finite(found):
        return none(estimate, level, found.size, method, not_finite(found))
    if found.size < 5:
        return none(estimate, level, found.size, method, ONE_SEED if found.size == 1 else "it takes five seeds")
    return _trimmed(found, cut, level, method, bootstrap=True)


def median(given: ArrayLike, level: float = LEVEL) -> Interval:
    """The median, with an interval between two order statistics that holds for every distribution.

    `[x_(k), x_(n+1-k)]` covers with probability `1 - 2 P(Binomial(n, 1/2) < k)` at least; k is the largest that reaches
    the level. Five values have `[min, max]`, which covers with 93.75 %; fewer have no interval at 95 %.

    Args:
        given: one value a seed; infinities count as they are, so that a run that never arrives may be `inf`.
        level: of the interval.

    Returns:
        The interval.

    Raises:
        DataError: there is no value, or `level` is none.

    Source: Thompson, 1936; Conover, *Practical Nonparametric Statistics*, section 3.2.

    >>> median([3.0, 1.0, 2.0, 5.0, float("inf")])
    Interval(estimate=3.0, low=1.0, high=inf, level=0.95, size=5, method='order statistics', missing='')
    """
    found, level, method = values(given), check_level(level), "order statistics"
    if np.isnan(found).any():
        return none(math.nan, level, found.size, method, not_finite(found))
    placed = np.sort(found)
    half = placed[[(found.size - 1) // 2, found.size // 2]]
    estimate = float(half[0] if half[0] == half[1] else half.mean())
    rank = median_rank(found.size, level)
    if rank == 0:
        why = ONE_SEED if found.size == 1 else f"{found.size} seeds are too few for a level of {level:.0%}"
        return none(estimate, level, found.size, method, why)
    return Interval(estimate, float(placed[rank - 1]), float(placed[-rank]), level, found.size, method)


def median_rank(size: int, level: float) -> int:
    """The rank, from 1, of the lower end of the median's interval; 0 where not even the extremes cover."""
    from scipy.stats import binom

    rank = int(binom.ppf((1.0 - level) / 2.0, size, 0.5))  # the smallest k with P(X <= k) >= alpha / 2
    if rank == 0:
        return int(2.0 * 0.5**size <= 1.0 - level + SHORT)
    return rank


def over_problems(
    groups: Mapping[str, ArrayLike], level: float = LEVEL, statistic: Literal["mean", "iqm"] = "mean"
) -> Interval:
    """A mean over problems, each with its seeds: every problem counts alike, the seeds of each are the strata.

    `"mean"`: the mean of the problems' means. The standard error is `sqrt(sum s_p^2 / n_p) / P`; the interval is the
    wider one, at each end, of that of Student's t with Satterthwaite's degrees of freedom and the stratified
    studentized bootstrap. `"iqm"`: the interquartile mean of all runs together, weighted so that problems count alike,
    with a stratified bootstrap of `n_p - 1` of the `n_p` seeds of each problem, which has the variance that a plain one
    understates, widened about the estimate by `t / z` with `sum (n_p - 1) / 2` degrees of freedom. The values must be
    comparable, for instance normalised by a baseline.

    Args:
        groups: the values of each problem, one a seed.
        level: of the interval.
        statistic: `"mean"` or `"iqm"`.

    Returns:
        The interval; none where a problem has one seed, or a value is not finite.

    Raises:
        DataError: there is no problem, a problem without a value, or `level` or `statistic` is none.

    Source: Satterthwaite, 1946; Rao and Wu, 1988; Agarwal et al., NeurIPS 2021.
    """
    level = check_level(level)
    if statistic not in ("mean", "iqm"):
        raise DataError(f"{option('statistic')} {statistic!r}: it must be mean or iqm.")
    if not groups:
        raise DataError("There is no problem: give the values of at least one.")
    found = {name: values(each, name) for name, each in groups.items()}
    size = sum(each.size for each in found.values())
    lacking = [f"{name} has one seed" for name, each in found.items() if each.size == 1]
    lacking = [f"{name}: {not_finite(each)}" for name, each in found.items() if not_finite(each)] or lacking
    if statistic == "iqm":
        method, estimate = "stratified bootstrap", _weighted_iqm([each[None] for each in found.values()])[0]
        if lacking:
            return none(float(estimate), level, size, method, ", ".join(lacking))
        resampled = [_fewer(each, stratum) for stratum, each in enumerate(found.values())]
        ends = np.quantile(_weighted_iqm(resampled), [(1 - level) / 2, (1 + level) / 2])
        low, high = estimate + _student(level, (size - len(found)) / 2) / _student(level, math.inf) * (ends - estimate)
        return Interval(float(estimate), float(low), float(high), level, size, method)
    method, estimate = (
        "wider of Student's t and studentized bootstrap, stratified",
        np.mean([_average(each) for each in found.values()]),
    )
    if lacking:
        return none(float(estimate), level, size, method, ", ".join(lacking))
    low, high = _stratified(list(found.values()), level)
    return Interval(float(estimate), float(estimate - high), float(estimate - low), level, size, method)


def _average(found: Values) -> float:
    """The mean; infinities of both signs have none."""
    with np.errstate(invalid="ignore"):
        return float(found.mean())


def _trimmed(found: Values, cut: int, level: float, method: str, *, bootstrap: bool) -> Interval:
    """The interval of a mean without `cut` values at each end; of the mean, where cut is 0."""
    size = found.size
    middle = np.sort(found)[cut : size - cut]
    estimate, kept = _average(middle), middle.size
    error = float(np.clip(found, middle[0], middle[-1]).std(ddof=1)) * math.sqrt(size) / kept
    half = _student(level, kept - 1) * error
    low, high = estimate - half, estimate + half
    if bootstrap and error > EQUAL * np.abs(found).max():
        ratios = _studentized(found - estimate, cut)
        first, last = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2]) * math.sqrt(size / (size - 1))
        low, high = min(low, estimate - float(last) * error), max(high, estimate - float(first) * error)
    return Interval(estimate, low, high, level, size, method)


def _studentized(centred: Values, cut: int) -> Values:
    """Estimate over standard error in bootstrap samples of values whose trimmed mean is 0."""
    size = centred.size
    drawn = middle = centred[draws(size)]
    if cut:
        middle = np.sort(drawn, axis=1)[:, cut : size - cut]
        drawn = np.clip(drawn, middle[:, :1], middle[:, -1:])
    errors = drawn.std(axis=1, ddof=1) * math.sqrt(size) / middle.shape[1]
    spread = errors > 1e-12 * np.abs(centred).max()  # a sample of one value, drawn again and again, has none
    return middle.mean(axis=1)[spread] / errors[spread]


def _stratified(strata: list[Values], level: float) -> tuple[float, float]:
    """How far below, and above, the mean of the strata's means its estimate may lie."""
    parts = np.array([each.var(ddof=1) / each.size for each in strata])
    error = math.sqrt(float(parts.sum())) / len(strata)
    if error <= EQUAL * max(float(np.abs(each).max()) for each in strata):
        return 0.0, 0.0
    freedom = np.array([each.size - 1 for each in strata])
    half = _student(level, float(parts.sum() ** 2 / (parts**2 / freedom).sum())) * error
    drawn = [(each - each.mean())[draws(each.size, seed=number)] for number, each in enumerate(strata)]
    errors = np.sqrt(sum(each.var(axis=1, ddof=1) / each.shape[1] for each in drawn)) / len(strata)
    means = sum(each.mean(axis=1) for each in drawn) / len(strata)
    spread = errors > 1e-9 * error
    first, last = np.quantile(means[spread] / errors[spread], [(1 - level) / 2, (1 + level) / 2]) * error
    return min(-half, float(first)), max(half, float(last))


def _student(level: float, freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf((1.0 + level) / 2.0, freedom))


def _fewer(found: Values, stratum: int) -> Values:
    """Bootstrap samples of one seed less than there are."""
    return found[draws(found.size, RESAMPLES, stratum + 1)[:, 1:]]


def _weighted_iqm(strata: list[Values]) -> Values:
    """The interquartile mean of each row of several strata, each of which has the same weight: the mean of the middle.

    A value counts with the part of its weight that lies between the quartiles of the weights, as sorted.
    """
    weights = np.concatenate([np.full(each.shape[1], 1.0 / each.shape[1]) for each in strata]) / len(strata)
    rows = np.concatenate(strata, axis=1)
    if weights.min() == weights.max():  # the usual case, ten times as fast
        edges = np.arange(weights.size + 1) / weights.size
        inside = np.clip(np.minimum(edges[1:], 1 - TRIM) - np.maximum(edges[:-1], TRIM), 0.0, None)
        return np.asarray(np.sort(rows, axis=1)[:, inside > 0] @ inside[inside > 0] / inside.sum())
    order = np.argsort(rows, axis=1)
    placed, ends = np.take_along_axis(rows, order, 1), weights[order].cumsum(axis=1)
    starts = ends - weights[order]
    inside = np.clip(np.minimum(ends, 1 - TRIM) - np.maximum(starts, TRIM), 0.0, None)
    with np.errstate(invalid="ignore"):
        kept = np.where(inside > 0, placed * inside, 0.0)
    return np.asarray(kept.sum(axis=1) / inside.sum(axis=1))
