"""What makes a comparison less than it looks, found in the runs themselves and marked where it matters."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.samples import Values
from deepobs_func.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

COMPLETE = ("finished", "diverged", "stopped")
"""The statuses of runs that say something; a stopped one is censored, or has reached its target."""
WAITING = 0.1
"""The share of the training time from which on waiting for data is said."""


class Caveat(NamedTuple):
    """Something to know before a result is believed.

    Attributes:
        kind: a key of `CHECKS`.
        problem: which it concerns; "" for all.
        optimizers: which it concerns, their display names; empty for all of the problem.
        text: one sentence.
    """

    kind: str
    problem: str
    optimizers: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.problem}: {self.text}" if self.problem else self.text


def caveats(runs: pd.DataFrame, chosen: Mapping[tuple[str, str], str] | None = None) -> list[Caveat]:
    """What to know of some runs.

    Args:
        runs: `Results.runs`; also those that are not reported, which tell what was tried.
        chosen: the setting that is reported for each `(problem, optimizer)`; None for all settings.

    Returns:
        The caveats, by problem, in the order of `CHECKS`.
    """
    found = []
    for problem, every in runs.groupby("problem", sort=False):
        reported = _reported(every, chosen)
        if not reported.empty:
            found += [
                Caveat(kind, str(problem), tuple(optimizers), text)
                for kind, check in CHECKS.items()
                for optimizers, text in check(reported, every)
            ]
    return found


def mind(found: Sequence[Caveat]) -> list[str]:
    """The lines below a comparison that say what to know, one a kind.

    Args:
        found: the caveats of a problem.

    Returns:
        Lines that begin with `Mind`.
    """
    kinds = dict.fromkeys(each.kind for each in found)
    return [f"Mind: {'; '.join(each.text for each in found if each.kind == kind)}." for kind in kinds]


def one_setting(runs: pd.DataFrame) -> str:
    """The setting that runs share, before anything of them is averaged.

    Args:
        runs: rows of `Results.runs`.

    Returns:
        The text of the setting.

    Raises:
        DataError: there is no run, or there are several settings, problems or seeds twice.
    """
    if runs.empty:
        raise DataError("There is no run to average over.")
    for column in ("problem", "setting"):
        there = list(dict.fromkeys(runs[column]))
        if len(there) > 1:
            raise DataError(f"Runs of {len(there)} different {column}s are not averaged: {'; '.join(map(str, there))}.")
    twice = sorted(set(runs["seed"][runs["seed"].duplicated()]))
    if twice:
        raise DataError(f"Seed {twice[0]} is there twice in {runs['setting'].iloc[0]}; each seed counts once.")
    return str(runs["setting"].iloc[0])


def stopping_epoch(curves: ArrayLike, higher_is_better: bool) -> int:
    """The epoch at which a setting is reported: that of the best mean over seeds, one for all of them.

    To take each seed at its own best epoch reports a maximum of noise. Choose on validation curves, where there are
    some, and read the test curves at that epoch.

    Args:
        curves: the metric, `(epochs, seeds)`, as `Results.curve` has it.
        higher_is_better: as of accuracies.

    Returns:
        The first such epoch. One at which a seed is not finite is taken only if all are like it, and then the last.

    Raises:
        DataError: there is no epoch or no seed.

    >>> stopping_epoch([[0.1, 0.1], [0.9, 0.7], [0.7, 0.8], [0.8, 0.85]], higher_is_better=True)
    3
    """
    table = _table(curves)
    with np.errstate(invalid="ignore"):
        means = table.mean(axis=1)
    if not np.isfinite(means).any():
        return len(means) - 1
    scores = np.where(np.isfinite(means), means if higher_is_better else -means, -math.inf)
    return int(scores.argmax())


def at_epoch(curves: ArrayLike, epoch: int) -> Values:
    """The metric of each seed at one epoch, the same for all.

    Args:
        curves: as for `stopping_epoch`.
        epoch: its number, from 0, before training.

    Returns:
        One value a seed.

    Raises:
        DataError: there is no such epoch.
    """
    table = _table(curves)
    if not 0 <= epoch < len(table):
        raise DataError(f"Epoch {epoch}: the curves have the epochs 0 to {len(table) - 1}.")
    return table[epoch].copy()


def _table(curves: ArrayLike) -> Values:
    found = np.asarray(curves, dtype=np.float64)
    if found.ndim != 2 or not found.size:
        raise DataError(f"Curves of the shape {found.shape}: they must be (epochs, seeds), one of each at least.")
    return found


Found = Iterator[tuple[list[str], str]]
Check = Callable[["pd.DataFrame", "pd.DataFrame"], Found]


def _reported(every: pd.DataFrame, chosen: Mapping[tuple[str, str], str] | None) -> pd.DataFrame:
    """The runs that are reported: those of the chosen settings, of a tuning those on its reported seeds."""
    kept = every
    if chosen is not None:
        pairs = zip(every["problem"], every["optimizer"], every["setting"], strict=True)
        kept = every[[chosen.get((problem, optimizer)) == setting for problem, optimizer, setting in pairs]]
    is_reported = [row["seed"] in row["study"].get("reported_seeds", [row["seed"]]) for _, row in kept.iterrows()]
    return kept[is_reported] if any(is_reported) else kept


def _synthetic(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    these = reported[reported["data"] == "synthetic"]
    if len(these):
        yield _names(these), f"stand-in data in {len(these)} of {len(reported)} runs: not a result"


def _diverged(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for name, runs in reported.groupby("optimizer", sort=False):
        count = int((runs["status"] == "diverged").sum())
        if count:
            yield [str(name)], f"{count} of {len(runs)} runs of {name} diverged"


def _unfinished(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for name, runs in reported.groupby("optimizer", sort=False):
        ended = runs["status"][~runs["status"].isin(COMPLETE[:2])]
        if len(ended):
            how = ", ".join(f"{count} {status}" for status, count in ended.value_counts().items())
            yield [str(name)], f"{len(ended)} of {len(runs)} runs of {name} did not end: {how}"


def _one_seed(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for name, runs in _complete(reported).groupby("optimizer", sort=False):
        if runs.groupby("setting")["seed"].nunique().max() == 1:
            yield [str(name)], f"{name} has one seed, so that nothing is known of its spread"


def _missing_seeds(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    """Those that another optimizer has, or that the tuning stated."""
    complete = _complete(reported)
    seeds = {name: set(runs["seed"]) for name, runs in complete.groupby("optimizer", sort=False)}
    there = set().union(*seeds.values())
    for name, own in seeds.items():
        stated = [row.get("reported_seeds", ()) for row in complete["study"][complete["optimizer"] == name]]
        missing = sorted((there | {seed for each in stated for seed in each}) - own)
        if missing:
            yield [str(name)], f"{name} lacks the seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))}"


def _repeated_seeds(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for name, runs in _complete(reported).groupby("optimizer", sort=False):
        twice = sorted(set(runs["seed"][runs.duplicated(["setting", "seed"])]))
        if twice:
            seeds = ", ".join(map(str, twice))
            yield [str(name)], f"{name} was run several times with the seeds {seeds}, and the last run of each counts"


def _mixed_settings(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for name, runs in reported.groupby("optimizer", sort=False):
        count = runs["setting"].nunique()
        if count > 1:
            yield [str(name)], f"{name} has {count} settings; nothing is averaged over them"


def _training_budget(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for column, words in (("epochs", "epochs"), ("batch_size", "examples a batch")):
        values = _by_optimizer(reported, column)
        if len({each for several in values.values() for each in several}) > 1:
            yield list(values), f"different numbers of {words}: {_listed(values)}"


def _tuning_budget(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    stated = {name: _budgets(runs) for name, runs in reported.groupby("optimizer", sort=False)}
    if len({each for several in stated.values() for each in several}) > 1:
        yield list(map(str, stated)), f"unequal tuning budgets: {_listed(stated)}"
    tried = {str(name): {runs["setting"].nunique()} for name, runs in every.groupby("optimizer", sort=False)}
    if len({count for several in tried.values() for count in several}) > 1 and all(
        "none" in e for e in stated.values()
    ):
        yield list(tried), f"unequal numbers of settings were tried: {_listed(tried)}"


def _tuned_on_test(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    """As a tuning stated; or several settings were run and nothing says how one was chosen."""
    stated, picked = [], []
    for name, runs in reported.groupby("optimizer", sort=False):
        studies = [study for study in runs["study"] if study]
        if any("test" in f"{each.get('metric', '')} {each.get('tune_on', '')}".split() for each in studies):
            stated.append(str(name))
        elif not studies and len(_others(runs, every)):
            picked.append(str(name))
    if stated:
        yield stated, f"{_and(stated)} {'was' if len(stated) == 1 else 'were'} tuned on the test set"
    if picked:
        yield picked, f"several settings of {_and(picked)} were run, and what is shown was chosen on the test set"


def _tuning_seed(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    """As a tuning stated; without one, what other settings were run with."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for name, runs in reported.groupby("optimizer", sort=False):
        tuning = {study["tuning_seed"] for study in runs["study"] if "tuning_seed" in study}
        if not any(map(bool, runs["study"])):
            tuning = set(_others(runs, every)["seed"])
        both = tuple(sorted(tuning & set(runs["seed"])))
        if both:
            found.setdefault(both, []).append(str(name))
    for seeds, names in found.items():
        which = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} of {_and(names)}"
        yield names, f"the tuning {which} {'are' if len(seeds) > 1 else 'is'} among the reported ones"


def _waiting(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
    for name, runs in reported.groupby("optimizer", sort=False):
        shares = runs["waiting"][runs["waiting"] > WAITING]
        if len(shares):
            how = f"{len(shares)} of {len(runs)} runs of {name} waited for data in up to {shares.max():.0%} of the time"
            yield [str(name)], f"{how}, so that seconds are those of the workers that read"


def _others(runs: pd.DataFrame, every: pd.DataFrame) -> pd.DataFrame:
    """The runs of other settings of an optimizer."""
    return every[(every["optimizer"] == runs["optimizer"].iloc[0]) & ~every["setting"].isin(set(runs["setting"]))]


def _mixed(column: str, words: str, missing: str = "unknown") -> Check:
    """A column that should have one value for all runs of a problem."""

    def check(reported: pd.DataFrame, every: pd.DataFrame) -> Found:
        values = _by_optimizer(reported, column, missing)
        if len({each for several in values.values() for each in several}) > 1:
            yield list(values), f"{words}: {_listed(values)}"

    return check


CHECKS: Mapping[str, Check] = {
    "synthetic": _synthetic,
    "diverged": _diverged,
    "unfinished": _unfinished,
    "one_seed": _one_seed,
    "missing_seeds": _missing_seeds,
    "repeated_seeds": _repeated_seeds,
    "mixed_settings": _mixed_settings,
    "training_budget": _training_budget,
    "tuning_budget": _tuning_budget,
    "tuned_on_test": _tuned_on_test,
    "tuning_seed": _tuning_seed,
    "protocol": _mixed("protocol", "different protocols"),
    "precision": _mixed("precision", "different precisions"),
    "data": _mixed("data", "different data"),
    "weight_decay": _mixed("weight_decay", "different weight decay of the problem", "default"),
    "version": _mixed("version", "different versions"),
    "waiting": _waiting,
    "machine": _mixed("machine", "different machines, so that seconds do not compare"),
}
"""By kind: `(reported, every) -> (optimizers, text), ...` of the runs of one problem."""


def _and(names: Sequence[str]) -> str:
    """As `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _complete(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[runs["status"].isin(COMPLETE)]


def _names(runs: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(map(str, runs["optimizer"])))


def _by_optimizer(runs: pd.DataFrame, column: str, missing: str = "unknown") -> dict[str, set[str]]:
    """The values of a column for each optimizer, as text; what is not known counts as a value."""
    groups = runs.groupby("optimizer", sort=False)[column]
    return {str(name): {_shown(value, missing) for value in values} for name, values in groups}


def _shown(value: Any, missing: str = "unknown") -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)) or value == "":
        return missing
    return f"{value:g}" if isinstance(value, float) else str(value)


def _budgets(runs: pd.DataFrame) -> set[str]:
    """What a tuning stated; "none" where there was none."""
    facts = [[study.get(name) for name in ("budget", "amount", "unit")] for study in runs["study"]]
    return {" ".join(_shown(fact) for fact in each if fact is not None) or "none" for each in facts}


def _listed(values: Mapping[Any, set[Any]]) -> str:
    """As `adam 50, sgd 100`."""
    return ", ".join(f"{name} {' and '.join(sorted(map(str, several)))}" for name, several in values.items())
