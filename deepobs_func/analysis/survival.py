"""Time, epochs or gradient evaluations to a target, where some runs end before they reach it (censored)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.intervals import Interval, median, none
from deepobs_func.analysis.samples import LEVEL, Values, check_level, values
from deepobs_func.errors import DataError


@dataclass(frozen=True)
class Survival:
    """Kaplan and Meier's estimate of the probability that a run has not reached the target.

    Attributes:
        times: at which runs reached it, increasing.
        remaining: the probability after each of these times.
        reached, size: how many runs reached it, of how many.
        longest: the last time at which any run was seen.
    """

    times: Values
    remaining: Values
    reached: int
    size: int
    longest: float

    def after(self, time: float) -> float:
        """The probability that a run has not reached the target at a time."""
        index = int(np.searchsorted(self.times, time, side="right"))
        return float(self.remaining[index - 1]) if index else 1.0

    @property
    def median(self) -> float:
        """The first time at which `remaining` is 1/2 or less; infinite where it never is."""
        below = np.flatnonzero(self.remaining <= 0.5 + 1e-12)
        return float(self.times[below[0]]) if below.size else math.inf

    def restricted_mean(self, until: float | None = None) -> float:
        """The mean time up to a limit, at which runs stop to count: the area under the curve.

        Args:
            until: the limit; by default the last time at which any run was seen.

        Returns:
            `integral of remaining(t) dt` from 0 to the limit.
        """
        limit = self.longest if until is None else float(until)
        edges = np.concatenate([[0.0], self.times[self.times < limit], [limit]])
        heights = np.concatenate([[1.0], self.remaining[self.times < limit]])
        return float((np.diff(edges) * heights).sum())


def first_reached(
    curve: ArrayLike, target: float, higher_is_better: bool, clock: ArrayLike | None = None
) -> tuple[float, bool]:
    """When a run reached a target, or how long it was seen without.

    Args:
        curve: the metric at each evaluation; NaN does not reach.
        target: reached where the metric is as good, or better.
        higher_is_better: as of accuracies.
        clock: seconds, epochs or gradient evaluations at each evaluation; by default the number of the evaluation.

    Returns:
        The time and True, or the time of the last evaluation and False: a censored run. A clock that is not known
        there (NaN) gives NaN.

    Raises:
        DataError: there is no evaluation, or the clock has another length.

    >>> first_reached([0.1, 0.8, 0.93, 0.91], 0.9, higher_is_better=True)
    (2.0, True)
    >>> first_reached([2.3, 0.5, float("nan")], 0.1, higher_is_better=False, clock=[0.0, 1.5, 3.0])
    (3.0, False)
    """
    found = values(curve, "curve")
    times = np.arange(found.size, dtype=np.float64) if clock is None else values(clock, "clock")
    if times.size != found.size:
        raise DataError(f"The clock has {times.size} entries and the curve {found.size}; give as many of each.")
    good = np.flatnonzero(found >= target if higher_is_better else found <= target)
    return (float(times[good[0]]), True) if good.size else (float(times[-1]), False)


def kaplan_meier(times: ArrayLike, reached: ArrayLike) -> Survival:
    """Kaplan and Meier's estimate, `remaining(t) = product over t_i <= t of (1 - d_i / n_i)`.

    Args:
        times: of each run, to the target or to its end.
        reached: whether it reached the target; else it is censored.

    Returns:
        The curve. One that nobody reached has no times.

    Raises:
        DataError: there is no run, a time is negative or not finite, or the lengths differ.

    Source: Kaplan and Meier, 1958; computed by SciPy (`scipy.stats.ecdf`).

    >>> kaplan_meier([3.0, 5.0, 8.0, 8.0], [True, True, True, False]).median
    5.0
    """
    found, flags = _checked(times, reached)
    empty = np.empty(0)
    if not flags.any():
        return Survival(empty, empty, 0, found.size, float(found.max()))
    from scipy.stats import CensoredData, ecdf

    curve = ecdf(CensoredData(uncensored=found[flags], right=found[~flags])).sf
    events = np.isin(curve.quantiles, found[flags])
    at = np.asarray(curve.quantiles[events], dtype=np.float64)
    remaining = np.asarray(curve.probabilities[events], dtype=np.float64)
    return Survival(at, remaining, int(flags.sum()), found.size, float(found.max()))


def median_time(times: ArrayLike, reached: ArrayLike, level: float = LEVEL) -> Interval:
    """The median time to a target by Kaplan and Meier, the first time at which `remaining` is 1/2 or less.

    Where runs are censored only after the last one that reached it, as by the end of their budget, that is the lower of
    the two middle times, and the interval is that of `intervals.median`, which holds for every distribution, with
    infinity for those that did not reach it; a lower end among these is the time at which the first of them ended.
    Earlier censoring leaves no interval whose coverage holds for few seeds.

    Args:
        times, reached: as for `kaplan_meier`.
        level: of the interval.

    Returns:
        The interval; its ends may be infinite. An infinite estimate says that less than half of the runs are known to
        have reached the target.

    Raises:
        DataError: as for `kaplan_meier`.

    >>> median_time([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [True, True, True, False, False, False]).estimate
    3.0
    """
    found, flags = _checked(times, reached)
    if flags.all() or not flags.any() or found[~flags].min() >= found[flags].max():
        placed = np.sort(np.where(flags, found, math.inf))
        interval = replace(median(placed, level), estimate=float(placed[(found.size - 1) // 2]))
        if math.isinf(interval.low):  # all that is known of a censored time is that it is longer
            interval = replace(interval, low=float(found[~flags].min()))
        return interval
    estimate = kaplan_meier(times, reached).median
    return none(estimate, level, found.size, "Kaplan-Meier", "a run ended early, before others reached the target")


def share_reached(times: ArrayLike, reached: ArrayLike, at: float, level: float = LEVEL) -> Interval:
    """The probability of having reached the target by a time, with an interval.

    Args:
        times, reached: as for `kaplan_meier`.
        at: the time.
        level: of the interval.

    Returns:
        `1 - remaining(at)`, with Clopper and Pearson's interval; none where a run was censored before that time.

    Raises:
        DataError: as for `kaplan_meier`.

    Source: Clopper and Pearson, 1934; computed by SciPy.
    """
    level, (found, flags) = check_level(level), _checked(times, reached)
    estimate = 1.0 - kaplan_meier(times, reached).after(at)
    if (found[~flags] < at).any():
        return none(estimate, level, found.size, "Kaplan-Meier", f"a run ended before {at:g} without the target")
    from scipy.stats import binomtest

    ends = binomtest(int((found[flags] <= at).sum()), found.size).proportion_ci(level, "exact")
    return Interval(estimate, float(ends.low), float(ends.high), level, found.size, "Clopper-Pearson")


def log_rank(times_a: ArrayLike, reached_a: ArrayLike, times_b: ArrayLike, reached_b: ArrayLike) -> float:
    """The p-value of the two-sided log-rank test that two groups reach the target at the same rate.

    Args:
        times_a, reached_a: of one group, as for `kaplan_meier`.
        times_b, reached_b: of the other one.

    Returns:
        The p-value; 1 where nobody reached the target.

    Raises:
        DataError: as for `kaplan_meier`.

    Source: Mantel, 1966; computed by SciPy (`scipy.stats.logrank`).
    """
    (a, flags_a), (b, flags_b) = _checked(times_a, reached_a), _checked(times_b, reached_b)
    if not (flags_a.any() or flags_b.any()):
        return 1.0
    from scipy.stats import CensoredData, logrank

    groups = [CensoredData(uncensored=x[on], right=x[~on]) for x, on in ((a, flags_a), (b, flags_b))]
    with np.errstate(all="ignore"):
        p = float(logrank(*groups).pvalue)
    return 1.0 if math.isnan(p) else p


def _checked(times: ArrayLike, reached: ArrayLike) -> tuple[Values, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    found = values(times, "times")
    flags = np.asarray(reached, dtype=bool)
    if flags.shape != found.shape:
        raise DataError(f"There are {found.size} times and {flags.size} flags; give as many of each.")
    if not np.isfinite(found).all() or (found < 0).any():
        raise DataError("A time is negative or not finite; a run that never reached its target is censored at its end.")
    return found, flags
