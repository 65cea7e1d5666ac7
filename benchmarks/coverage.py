"""How often the intervals of `analysis` cover, and how a duel compares with ten seeds: `python -m benchmarks.coverage`.

1,000 simulated benchmarks for each statistic, number of seeds and distribution, into
`benchmarks/results/coverage.json`; `python -m benchmarks.make_readme` makes the tables of docs/statistics.md of it. It
takes about five minutes of one core.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from deepobs_func.analysis import intervals, survival, tuning_curves, verdicts
from deepobs_func.analysis.intervals import Interval
from deepobs_func.analysis.samples import SHORT
from deepobs_func.study.sequential import TESTS, answer_of, running

RESULT = Path(__file__).parent / "results" / "coverage.json"
SIZES = (5, 10, 20)
LEVEL = 0.95
BENCHMARKS = 1000
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


class Shape(NamedTuple):
    """A distribution of the values of seeds, with mean 0 and standard deviation 1.

    Attributes:
        title: in the table.
        draw: `(generator, shape) -> values`.
        median, middle: its median and its interquartile mean.
    """

    title: str
    draw: Draw
    median: float
    middle: float


def _shape(title: str, distribution: Any) -> Shape:
    mean, sd = float(distribution.mean()), float(distribution.std())
    grid = (np.arange(20_000) + 0.5) / 40_000 + 0.25
    middle = float(distribution.ppf(grid).mean())
    return Shape(
        title,
        lambda generator, shape: (distribution.ppf(generator.random(shape)) - mean) / sd,
        (float(distribution.median()) - mean) / sd,
        (middle - mean) / sd,
    )


SHAPES = {
    "normal": _shape("normal", stats.norm()),
    "skewed": _shape("skewed (gamma, skewness 1)", stats.gamma(4)),
    "exponential": _shape("exponential (skewness 2)", stats.expon()),
    "lognormal": _shape("lognormal (skewness 6)", stats.lognorm(1.0)),
}
PROBLEMS = 8  # of a benchmark over problems


def covers(interval: Interval, truth: float) -> bool | None:
    """Whether it does; None where none is offered."""
    return interval.low <= truth <= interval.high if interval.is_offered else None


def _mean(assume: str) -> Callable[..., bool | None]:
    return lambda shape, draw: covers(intervals.mean(draw(), LEVEL, assume), 0.0)  # type: ignore[arg-type]


def _bca(shape: Shape, draw: Callable[..., Array]) -> bool:
    """What is not offered, for comparison: SciPy's."""
    sample, generator = draw(), np.random.default_rng(0)
    found = stats.bootstrap((sample,), np.mean, n_resamples=999, confidence_level=LEVEL, method="BCa", rng=generator)
    return bool(found.confidence_interval.low <= 0.0 <= found.confidence_interval.high)


def _over_problems(statistic: str) -> Callable[..., bool | None]:
    """Problems whose seeds spread by different amounts, and whose means differ."""

    def sample(shape: Shape, draw: Callable[..., Array]) -> bool | None:
        groups = {str(p): OFFSETS[p] + SPREADS[p] * draw() for p in range(PROBLEMS)}
        truth = _over_truth(shape.title, statistic)
        return covers(intervals.over_problems(groups, LEVEL, statistic), truth)  # type: ignore[arg-type]

    return sample


OFFSETS = np.linspace(-1.0, 1.0, PROBLEMS)
SPREADS = np.tile([0.5, 1.0], PROBLEMS // 2)
_TRUTHS: dict[tuple[str, str], float] = {}


def _over_truth(title: str, statistic: str) -> float:
    """Of the mixture of the problems, by 800,000 values."""
    if statistic == "mean":
        return 0.0
    if (title, statistic) not in _TRUTHS:
        shape = next(each for each in SHAPES.values() if each.title == title)
        drawn = shape.draw(np.random.default_rng(1), (100_000, PROBLEMS)) * SPREADS + OFFSETS
        placed = np.sort(drawn.ravel())
        _TRUTHS[title, statistic] = float(placed[placed.size // 4 : -placed.size // 4].mean())
    return _TRUTHS[title, statistic]


def _difference(spread: float, paired: bool = False) -> Callable[..., bool | None]:
    """B spreads so many times as much as A."""
    return lambda shape, draw: covers(verdicts.difference(draw() + 0.5, spread * draw(), paired=paired), 0.5)


def _superiority(shift: float) -> Callable[..., bool | None]:
    def sample(shape: Shape, draw: Callable[..., Array]) -> bool | None:
        found = verdicts.superiority(draw() + shift, draw(), higher_is_better=True, level=LEVEL)
        return covers(found, _chance(shape.title, shift))

    return sample


def _chance(title: str, shift: float) -> float:
    """That a shifted value is larger."""
    key = (title, f"shift {shift}")
    if key not in _TRUTHS:
        shape = next(each for each in SHAPES.values() if each.title == title)
        drawn = shape.draw(np.random.default_rng(2), (2, 400_000))
        _TRUTHS[key] = float((drawn[0] + shift > drawn[1]).mean())
    return _TRUTHS[key]


def _median_time(shape: Shape, draw: Callable[..., Array]) -> bool | None:
    """A budget ends 30 % of the runs."""
    times, budget = draw() + 10.0, 10.0 + _quantile(shape.title, 0.7)
    found = survival.median_time(np.minimum(times, budget), times <= budget, LEVEL)
    return covers(found, 10.0 + shape.median)


def _share_reached(shape: Shape, draw: Callable[..., Array]) -> bool | None:
    times, at = draw() + 10.0, 10.0 + _quantile(shape.title, 0.6)
    budget = 10.0 + _quantile(shape.title, 0.7)
    found = survival.share_reached(np.minimum(times, budget), times <= budget, at, LEVEL)
    return covers(found, 0.6)


def _quantile(title: str, share: float) -> float:
    key = (title, f"quantile {share}")
    if key not in _TRUTHS:
        shape = next(each for each in SHAPES.values() if each.title == title)
        _TRUTHS[key] = float(np.quantile(shape.draw(np.random.default_rng(3), (400_000,)), share))
    return _TRUTHS[key]


def _tuning_band(shape: Shape, draw: Callable[..., Array]) -> bool:
    """The whole curve, from 1 to as many trials as there are."""
    sample = draw()
    found = tuning_curves.tuning_curve(sample, higher_is_better=True, level=LEVEL)
    truth = np.array([_quantile(shape.title, 0.5 ** (1.0 / k)) for k in found.budgets])
    return bool(((found.low <= truth) & (truth <= found.high)).all())


class Statistic(NamedTuple):
    """An interval that is measured.

    Attributes:
        title: in the table.
        covers: `(shape, draw) -> whether it covered`; None where none was offered.
        offered: for which distributions it is meant to hold; empty for what is measured for comparison alone.
        times: how many times as many benchmarks, to tell what is close to two points short.
    """

    title: str
    covers: Callable[[Shape, Callable[..., Array]], bool | None]
    offered: tuple[str, ...]
    times: int = 1


ALL = tuple(SHAPES)
LIGHT = ("normal", "skewed", "exponential")
STATISTICS = {
    "mean": Statistic("mean", _mean("any"), LIGHT, times=4),
    "mean_normal": Statistic('mean, `assume="normal"`: Student\'s t', _mean("normal"), ("normal", "skewed"), times=4),
    "mean_bca": Statistic("mean, BCa: not offered", _bca, ()),
    "median": Statistic("median", lambda s, d: covers(intervals.median(d(), LEVEL), s.median), ALL),
    "iqm": Statistic("interquartile mean", lambda s, d: covers(intervals.interquartile_mean(d()), s.middle), ALL),
    "over_mean": Statistic("mean over 8 problems", _over_problems("mean"), LIGHT),
    "over_iqm": Statistic("interquartile mean over 8 problems", _over_problems("iqm"), ALL),
    "difference": Statistic("difference, Welch", _difference(1.0), ALL),
    "difference_unequal": Statistic("difference, Welch, B spreads twice as much", _difference(2.0), LIGHT),
    "difference_paired": Statistic("difference, paired", _difference(1.0, paired=True), ALL),
    "superiority": Statistic("probability of superiority, 1 sd", _superiority(1.0), LIGHT),
    "superiority_none": Statistic("probability of superiority, no difference", _superiority(0.0), ALL),
    "median_time": Statistic("median time, 30 % censored", _median_time, ALL),
    "share_reached": Statistic("share that reached the target", _share_reached, ALL),
    "tuning_band": Statistic("tuning curve, the whole band", _tuning_band, ALL),
}


def coverage(statistic: Statistic, shape: Shape, size: int, benchmarks: int) -> float | None:
    """The share of simulated benchmarks in which the interval covered; None where none is offered."""
    generator, hits = np.random.default_rng([size, benchmarks]), []
    for _ in range(benchmarks):
        hits.append(statistic.covers(shape, lambda: shape.draw(generator, (size,))))
    return None if any(hit is None for hit in hits) else statistics.fmean(map(bool, hits))


class Match(NamedTuple):
    """Simulated duels.

    Attributes:
        difference: of the means, in standard deviations of a run, in favour of A.
        delta: what is a tie, in the same units; None for nothing.
        shape: of the values of both.
        test: a name of `study.sequential.TESTS`.
    """

    difference: float
    delta: float | None
    shape: str = "normal"
    test: str = "t"


BUDGET = 50
FIXED = 10
MATCHES = (
    *(Match(difference, 1.0) for difference in (0.0, 1.0, 2.0, 4.0)),
    *(Match(0.0, None, shape, test) for test in TESTS for shape in ("normal", "exponential", "lognormal")),
    *(Match(1.05, 1.0, "normal", test) for test in TESTS),
    *(Match(difference, 1.0, "normal", "sign") for difference in (0.0, 1.0, 2.0, 4.0)),
)


def play(match: Match, duels: int) -> dict[str, Any]:
    """Duels of independent runs: their answers, and after how many seeds; and what a fixed ten say of the same runs."""
    generator, shape = np.random.default_rng([7, duels]), SHAPES[match.shape]
    answers: list[str] = []
    fixed: list[str] = []
    seeds: list[float] = []
    for _ in range(duels):
        a, b = shape.draw(generator, (2, BUDGET))
        a = a + match.difference
        bounds = running((a - b).tolist(), LEVEL, TESTS[match.test])
        found = [answer_of(each, match.delta) for each in bounds]
        first = next((index for index, each in enumerate(found) if each != "undecided"), None)
        answers.append("undecided" if first is None else found[first])
        seeds.append(math.inf if first is None else first + 1)
        given: Mapping[str, Any] = {"higher_is_better": True, "delta": match.delta, "level": LEVEL, "paired": True}
        fixed.append(verdicts.compare(a[:FIXED], b[:FIXED], **given).answer)
    median = statistics.median(seeds)
    return {
        **match._asdict(),
        "answers": {each: answers.count(each) for each in ("A", "B", "tie", "undecided")},
        "median_seeds": median if math.isfinite(median) else None,
        "fixed": {each: fixed.count(each) for each in ("A", "B", "tie", "undecided")},
    }


def measure(benchmarks: int = BENCHMARKS) -> dict[str, Any]:
    """All of it, as plain data."""
    rows = []
    for name, statistic in STATISTICS.items():
        for key, shape in SHAPES.items():
            found = {str(size): coverage(statistic, shape, size, benchmarks * statistic.times) for size in SIZES}
            rows.append({"statistic": name, "shape": key, "coverage": found})
            print(name, key, found, flush=True)
    duels = [play(match, benchmarks) for match in MATCHES]
    return {"level": LEVEL, "benchmarks": benchmarks, "intervals": rows, "budget": BUDGET, "duels": duels}


def short(result: Mapping[str, Any]) -> list[str]:
    """What is offered and falls more than two points short: there should be nothing."""
    return [
        f"{row['statistic']} {row['shape']} {size}: {found}"
        for row in result["intervals"]
        for size, found in row["coverage"].items()
        if row["shape"] in STATISTICS[row["statistic"]].offered
        if found is not None and found < result["level"] - SHORT
    ]


def main() -> None:
    """Measures, writes, and says what falls short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=int, default=BENCHMARKS, help="simulated ones")
    parser.add_argument("--output", type=Path, default=RESULT)
    given = parser.parse_args()
    result = measure(given.benchmarks)
    given.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("\n".join(short(result)) or "nothing falls short")
    for each in result["duels"]:
        print(each)


if __name__ == "__main__":
    main()
