"""Is A better than B, by how much, and how sure is that? "Tie within delta" is an answer of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.intervals import ONE_SEED, Interval, none
from deepobs_func.analysis.samples import (
    LEVEL,
    Values,
    average,
    check_level,
    not_finite,
    ordered,
    values,
    variance,
)
from deepobs_func.analysis.signed_ranks import signed_rank_sum, signed_ranks
from deepobs_func.analysis.statistics import holm
from deepobs_func.errors import DataError, option

Answer = Literal["A", "B", "tie", "undecided"]
Test = Literal["t", "ranks"]
POWER = 0.8


@dataclass(frozen=True)
class Verdict:
    """What the seeds of two optimizers say.

    Attributes:
        a, b: their names.
        difference: `mean(A) - mean(B)`, with its interval; positive where A has the larger values.
        superiority: the probability that a seed of A is better than one of B, ties counted half, with its interval.
        p_value: that there is no difference; NaN where it cannot be tested.
        p_tie: that the difference is `delta` or more; NaN without a delta.
        adjusted, adjusted_tie: the same after Holm's correction over all pairs; of a single pair, the same.
        detectable: the smallest difference that so many seeds would show with a power of 80 %; NaN for one seed.
        delta: what counts as a tie; None for nothing.
        favours: `"A"` or `"B"`, whichever the test's own statistic has ahead, significant or not; `""` for neither.
        answer: `"A"`, `"B"`, `"tie"` or `"undecided"`.
        winner: the name of the better one, or None.
        test: how it was tested.
        reason: why nothing can be said; "" where it can.
    """

    a: str
    b: str
    difference: Interval
    superiority: Interval
    p_value: float
    p_tie: float
    adjusted: float
    adjusted_tie: float
    detectable: float
    delta: float | None
    favours: Literal["A", "B", ""]
    answer: Answer
    test: str
    higher_is_better: bool
    reason: str = ""

    @property
    def winner(self) -> str | None:
        """The name of the better one; None for a tie or no decision."""
        return {"A": self.a, "B": self.b}.get(self.answer)

    def __str__(self) -> str:
        if self.winner:
            said = f"{self.winner} is better than {self.b if self.answer == 'A' else self.a}"
        elif self.answer == "tie":
            said = f"{self.a} and {self.b} tie within {self.delta:g}"
        else:
            said = f"{self.a} and {self.b}: undecided"
        shown = f", smallest difference to be seen {self.detectable:.3g}" if self.answer == "undecided" else ""
        p = self.adjusted_tie if self.answer == "tie" else self.adjusted
        return f"{said}: difference {self.difference}, p {p:.2g}{shown}{f' ({self.reason})' if self.reason else ''}"


class Moments(NamedTuple):
    """What a t-test needs: the difference, its standard error and its degrees of freedom."""

    difference: float
    error: float
    freedom: float


def compare(
    given_a: ArrayLike,
    given_b: ArrayLike,
    *,
    higher_is_better: bool,
    delta: float | None = None,
    level: float = LEVEL,
    paired: bool = False,
    test: Test = "t",
    names: tuple[str, str] = ("A", "B"),
) -> Verdict:
    """Compares two optimizers by the final metric of their seeds.

    The difference has Welch's interval (paired: Student's). `test="t"` is Welch's (paired: Student's) t-test,
    `"ranks"` Mann and Whitney's U (paired: Wilcoxon's signed ranks), which takes infinite values. A and B tie within
    `delta` if two one-sided t-tests reject that they differ by `delta` or more: the interval of level `2 level - 1`
    lies within `(-delta, delta)`. What is both significant and a tie within delta is a tie: it is too small to count.

    Args:
        given_a, given_b: one value a seed; their numbers may differ, unless they are paired.
        higher_is_better: as of accuracies.
        delta: the largest difference that counts as a tie, in units of the metric; None to ask only who is better.
        level: of the intervals; tests reject at `1 - level`.
        paired: whether value i of both is of the same seed.
        test: `"t"` or `"ranks"`.
        names: of A and B.

    Returns:
        The verdict. One seed, or a value that is not finite, leaves it undecided, with the reason.

    Raises:
        DataError: there is no value, paired ones differ in number, or an option is none.

    Source: Welch, 1947; Mann and Whitney, 1947; Wilcoxon, 1945; Schuirmann, 1987 (two one-sided tests); computed by
    SciPy.

    >>> verdict = compare([0.95, 0.96, 0.94], [0.90, 0.91, 0.89], higher_is_better=True)
    >>> verdict.answer, round(verdict.p_value, 4)
    ('A', 0.0036)
    >>> compare([0.95], [0.90], higher_is_better=True).reason
    'one seed has no spread'
    """
    a, b, level = values(given_a, names[0]), values(given_b, names[1]), check_level(level)
    _check(a, b, delta, paired, test)
    why = _no_mean(a, b)
    p_value = p_tie = math.nan
    if not why:
        moments = _moments(a, b, paired)
        p_value, p_tie = _p_t(moments), math.nan if delta is None else _p_tie(moments, delta)
    if test == "ranks":
        p_value = _p_ranks(a, b, paired)
    verdict = Verdict(
        *names,
        difference=difference(a, b, level=level, paired=paired),
        superiority=superiority(a, b, higher_is_better=higher_is_better, level=level, paired=paired),
        p_value=p_value,
        p_tie=p_tie,
        adjusted=p_value,
        adjusted_tie=p_tie,
        detectable=smallest_difference(a, b, level=level, paired=paired),
        delta=delta,
        favours=_favours(a, b, higher_is_better, paired, test),
        answer="undecided",
        test=_TESTS[test, paired],
        higher_is_better=higher_is_better,
        reason="" if test == "ranks" and not math.isnan(p_value) else why,
    )
    return _answered(verdict, 1.0 - level)


def compare_all(
    groups: Mapping[str, ArrayLike],
    *,
    higher_is_better: bool,
    delta: float | None = None,
    level: float = LEVEL,
    paired: bool = False,
    test: Test = "t",
) -> list[Verdict]:
    """Compares every pair of several optimizers; answers are those after Holm's correction over all pairs.

    The p-values of "no difference" are adjusted among themselves, those of "a difference of delta or more" among
    themselves. The intervals are those of single pairs.

    Args:
        groups: the values of each optimizer, one a seed.
        higher_is_better, delta, level, paired, test: as for `compare`.

    Returns:
        A verdict a pair, in the order of the groups.

    Raises:
        DataError: as for `compare`, or there are fewer than two optimizers.

    Source: Holm, 1979.
    """
    pairs = list(itertools.combinations(ordered(list(groups), "optimizers", 2), 2))
    found = [
        compare(
            *(groups[a], groups[b]),
            higher_is_better=higher_is_better,
            delta=delta,
            level=level,
            paired=paired,
            test=test,
            names=(a, b),
        )
        for a, b in pairs
    ]
    adjusted, ties = holm([each.p_value for each in found]), holm([each.p_tie for each in found])
    return [
        _answered(replace(each, adjusted=p, adjusted_tie=p_tie), 1.0 - level)
        for each, p, p_tie in zip(found, adjusted, ties, strict=True)
    ]


def difference(given_a: ArrayLike, given_b: ArrayLike, *, level: float = LEVEL, paired: bool = False) -> Interval:
    """The difference of means, `mean(A) - mean(B)`, with Welch's interval (paired: Student's).

    Args:
        given_a, given_b: one value a seed; their numbers may differ, unless they are paired.
        level: of the interval.
        paired: whether value i of both is of the same seed.

    Returns:
        The interval; none for one seed, or where a value is not finite.

    Raises:
        DataError: there is no value, paired ones differ in number, or `level` is none.

    Source: Welch, 1947; tested against SciPy.

    >>> print(difference([0.95, 0.96, 0.94], [0.90, 0.91, 0.89]))
    0.05 [0.02733, 0.07267]
    """
    a, b, level = values(given_a, "A"), values(given_b, "B"), check_level(level)
    _check(a, b, None, paired, "t")
    size, method = min(a.size, b.size), "Student's t, paired" if paired else "Welch's t"
    why = _no_mean(a, b)
    if why:
        with np.errstate(invalid="ignore"):
            return none(average(a) - average(b), level, size, method, why)
    from scipy.stats import t

    moments = _moments(a, b, paired)
    half = float(t.ppf((1.0 + level) / 2.0, moments.freedom)) * moments.error
    return Interval(moments.difference, moments.difference - half, moments.difference + half, level, size, method)


def superiority(
    given_a: ArrayLike, given_b: ArrayLike, *, higher_is_better: bool, level: float = LEVEL, paired: bool = False
) -> Interval:
    """The probability that a seed of A is better than one of B, ties counted half: `P(A > B) + P(A = B) / 2`.

    Over all pairs of seeds it is the U statistic over `n_a n_b`, with Newcombe's interval (method 5, pseudo-score).
    Paired, it is the share of seeds, with Clopper and Pearson's interval, where no seed ties.

    Args:
        given_a, given_b: one value a seed; infinities count as they are.
        higher_is_better: as of accuracies.
        level: of the interval.
        paired: whether value i of both is of the same seed.

    Returns:
        The interval; none for one seed, or where a value is NaN.

    Raises:
        DataError: there is no value, or paired ones differ in number.

    Source: Newcombe, *Statistics in Medicine* 25, 2006, part 2; Clopper and Pearson, 1934.

    >>> superiority([0.9, 0.8, 0.7], [0.6, 0.85, 0.5], higher_is_better=True).estimate.__round__(4)
    0.7778
    """
    a, b, level = values(given_a, "A"), values(given_b, "B"), check_level(level)
    _check(a, b, None, paired, "t")
    size, method = min(a.size, b.size), "Clopper-Pearson" if paired else "Newcombe's method 5"
    if np.isnan(a).any() or np.isnan(b).any():
        return none(math.nan, level, size, method, not_finite(np.concatenate([a, b])))
    a, b = (a, b) if higher_is_better else (-a, -b)
    wins = (a > b) + 0.5 * (a == b) if paired else (a[:, None] > b) + 0.5 * (a[:, None] == b)
    estimate = float(wins.mean())
    if size == 1:
        return none(estimate, level, size, method, ONE_SEED)
    if not paired:
        return Interval(estimate, *_newcombe(estimate, a.size, b.size, level), level, size, method)
    if (wins == 0.5).any():
        return none(estimate, level, size, method, "seeds that tie")
    from scipy.stats import binomtest

    ends = binomtest(int(wins.sum()), size).proportion_ci(level, "exact")
    return Interval(estimate, float(ends.low), float(ends.high), level, size, method)


def smallest_difference(
    given_a: ArrayLike, given_b: ArrayLike, *, level: float = LEVEL, power: float = POWER, paired: bool = False
) -> float:
    """The smallest difference of means that so many seeds, with such a spread, would show.

    The difference at which a two-sided t-test at `1 - level` rejects with probability `power`, by the noncentral t
    distribution with Welch's (paired: `n - 1`) degrees of freedom.

    Args:
        given_a, given_b: one value a seed.
        level: one minus the level of the test.
        power: how often it should reject.
        paired: whether value i of both is of the same seed.

    Returns:
        The difference; NaN for one seed, or where a value is not finite.

    Raises:
        DataError: there is no value, or `level` or `power` is none.
    """
    a, b, level = values(given_a, "A"), values(given_b, "B"), check_level(level)
    if not 1.0 - level < power < 1.0:
        raise DataError(f"{option('power')} {power}: it must lie between {1.0 - level:.3g} and 1, such as 0.8.")
    _check(a, b, None, paired, "t")
    if _no_mean(a, b):
        return math.nan
    moments = _moments(a, b, paired)
    return moments.error * shown_by(moments.freedom, level, power) if moments.error else 0.0


def shown_by(freedom: float, level: float = LEVEL, power: float = POWER) -> float:
    """The difference, in standard errors, that a two-sided t-test shows with a power."""
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    bound = float(t.ppf((1.0 + level) / 2.0, freedom))

    def lacking(shift: float) -> float:
        wrong_side = float(nct.cdf(-bound, freedom, shift))  # NaN where it is too small for SciPy
        return float(nct.sf(bound, freedom, shift)) + (0.0 if math.isnan(wrong_side) else wrong_side) - power

    above = bound
    while lacking(above) < 0:
        above *= 1.25
    return float(brentq(lacking, 0.0, above, xtol=1e-10))


_TESTS = {
    ("t", False): "Welch's t-test",
    ("t", True): "Student's t-test, paired",
    ("ranks", False): "Mann-Whitney U",
    ("ranks", True): "Wilcoxon signed ranks",
}


def _check(a: Values, b: Values, delta: float | None, paired: bool, test: str) -> None:
    if paired and a.size != b.size:
        raise DataError(f"A has {a.size} seeds and B {b.size}: paired ones have the same. Leave out paired, or a seed.")
    if delta is not None and not (delta > 0 and math.isfinite(delta)):
        raise DataError(f"{option('delta')} {delta}: it must be positive, in units of the metric.")
    if test not in ("t", "ranks"):
        raise DataError(f"{option('test')} {test!r}: it must be t or ranks.")


def _moments(a: Values, b: Values, paired: bool) -> Moments:
    if paired:
        apart = a - b
        return Moments(average(apart), math.sqrt(variance(apart) / apart.size), apart.size - 1)
    parts = np.array([variance(a) / a.size, variance(b) / b.size])
    total = float(parts.sum())
    freedom = np.array([a.size - 1, b.size - 1])
    welch = total**2 / float((parts**2 / freedom).sum()) if total**2 > 0 else float(freedom.sum())
    return Moments(average(a) - average(b), math.sqrt(total), welch)


def _no_mean(a: Values, b: Values) -> str:
    """Why means cannot be compared; "" where they can."""
    return not_finite(np.concatenate([a, b])) or (ONE_SEED if min(a.size, b.size) == 1 else "")


def _p_t(moments: Moments) -> float:
    """Without any spread, means are equal (1) or not (0)."""
    if moments.error == 0:
        return float(moments.difference == 0)
    from scipy.stats import t

    return float(2.0 * t.sf(abs(moments.difference) / moments.error, moments.freedom))


def _p_tie(moments: Moments, delta: float) -> float:
    """Of two one-sided tests that the difference is outside `(-delta, delta)`: the larger one."""
    nearest = delta - abs(moments.difference)
    if moments.error == 0:
        return float(nearest <= 0)
    from scipy.stats import t

    return float(t.sf(nearest / moments.error, moments.freedom))


def _p_ranks(a: Values, b: Values, paired: bool) -> float:
    if np.isnan(a).any() or np.isnan(b).any() or min(a.size, b.size) == 1:
        return math.nan
    if not paired:
        from scipy.stats import mannwhitneyu

        return float(mannwhitneyu(a, b, alternative="two-sided").pvalue)
    with np.errstate(invalid="ignore"):
        return signed_ranks(np.where(a == b, 0.0, a - b))


def _newcombe(estimate: float, size_a: int, size_b: int, level: float) -> tuple[float, float]:
    """The ends of the interval: where `|estimate - theta| = z sd(theta)`, sd of exponential distributions."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    z, middle = float(norm.ppf((1.0 + level) / 2.0)), (size_a + size_b) / 2.0 - 1.0

    def beyond(theta: float) -> float:
        spread = 1.0 + middle * ((1.0 - theta) / (2.0 - theta) + theta / (1.0 + theta))
        return (estimate - theta) ** 2 - z**2 * theta * (1.0 - theta) * spread / (size_a * size_b)

    near = 1e-9  # to the estimate, which itself is a root where it is 0 or 1
    low = 0.0 if estimate == 0 else float(brentq(beyond, 0.0, min(estimate, 1.0 - near)))
    return low, 1.0 if estimate == 1 else float(brentq(beyond, max(estimate, near), 1.0))


def _favours(a: Values, b: Values, higher_is_better: bool, paired: bool, test: Test) -> Literal["A", "B", ""]:
    """Which one a test's statistic has ahead. Signed ranks may say another one than the share of seeds that win."""
    if np.isnan(a).any() or np.isnan(b).any():
        return ""
    with np.errstate(invalid="ignore"):
        if test == "t":
            ahead = average(a) - average(b)
        elif paired:
            ahead = signed_rank_sum(np.where(a == b, 0.0, a - b))
        else:
            ahead = float((a[:, None] > b).mean() - (a[:, None] < b).mean())
    ahead = ahead if higher_is_better else -ahead
    return "A" if ahead > 0 else "B" if ahead < 0 else ""


def _answered(verdict: Verdict, alpha: float) -> Verdict:
    """The verdict, with the answer that its adjusted p-values give."""
    if verdict.adjusted_tie <= alpha:
        return replace(verdict, answer="tie")
    if verdict.adjusted <= alpha:
        return replace(verdict, answer=verdict.favours or "undecided")
    return replace(verdict, answer="undecided")
