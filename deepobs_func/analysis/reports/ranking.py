"""Who is better on a problem, and over all problems, by what the reader chooses; `assets/ranking.js` does the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.intervals import mean as mean_interval
from deepobs_func.analysis.reports.collecting import ProblemData, Shown
from deepobs_func.analysis.samples import LEVEL, average, averages, variance
from deepobs_func.analysis.statistics import holm
from deepobs_func.analysis.survival import first_reached, log_rank, median_time
from deepobs_func.errors import ConfigError, option

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

MEASURES = ("final", "best", "time")


@dataclass(frozen=True)
class Choice:
    """By what optimizers are ranked.

    Attributes:
        measure: `"final"`, the mean after the last epoch; `"best"`, the mean at the epoch at which it is best, one for
            all seeds; `"time"`, the median time to the target.
        quantity: a column of `Results.epochs`; "" for that by which each problem is judged. A problem that lacks it is
            left out.
        clock: in what time is counted, one of `parsing.CLOCK_NAMES`.
        targets: by problem, other targets than its own.
        hidden: optimizers that are left out.
    """

    measure: str = "final"
    quantity: str = ""
    clock: str = "epoch"
    targets: Mapping[str, float] = field(default_factory=dict)
    hidden: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ConfigError(f"{option('measure')} {self.measure!r}: it must be one of {', '.join(MEASURES)}.")


class Placed(NamedTuple):
    """An optimizer on a problem.

    Attributes:
        optimizer: its name.
        rank: from 1; those that are equal share the mean of their ranks.
        lowest, highest: the ranks that the tests leave: 1 + how many are told to be better, and all but how many are
            told to be worse.
        value: the mean, or the median time; infinite where less than half of the seeds
            are known to have reached the target.
        low, high: its interval; NaN where there is none.
        seeds: how many.
        reached: how many of them reached the target; all of them where that is not asked.
        p_leader: adjusted p-value of the difference to the first one; NaN where it cannot be tested, and for the first.
        answer: `"leads"`, `"alone"` (all others are told to be worse), `"only"` (there is no other), `"tied"` (not told
            apart from the first), `"worse"`, or `"untested"`.
    """

    optimizer: str
    rank: float
    lowest: int
    highest: int
    value: float
    low: float
    high: float
    seeds: int
    reached: int
    p_leader: float
    answer: str


class Overall(NamedTuple):
    """An optimizer over all problems that every shown optimizer has.

    Attributes:
        optimizer: its name.
        mean_rank: over the problems.
        lowest, highest: the means of the ranks that the tests leave.
        first, not_worse: on how many problems it is first, and on how many no other one is told to be better.
        problems: how many there are.
    """

    optimizer: str
    mean_rank: float
    lowest: float
    highest: float
    first: int
    not_worse: int
    problems: int


def rank_problem(problem: ProblemData, choice: Choice) -> list[Placed]:
    """The optimizers on a problem, the best first.

    Pairs are compared by Welch's t-test, or the log-rank test for times, with Holm's adjustment over all pairs.

    Args:
        problem: what is shown of it.
        choice: by what they are ranked.

    Returns:
        One for each that is not hidden and has the quantity; none where the problem lacks it.
    """
    there, samples, sign = _samples(problem, choice)
    test = _p_times if choice.measure == "time" else _p_welch
    return _placed(there, samples, sign, _adjusted(test(samples), len(samples)))


def rank_all(problems: Sequence[ProblemData], choice: Choice) -> dict[str, list[Placed]]:
    """The optimizers on every problem, by its name, as `rank_problem` has them."""
    return {each.name: rank_problem(each, choice) for each in problems}


def values_of(problem: ProblemData, choice: Choice) -> dict[str, float]:
    """The value of each optimizer on a problem, as in `Placed`, without a test.

    Args:
        problem, choice: as for `rank_problem`.

    Returns:
        By optimizer, in the order of `problem.shown`.
    """
    there, samples, _ = _samples(problem, choice)
    return {each.optimizer: sample.value for each, sample in zip(there, samples, strict=True)}


def target_of(problem: ProblemData, choice: Choice) -> float:
    """The target on a problem: what was chosen, else its own one, which is of the metric by which it is judged."""
    own = problem.target if (choice.quantity or problem.metric) == problem.metric else math.nan
    return choice.targets.get(problem.name, own)


def _samples(problem: ProblemData, choice: Choice) -> tuple[list[Shown], list[_Sample], float]:
    """Who is compared, by what, and the sign with which less is better."""
    quantity = choice.quantity or problem.metric
    there = [each for each in problem.shown if each.optimizer not in choice.hidden]
    if choice.measure == "time":
        there = [
            each
            for each in there
            if all(quantity in part.curves and choice.clock in part.clocks for part in each.parts)
        ]
        target = target_of(problem, choice)
        return there, [_times(each, quantity, choice.clock, target) for each in there], 1.0
    there = [each for each in there if quantity in each.curves]
    sign = -1.0 if is_accuracy(quantity) else 1.0
    return there, [_values(each.curves[quantity], choice.measure, sign) for each in there], sign


class _Sample(NamedTuple):
    """One value a seed; of times, those of censored runs are when they ended."""

    seeds: Array
    reached: NDArray[np.bool_]
    value: float
    timed: bool


def _values(curve: Array, measure: str, sign: float) -> _Sample:
    """The seeds after the last epoch, or at the epoch at which their mean is best."""
    row = len(curve) - 1
    if measure == "best":
        means = averages(curve)
        worth = np.where(np.isfinite(means), sign * means, np.inf)
        row = int(np.argmin(worth)) if np.isfinite(worth).any() else row
    seeds = curve[row]
    return _Sample(seeds, np.ones(len(seeds), dtype=bool), average(seeds), False)


def _times(each: Shown, quantity: str, clock: str, target: float) -> _Sample:
    """Of complete and of stopped runs; each is seen up to its own last evaluation."""
    higher, found = is_accuracy(quantity), []
    for part in each.parts:
        for curve, times in zip(part.curves[quantity].T, part.clocks[clock].T, strict=True):
            end = np.count_nonzero(~np.isnan(times))
            found.append(first_reached(curve[:end], target, higher, times[:end]))
    times, reached = np.array([time for time, _ in found]), np.array([flag for _, flag in found])
    return _Sample(times, reached, median_time(times, reached).estimate, True)


def _p_welch(samples: Sequence[_Sample]) -> list[float]:
    """Of every pair, Welch's t-test: all of them at once, since a thousand optimizers are half a million pairs."""
    from scipy.stats import t

    i, j = np.triu_indices(len(samples), 1)
    sizes = np.array([len(each.seeds) for each in samples])
    testable = np.array([len(each.seeds) > 1 and bool(np.isfinite(each.seeds).all()) for each in samples], dtype=bool)
    parts = [
        variance(each.seeds) / size if can else math.nan
        for each, size, can in zip(samples, sizes, testable, strict=True)
    ]
    a, b = np.array(parts, dtype=float)[i], np.array(parts, dtype=float)[j]
    means = np.array([each.value for each in samples])
    with np.errstate(divide="ignore", invalid="ignore"):
        apart, total = np.abs(means[i] - means[j]), a + b
        shares = (a / total) ** 2 / (sizes[i] - 1) + (b / total) ** 2 / (
            sizes[j] - 1
        )  # squares of small ones underflow
        freedom = 1.0 / shares
        found = 2 * t.sf(apart / np.sqrt(total), freedom)
    found = np.where(total == 0, (apart == 0).astype(float), found)
    return np.where(testable[i] & testable[j], found, np.nan).tolist()


def _p_times(samples: Sequence[_Sample]) -> list[float]:
    """Of every pair, the log-rank test."""
    return [_p_time(a, b) for a, b in itertools.combinations(samples, 2)]


def _p_time(a: _Sample, b: _Sample) -> float:
    if min(len(a.seeds), len(b.seeds)) < 2:
        return math.nan
    return log_rank(a.seeds, a.reached, b.seeds, b.reached)


def _adjusted(p_values: Sequence[float], count: int) -> Array:
    """The adjusted p-value of each pair, `(count, count)`; NaN on the diagonal."""
    found = np.full((count, count), np.nan)
    i, j = np.triu_indices(count, 1)
    found[i, j] = found[j, i] = holm(p_values)
    return found


def _placed(there: Sequence[Shown], samples: Sequence[_Sample], sign: float, adjusted: Array) -> list[Placed]:
    costs = np.array([sign * sample.value if math.isfinite(sample.value) else math.inf for sample in samples])
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -int(samples[i].reached.sum()), there[i].optimizer))
    found = []
    for i in order:
        told = adjusted[i] < 1 - LEVEL
        better, worse = int((told & (costs < costs[i])).sum()), int((told & (costs > costs[i])).sum())
        rank = float((costs < costs[i]).sum() + (1 + (costs == costs[i]).sum()) / 2)
        leads = i == order[0]
        p = math.nan if leads else float(adjusted[i, order[0]])
        low, high = _interval(samples[i])
        found.append(
            Placed(
                optimizer=there[i].optimizer,
                rank=rank,
                lowest=1 + better,
                highest=len(costs) - worse,
                value=samples[i].value,
                low=low,
                high=high,
                seeds=len(samples[i].seeds),
                reached=int(samples[i].reached.sum()),
                p_leader=p,
                answer=_answer(len(costs), leads, worse, p, as_good=bool(costs[i] == costs[order[0]])),
            )
        )
    return found


def _interval(sample: _Sample) -> tuple[float, float]:
    found = median_time(sample.seeds, sample.reached) if sample.timed else mean_interval(sample.seeds)
    return found.low, found.high


def sample_intervals(curve: Array, quantity: str) -> dict[str, tuple[float, float]]:
    """The intervals of the mean over seeds, by measure, which the browser cannot compute: they draw samples."""
    sign = -1.0 if is_accuracy(quantity) else 1.0
    return {measure: _interval(_values(curve, measure, sign)) for measure in ("final", "best")}


def _answer(count: int, leads: bool, worse: int, p: float, *, as_good: bool) -> str:
    """In words. One whose median time is that of the leader is not worse, whatever the test sees in the curves."""
    if count == 1:
        return "only"
    if leads:
        return "alone" if worse == count - 1 else "leads"
    if math.isnan(p):
        return "untested"
    return "worse" if p < 1 - LEVEL and not as_good else "tied"


class Standing(NamedTuple):
    """All optimizers over all problems.

    Attributes:
        rows: the optimizers, the best mean rank first.
        problems: those that count: which every optimizer has that has any.
        left_out: the other ones.
        p_friedman: that all are alike; NaN for fewer than three optimizers or two problems.
    """

    rows: tuple[Overall, ...]
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    p_friedman: float


def rank_overall(problems: Sequence[ProblemData], choice: Choice) -> Standing:
    """The optimizers over all problems, the best mean rank first.

    Args:
        problems: what is shown of each.
        choice: by what they are ranked.

    Returns:
        Their mean ranks, and Friedman's test of them.

    Source: Friedman, 1937; computed by SciPy.
    """
    return standing_of(rank_all(problems, choice))


def standing_of(every: Mapping[str, Sequence[Placed]]) -> Standing:
    """As `rank_overall`, of the rankings of `rank_all`."""
    placed = {name: found for name, found in every.items() if found}
    names = sorted({each.optimizer for found in placed.values() for each in found})
    shared = {name: found for name, found in placed.items() if len(found) == len(names)}
    by_name = [{each.optimizer: each for each in found} for found in shared.values()]
    rows = []
    for name in names if shared else ():
        mine = [found[name] for found in by_name]
        rows.append(
            Overall(
                name,
                sum(each.rank for each in mine) / len(mine),
                sum(each.lowest for each in mine) / len(mine),
                sum(each.highest for each in mine) / len(mine),
                sum(each.rank == 1 for each in mine),
                sum(each.lowest == 1 for each in mine),
                len(mine),
            )
        )
    rows.sort(key=lambda row: (row.mean_rank, row.optimizer))
    left = tuple(name for name in placed if name not in shared)
    table = [[found[name].rank for name in names] for found in by_name]
    return Standing(tuple(rows), tuple(shared), left, _friedman(np.array(table)))


def _friedman(ranks: Array) -> float:
    """Of ranks, `(problems, optimizers)`."""
    if ranks.ndim < 2 or ranks.shape[0] < 2 or ranks.shape[1] < 3:
        return math.nan
    if (ranks == ranks[:, :1]).all():
        return 1.0
    from scipy.stats import friedmanchisquare

    return float(friedmanchisquare(*ranks.T).pvalue)
