"""Which optimizer reaches a target first, where some seeds end before they reach it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.honesty import Caveat, mind
from deepobs_func.analysis.parsing import CLOCK_NAMES
from deepobs_func.analysis.rendering import render, shown, shown_metric
from deepobs_func.analysis.tables import check_complete
from deepobs_func.errors import ConfigError, option

if TYPE_CHECKING:
    from deepobs_func.analysis.reports.collecting import ProblemData
    from deepobs_func.analysis.reports.ranking import Choice, Placed
    from deepobs_func.analysis.results import Results


@dataclass(frozen=True)
class Raced:
    """What came of a problem.

    Attributes:
        problem, metric: what was watched.
        target: of the metric.
        published: whether the target is the published convergence performance.
        placed: the optimizers, the smallest median time first.
        missing: the other optimizers, and why they are left out.
    """

    problem: str
    metric: str
    target: float
    published: bool
    placed: tuple[Placed, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Race:
    """What `race` found; `str()` of it is what `deepobs compare --against` prints.

    Attributes:
        clock: in what time is counted.
        problems: those on which two optimizers or more have times.
        caveats: what makes it less than it looks.
        missing: the other problems, and why they are left out.
    """

    clock: str
    problems: tuple[Raced, ...]
    caveats: tuple[Caveat, ...]
    missing: Mapping[str, str]

    def __str__(self) -> str:
        told = [
            _told(each, self.clock, [c for c in self.caveats if c.problem == each.problem]) for each in self.problems
        ]
        left = [f"{name} is left out: {why}." for name, why in self.missing.items()]
        return "\n\n".join([*told, *filter(None, ["\n".join(left)])])


def race(
    results: Results,
    optimizers: Sequence[str] = (),
    *,
    clock: str = "epoch",
    target: float | None = None,
    mode: str = "most",
    metric: str | None = None,
) -> Race:
    """Compares optimizers by the time to a target. A seed that ends before it reaches the target is censored.

    Finished, diverged and stopped runs count, each up to its own end; of a seed with a complete run, that one. Which
    setting stands for an optimizer is decided by complete runs, where it has any. The median is Kaplan and Meier's;
    pairs are compared by the log-rank test, with Holm's adjustment over the pairs of a problem.

    Args:
        results: what was read.
        optimizers: display names; all of them where none is given.
        clock: in what time is counted: `"epoch"`, `"step"`, `"seconds"` of training, `"gradients"`, the gradient
            evaluations that the optimizer asked for, or `"cost"`, all its calls of the oracle in gradient equivalents.
        target: of the metric; None for the published convergence performance of each problem, or, where there is
            none, for that of `ProblemData.target`.
        mode: which setting stands for an optimizer, as in `Results.best`.
        metric: a column of `results.epochs`; None for that by which each problem is judged.

    Returns:
        The race on each problem on which two optimizers or more have such runs that recorded the clock.

    Raises:
        ConfigError: there is no such clock, mode or metric, a target is given for several problems or is not finite, a
            problem or metric has no target of its own, or no problem has two optimizers that can be compared.

    >>> from deepobs_func import analysis
    >>> found = race(analysis.load("published").select(problem="quadratic_deep"))
    >>> [(placed.optimizer, placed.value, placed.reached) for placed in found.problems[0].placed]
    [('adam (published)', 40.0, 10), ('sgd (published)', 55.0, 10), ('momentum (published)', 69.0, 10)]
    """
    from deepobs_func.analysis.reports.collecting import caveats_of, collect
    from deepobs_func.analysis.reports.ranking import rank_problem, target_of
    from deepobs_func.analysis.reports.scoring import timed_by

    by = replace(timed_by(clock), quantity=metric or "")
    if target is not None and not math.isfinite(target):
        raise ConfigError(f"{option('target')} {target}: it must be a finite number.")
    check_complete(results, timed=True)
    chosen = results.select(optimizer=list(optimizers)) if optimizers else results
    if target is not None and len(chosen.problems) > 1:
        raise ConfigError(
            f"{option('target')} {target:g} for {', '.join(chosen.problems)}: choose one problem. Without a "
            "target each problem has its own."
        )
    for problem in chosen.problems:
        chosen.metric(problem, metric)  # which there must be
    found, raced, left = [], [], {}
    for each in collect(chosen, mode):
        choice = by if target is None else replace(by, targets={each.name: target})
        goal, placed = target_of(each, choice), tuple(rank_problem(each, choice))
        missing = _missing(chosen, each, placed, choice)
        if len(placed) < 2:
            told = [f"{placed[0].optimizer} is alone"] if placed else []
            left[each.name] = "; ".join([*told, *(f"{name}: {why}" for name, why in missing.items())])
        elif math.isnan(goal):
            why = f"{metric} has no target" if metric else "No run has a finite end, so that there is no target"
            raise ConfigError(f"{why} on {each.name}. Give one with {option('target')}.")
        else:
            own = each.published and target is None
            found.append(Raced(each.name, metric or each.metric, goal, own, placed, missing))
            raced.append(each)
    if not found:
        there = ". ".join(f"{name}: {why}" for name, why in left.items())
        raise ConfigError(
            f"No problem has runs of two optimizers that recorded the clock {clock!r}. {there}. Choose another one, or "
            "run another optimizer."
        )
    return Race(clock, tuple(found), tuple(caveats_of(chosen, raced)), left)


def _missing(results: Results, problem: ProblemData, placed: Sequence[Placed], choice: Choice) -> dict[str, str]:
    """The optimizers on a problem that have no time, and why."""
    there, words = {each.optimizer for each in placed}, f"no {(choice.quantity or problem.metric).replace('_', ' ')}"
    found = {
        name: f"no complete or stopped run ({results.statuses(problem.name, name)})" for name in problem.incomplete
    }
    for each in problem.shown:
        is_measured = all((choice.quantity or problem.metric) in part.curves for part in each.parts)
        found[each.optimizer] = f"a run recorded no {CLOCK_NAMES[choice.clock]}" if is_measured else words
    return {name: why for name, why in sorted(found.items()) if name not in there}


def _told(found: Raced, clock: str, caveats: Sequence[Caveat]) -> str:
    """The table of a problem, and what to know before it is believed."""
    metric, unit = found.metric.replace("_", " "), CLOCK_NAMES[clock]
    limit = "at least" if is_accuracy(found.metric) else "at most"
    which = " (published convergence performance)" if found.published else ""
    titles = ("optimizer", f"median {unit}", "95 % interval", "reached", "p")
    rows = [
        (
            each.optimizer,
            _time(each.value),
            f"{_time(each.low)} to {_time(each.high)}" if not math.isnan(each.low) else "none",
            f"{each.reached} of {each.seeds}",
            shown(each.p_leader, 2) if not math.isnan(each.p_leader) else "",
        )
        for each in found.placed
    ]
    head = f"{found.problem}: {unit} until {metric} is {limit} {shown_metric(found.target, found.metric)}{which}"
    lines = [head, render(titles, rows), "p: log-rank test against the first, adjusted for all pairs."]
    lines += [f"{name} is left out: {why}." for name, why in found.missing.items()]
    return "\n".join(lines + mind(caveats))


def _time(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:.4g}"
