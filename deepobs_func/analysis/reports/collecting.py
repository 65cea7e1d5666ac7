"""What a report shows: of each problem, the setting that stands for each optimizer, with the curves of its seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.choosing import Setting, choose, is_accuracy, settings_of
from deepobs_func.analysis.figures.comparison import finals_of
from deepobs_func.analysis.figures.rates import rates_of
from deepobs_func.analysis.honesty import Caveat, caveats
from deepobs_func.analysis.parsing import QUANTITIES

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from deepobs_func.analysis.results import Results

    Array = NDArray[np.float64]

_POINTS = 120  # of a tracked quantity


@dataclass(frozen=True)
class Stopped:
    """Runs of a setting that a callback ended: only where times are compared they count, as censored or arrived.

    Attributes:
        seeds: of the runs.
        curves, clocks: as in `Shown`, of these runs.
    """

    seeds: tuple[int, ...] = ()
    curves: Mapping[str, Array] = field(default_factory=dict)
    clocks: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """The setting that stands for an optimizer on a problem.

    Attributes:
        optimizer: its name.
        runs: the numbers of its runs in `Results.runs`, by seed, then those that were stopped.
        seeds: of the complete runs.
        statuses: of all runs of the optimizer on the problem, how many ended how.
        curves: by quantity, `(evaluations, seeds)`, NaN after the end of a shorter run.
        clocks: by name, one of `parsing.CLOCK_NAMES`, as the curves; those that are not known of every run are left
            out.
        rates: learning rates and the final metric at each, as in `figures.rates.by_rate`.
        trials: the final metric of the first seed of each setting that was tried; NaN where it diverged.
        tracked: by quantity, steps, the mean over the seeds and their standard deviation, `(points, 3)`.
        stopped: its runs that were stopped.
    """

    optimizer: str
    runs: tuple[int, ...]
    seeds: tuple[int, ...]
    statuses: dict[str, int]
    curves: dict[str, Array]
    clocks: dict[str, Array]
    rates: tuple[Array, Array]
    trials: tuple[float, ...] = ()
    tracked: Mapping[str, Array] = field(default_factory=dict)
    stopped: Stopped = Stopped()

    @property
    def parts(self) -> tuple[Shown | Stopped, ...]:
        """What times are taken of: the complete runs and the stopped ones, as far as there are any."""
        return tuple(part for part in (self, self.stopped) if part.seeds)


@dataclass(frozen=True)
class ProblemData:
    """What is shown of a problem.

    Attributes:
        name: of the problem.
        metric: the quantity by which it is judged.
        target: of that metric; where none is published, the median of the optimizers' final means (of two middle ones
            the worse), rounded to the worse side to three digits; NaN where no run has a finite end.
        published: whether the target is the published convergence performance.
        quantities: what any of its runs recorded, the judged one first.
        shown: one for each optimizer that has a complete run, or a stopped one.
        incomplete: the optimizers without a complete run, and how their runs ended.
        synthetic: whether any run was on stand-in data.
        every: only every so many-th evaluation is in the curves, and the last one.
        tracked: the quantities that any of its runs tracked.
        left_out: what was recorded and is not shown, for the size of the page.
    """

    name: str
    metric: str
    target: float
    published: bool
    quantities: tuple[str, ...]
    shown: tuple[Shown, ...]
    incomplete: dict[str, dict[str, int]]
    synthetic: bool
    every: int = 1
    tracked: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def numbers(self) -> int:
        """How many numbers the curves are, those of tracked quantities too."""
        tables = [table for each in self.shown for part in each.parts for table in (part.curves, part.clocks)]
        tables += [each.tracked for each in self.shown]
        return sum(array.size for table in tables for array in table.values())


def collect(results: Results, mode: str = "most") -> tuple[ProblemData, ...]:
    """What a report shows of each problem.

    Args:
        results: what was read.
        mode: how the setting of each optimizer is chosen, as in `Results.best`.

    Returns:
        One for each problem.

    Raises:
        ConfigError: there is no such mode.
    """
    of_run = {int(run): frame for run, frame in results.tracked.groupby("run", sort=False)}
    return tuple(_problem(results, name, mode, of_run) for name in results.problems)


def caveats_of(results: Results, problems: Sequence[ProblemData]) -> list[Caveat]:
    """What to know of the settings that are shown.

    Args:
        results: what was read.
        problems: what is shown of them.

    Returns:
        The caveats, as `honesty.caveats` has them.
    """
    chosen = {
        (each.name, shown.optimizer): str(results.row(shown.runs[0])["setting"])
        for each in problems
        for shown in each.shown
    }
    return caveats(results.runs, chosen)


def _problem(results: Results, name: str, mode: str, of_run: Mapping[int, pd.DataFrame]) -> ProblemData:
    rows = results.runs[results.runs["problem"] == name]
    metric = str(rows["metric"].iloc[0])
    frame = results.epochs[results.epochs["run"].isin(rows.index)]
    recorded = [each for each in QUANTITIES if not frame[each].isna().all()]
    shown, incomplete = [], {}
    for optimizer, ended in rows.groupby("optimizer")["status"]:
        statuses = {str(status): int(count) for status, count in ended.value_counts().sort_index().items()}
        # A problem whose metric no run recorded has nothing to be judged by.
        settings = settings_of(results, name, optimizer, timed=True) if metric in recorded else []
        if settings:
            chosen = choose(settings, mode, is_accuracy(metric))
            found = _shown(results, optimizer, chosen, statuses, recorded)
            settings = [each for each in settings if each.runs]
            more: dict[str, Any] = {"rates": rates_of(results, settings)}
            more["trials"] = tuple(finals_of(results, metric, settings)) if len(settings) > 1 else ()
            shown.append(
                replace(found, **more, tracked=_tracked([of_run[run] for run in chosen.runs if run in of_run]))
            )
        if not any(each.runs for each in settings):
            incomplete[optimizer] = statuses
    published = float(rows["target"].iloc[0])
    is_published = math.isfinite(published)
    return ProblemData(
        name,
        metric,
        published if is_published else _typical_end(shown, metric),
        is_published,
        tuple(dict.fromkeys(([metric] if metric in recorded else []) + recorded)),
        tuple(shown),
        incomplete,
        bool((rows["data"] == "synthetic").any()),
        tracked=tuple(dict.fromkeys(quantity for each in shown for quantity in each.tracked)),
    )


def _shown(
    results: Results,
    optimizer: str,
    chosen: Setting,
    statuses: dict[str, int],
    recorded: Sequence[str],
) -> Shown:
    seeds, curves, clocks = _measured(results, chosen.runs, recorded)
    none = np.empty(0)
    stopped = Stopped(*_measured(results, chosen.stopped, recorded))
    runs = chosen.runs + chosen.stopped
    return Shown(optimizer, runs, seeds, statuses, curves, clocks, (none, none), stopped=stopped)


def _measured(
    results: Results, runs: Sequence[int], recorded: Sequence[str]
) -> tuple[tuple[int, ...], dict[str, Array], dict[str, Array]]:
    """Seeds, curves and clocks of runs: each clock up to the run's own last evaluation."""
    if not runs:
        return (), {}, {}
    seeds = tuple(int(results.row(run)["seed"]) for run in runs)
    curves = {each: _side_by_side([results.values(run, each) for run in runs]) for each in recorded}
    epochs = [np.arange(len(results.values(run, recorded[0])), dtype=np.float64) for run in runs]
    steps = [float(results.row(run)["steps_per_epoch"]) for run in runs]
    clocks = {
        "epoch": epochs,
        "step": [each * by for each, by in zip(epochs, steps, strict=True)],
        **{each: [results.values(run, each) for run in runs] for each in ("seconds", "gradients", "cost")},
    }
    known = {name: columns for name, columns in clocks.items() if not any(np.isnan(each).any() for each in columns)}
    return (
        seeds,
        {name: array for name, array in curves.items() if not np.isnan(array).all()},
        {name: _side_by_side(columns) for name, columns in known.items()},
    )


def _tracked(frames: Sequence[pd.DataFrame]) -> dict[str, Array]:
    """By quantity of one number, the mean over the seeds at steps that all have, and how far they spread."""
    by_quantity: dict[str, list[pd.Series]] = {}
    for frame in frames:
        for quantity, part in frame.groupby("quantity", observed=True, sort=False):
            if "[" not in str(quantity):
                last = part.drop_duplicates("step", keep="last")  # a run that was resumed may have a step again
                by_quantity.setdefault(str(quantity), []).append(last.set_index("step")["value"])
    found = {}
    for quantity, columns in by_quantity.items():
        steps = sorted(set.intersection(*(set(column.index) for column in columns)))
        every = -(-len(steps) // _POINTS) or 1
        steps = [*steps[:-1:every], *steps[-1:]]
        table = np.array([column.loc[steps].to_numpy(dtype=float) for column in columns]).T
        with np.errstate(invalid="ignore", over="ignore"):
            spread = table.std(axis=1, ddof=1) if table.shape[1] > 1 else np.full(len(table), np.nan)
            found[quantity] = np.column_stack((np.array(steps, dtype=float), table.mean(axis=1), spread))
    return {quantity: table for quantity, table in found.items() if len(table)}


def _side_by_side(columns: Sequence[Array]) -> Array:
    table = np.full((max(map(len, columns)), len(columns)), np.nan)
    for index, column in enumerate(columns):
        table[: len(column), index] = column
    return table


def _typical_end(shown: Sequence[Shown], metric: str) -> float:
    """Where nothing is published: the median of the final means, of two middle ones the worse, to three digits.

    What is cut off is rounded to the worse side, so that the optimizer of that mean reaches it.
    """
    ends = [float(np.mean(each.curves[metric][-1])) for each in shown if metric in each.curves]
    finite = sorted(end for end in ends if math.isfinite(end))
    if not finite:
        return math.nan
    if is_accuracy(metric):
        finite.reverse()
    middle = Decimal(repr(finite[len(finite) // 2]))
    way = ROUND_FLOOR if is_accuracy(metric) else ROUND_CEILING
    return float(middle.quantize(Decimal(1).scaleb(middle.adjusted() - 2), way))


def thinned(problems: Sequence[ProblemData], most: int) -> tuple[ProblemData, ...]:
    """The problems with at most so many numbers in their curves, as far as that can be.

    First those quantities go that are neither judged by nor the training loss, with the tracked ones; then epochs, but
    for the last one.
    """
    if sum(each.numbers for each in problems) <= most:
        return tuple(problems)
    fewer = [_with_quantities(each, tuple(dict.fromkeys((each.metric, "train_loss")))) for each in problems]
    for every in (1, 2, 5, 10, 20, 50, 100, 1000):
        found = tuple(_every(each, every) for each in fewer)
        if sum(each.numbers for each in found) <= most:
            break
    return found


def _with_quantities(problem: ProblemData, kept: Sequence[str]) -> ProblemData:
    shown = tuple(
        replace(each, curves=_only(each.curves, kept), tracked={}, stopped=_fewer(each.stopped, kept))
        for each in problem.shown
    )
    left_out = tuple(name for name in (*problem.quantities, *problem.tracked) if name not in kept)
    quantities = tuple(name for name in problem.quantities if name in kept)
    return replace(problem, shown=shown, quantities=quantities, tracked=(), left_out=left_out)


def _only(tables: Mapping[str, Array], kept: Sequence[str]) -> dict[str, Array]:
    return {name: array for name, array in tables.items() if name in kept}


def _fewer(stopped: Stopped, kept: Sequence[str]) -> Stopped:
    return replace(stopped, curves=_only(stopped.curves, kept))


def _every(problem: ProblemData, every: int) -> ProblemData:
    def thin(each: Any) -> dict[str, Any]:
        """Every so many-th evaluation, and the last one of each run, at which it may have arrived."""
        tables = {"curves": each.curves, "clocks": each.clocks}
        if not each.clocks:
            return tables
        lengths = np.count_nonzero(~np.isnan(each.clocks["epoch"]), axis=0)
        index = np.union1d(np.arange(0, lengths.max(), every), lengths - 1)
        return {which: {name: array[index] for name, array in table.items()} for which, table in tables.items()}

    shown = tuple(
        replace(each, **thin(each), stopped=replace(each.stopped, **thin(each.stopped))) for each in problem.shown
    )
    return replace(problem, shown=shown, every=every)
