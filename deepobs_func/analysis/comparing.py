"""Optimizers against each other, problem by problem: the first verdict after two runs, and the last after many."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepobs_func.analysis.choosing import choose, is_accuracy, settings_of
from deepobs_func.analysis.honesty import Caveat, mind
from deepobs_func.analysis.intervals import ONE_SEED
from deepobs_func.analysis.reading import PUBLISHED, load
from deepobs_func.analysis.rendering import described, render, shown, shown_metric, shown_sd
from deepobs_func.analysis.results import Results
from deepobs_func.analysis.samples import LEVEL, average
from deepobs_func.analysis.tables import check_complete, sample_sd
from deepobs_func.analysis.verdicts import Verdict, compare_all
from deepobs_func.errors import ConfigError, unknown

_SAID = "one_seed"  # the kind of caveat that is said in other words


@dataclass(frozen=True)
class Entrant:
    """An optimizer on a problem.

    Attributes:
        optimizer: its display name.
        setting: the text of the setting that stands for it.
        described: that setting in words.
        seeds: of its runs.
        finals: the metric after the last epoch, of each.
        mean, sd: of these; the standard deviation is that of a sample, NaN for one seed.
    """

    optimizer: str
    setting: str
    described: str
    seeds: tuple[int, ...]
    finals: tuple[float, ...]
    mean: float
    sd: float


@dataclass(frozen=True)
class OnProblem:
    """What came of a problem.

    Attributes:
        problem, metric: what was compared.
        higher_is_better: of the metric.
        entrants: best mean first.
        verdicts: of every pair.
        missing: optimizers without a complete run, and why.
    """

    problem: str
    metric: str
    higher_is_better: bool
    entrants: tuple[Entrant, ...]
    verdicts: tuple[Verdict, ...]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; `str()` of it is what `deepobs compare` prints.

    Attributes:
        problems: on which two of the optimizers or more have runs.
        caveats: what makes it less than it looks.
    """

    problems: tuple[OnProblem, ...]
    caveats: tuple[Caveat, ...] = ()

    def __str__(self) -> str:
        return "\n\n".join(
            _told(each, [c for c in self.caveats if c.problem == each.problem]) for each in self.problems
        )


def compare(
    results: Results,
    optimizers: Sequence[str] = (),
    *,
    mode: str = "most",
    metric: str | None = None,
    delta: float | None = None,
    level: float = LEVEL,
    paired: bool = False,
) -> Comparison:
    """Compares optimizers by the final metric of the setting that stands for each.

    Args:
        results: what was read.
        optimizers: display names; all of them where none is given.
        mode: which setting stands for an optimizer, as in `Results.best`.
        metric: a column of `results.epochs`; None for that by which each problem is judged.
        delta: the largest difference that counts as a tie; None to ask only who is better.
        level: of intervals and tests.
        paired: whether only seeds that all have are compared, each with itself.

    Returns:
        The comparison. p-values are adjusted for the pairs of a problem.

    Raises:
        ConfigError: an optimizer has no run, no run is complete, or no problem has runs of two optimizers.

    >>> from deepobs_func import analysis
    >>> found = compare(analysis.load("published").select(problem="cifar10_3c3d"))
    >>> [entrant.optimizer for entrant in found.problems[0].entrants]
    ['adam (published)', 'momentum (published)', 'sgd (published)']
    >>> found.problems[0].verdicts[0].winner
    """
    check_complete(results)
    chosen = results.select(optimizer=list(optimizers)) if optimizers else results
    found = []
    for problem in chosen.problems:
        quantity = chosen.metric(problem, metric)
        entrants, missing = _entrants(chosen, problem, mode, quantity)
        if len(entrants) > 1:
            found.append(_on_problem(problem, quantity, entrants, missing, delta=delta, level=level, paired=paired))
    if not found:
        there = "; ".join(f"{problem}: {', '.join(chosen.optimizers_on(problem))}" for problem in chosen.problems)
        raise ConfigError(
            f"No problem has complete runs of two optimizers ({there}). Run another one on the same problem."
        )
    compared = {each.problem for each in found}
    return Comparison(tuple(found), tuple(each for each in chosen.warnings(mode) if each.problem in compared))


def gather(
    names: Iterable[str], results_dir: str | Path, *, baselines: bool | str = False
) -> tuple[Results, list[str]]:
    """Reads what is to be compared.

    Args:
        names: of optimizers, or paths of results trees, folders and files. A path stands for all optimizers in it.
        results_dir: the results tree that the names are looked for in.
        baselines: as in `load`.

    Returns:
        The results, and the display names that are meant; all of them where no name is given.

    Raises:
        ConfigError: a name is neither an optimizer nor a path.
    """
    names = list(dict.fromkeys(names))
    known = _known(results_dir)
    paths = [name for name in names if name not in known and (Path(name).exists() or name == PUBLISHED)]
    trees: dict[str, str | Path] = {path: path for path in paths}
    if len(paths) < len(names) or not names:
        trees[str(results_dir)] = results_dir
    results = load(trees, baselines=baselines)
    meant = []
    for name in names:
        if name in paths:
            label = "" if name == PUBLISHED else name
            meant += sorted(set(results.runs["optimizer"][results.runs["label"] == label]))
        else:
            meant += [_display_name(results, name, str(results_dir))]
    return results, list(dict.fromkeys(meant))


def _known(results_dir: str | Path) -> set[str]:
    """The folders of optimizers in a results tree: a name of one is no path, even where a file has the same."""
    root = Path(results_dir)
    return {folder.name for folder in root.glob("*/*") if folder.is_dir()}


def _display_name(results: Results, name: str, label: str) -> str:
    """The optimizer of a name: its display name, or that in the record; in the results tree first."""
    runs = results.runs
    for there in (runs[runs["label"] == label], runs[runs["label"] == ""]):
        found = sorted(set(there["optimizer"][(there["optimizer"] == name) | (there["name"] == name)]))
        if len(found) > 1 and name not in found:
            raise ConfigError(f"Several optimizers are called {name}: {', '.join(found)}. Give the whole name.")
        if found:
            return name if name in found else found[0]
    raise ConfigError(f"{unknown('optimizer', name, results.optimizers)} Nor is there a file or folder {name}.")


def _entrants(results: Results, problem: str, mode: str, quantity: str) -> tuple[list[Entrant], dict[str, str]]:
    """Those with complete runs, best mean first; and the others."""
    higher = is_accuracy(quantity)
    found, missing = [], {}
    for optimizer in results.optimizers_on(problem):
        settings = settings_of(results, problem, optimizer, quantity)
        if not settings:
            missing[optimizer] = results.statuses(problem, optimizer)
            continue
        chosen = choose(settings, mode, higher)
        rows = sorted((results.row(run)["seed"], float(results.values(run, quantity)[-1])) for run in chosen.runs)
        seeds, finals = zip(*rows, strict=True)
        first = results.row(chosen.runs[0])
        words = described(chosen.lr, first["hyperparams"], first["schedule"])
        found.append(Entrant(optimizer, chosen.setting, words, seeds, finals, average(finals), sample_sd(finals)))
    sign = -1.0 if higher else 1.0
    found.sort(key=lambda each: (math.isnan(each.mean), sign * each.mean, each.optimizer))
    return found, missing


def _on_problem(
    problem: str,
    quantity: str,
    entrants: Sequence[Entrant],
    missing: Mapping[str, str],
    *,
    delta: float | None,
    level: float,
    paired: bool,
) -> OnProblem:
    higher = is_accuracy(quantity)
    groups = {each.optimizer: each.finals for each in entrants}
    if paired:
        groups = _of_same_seeds(problem, entrants)
    verdicts = compare_all(groups, higher_is_better=higher, delta=delta, level=level, paired=paired)
    return OnProblem(problem, quantity, higher, tuple(entrants), tuple(verdicts), missing)


def _of_same_seeds(problem: str, entrants: Sequence[Entrant]) -> dict[str, tuple[float, ...]]:
    common = set.intersection(*(set(each.seeds) for each in entrants))
    if not common:
        raise ConfigError(f"The optimizers have no seed in common on {problem}. Compare them unpaired.")
    by_seed = [dict(zip(each.seeds, each.finals, strict=True)) for each in entrants]
    names = [each.optimizer for each in entrants]
    return {name: tuple(values[seed] for seed in sorted(common)) for name, values in zip(names, by_seed, strict=True)}


def _told(found: OnProblem, caveats: Sequence[Caveat]) -> str:
    """The table of a problem, a line for each pair, and what to know before they are believed."""
    metric = found.metric.replace("_", " ")
    titles = ("optimizer", metric, "sd", "seeds", "setting")
    rows = [
        (
            each.optimizer,
            _mean(each, found.metric),
            shown_sd(each.sd, found.metric),
            str(len(each.seeds)),
            each.described,
        )
        for each in found.entrants
    ]
    alone = [each.optimizer for each in found.entrants if len(each.seeds) == 1]
    lines = [f"{found.problem}: {metric} after the last epoch, mean over the seeds", render(titles, rows)]
    lines += map(_line, found.verdicts)
    if alone:
        lines.append(f"One seed of {', '.join(alone)}: run more, deepobs run ... --seed 43, for an interval.")
    lines += [f"{name} has no complete run: {why}." for name, why in found.missing.items()]
    return "\n".join(lines + mind([each for each in caveats if each.kind != _SAID]))


def _mean(entrant: Entrant, metric: str) -> str:
    return shown_metric(entrant.mean, metric) if math.isfinite(entrant.mean) else "not finite"


def _line(verdict: Verdict) -> str:
    """A verdict in words; where there is no interval, the difference and why."""
    if not verdict.reason:
        return f"{verdict}; {verdict.a} better in {100 * verdict.superiority.estimate:.0f} % of pairs of seeds"
    why = "one seed" if verdict.reason == ONE_SEED else verdict.reason
    return f"{verdict.a} - {verdict.b}: {shown(verdict.difference.estimate)}, no interval: {why}"
