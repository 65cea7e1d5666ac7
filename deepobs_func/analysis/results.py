"""Runs that were read, as tidy pandas frames, and what is asked of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepobs_func.analysis.choosing import COMPLETE, STOPPED, choose, is_accuracy, settings_of
from deepobs_func.analysis.parsing import CALLS, QUANTITIES, Column, Unread
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    import pandas as pd

    from deepobs_func.analysis.honesty import Caveat

_MEASURED = (*QUANTITIES, "seconds", *CALLS, "cost")
_CHECKED = {"problem": "problem", "optimizer": "optimizer"}  # columns of which a value that is not there is a mistake


@dataclass(frozen=True, eq=False, repr=False)
class Results:
    """Runs, as one frame for each level. `deepobs_func.analysis.load` makes it.

    Attributes:
        runs: a row for each run, by its number `run`: `path, problem, optimizer, setting, seed, status, lr,
            hyperparams, schedule, epochs, batch_size, weight_decay, protocol, data, precision, version, machine,
            metric, higher_is_better, target, source, study, reported, reason, run_id, execution_id, steps_per_epoch,
            waiting, label, name`. `setting` is equal exactly for runs that differ in nothing but the seed. `metric` is
            the column of `epochs` by which the problem is judged, `target` its published convergence performance or
            NaN.
            `study` is what tuning stated, `reported` whether the run is on one of its reported seeds, or of no study.
            `waiting` is the share of the training time for which streamed data were not there, NaN where that is not
            recorded. `reason` says why a run ended early, `label` under which of several paths it was read, `name` what
            the record calls the optimizer.
        epochs: a row for each run and evaluation: `run, epoch, step`, losses and accuracies of the three splits,
            cumulative `seconds` of training and calls of the oracle (`gradients, products, evaluations`), and these as
            `cost`, in gradient equivalents (`records.GRADIENTS`). NaN where nothing is recorded.
        steps: a row for each recorded mini-batch loss: `run, step, loss`.
        tracked: a row for each tracked number: `run, step, quantity, value`.
        unread: the files that could not be read, `(path, reason)`.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    steps: pd.DataFrame
    tracked: pd.DataFrame
    unread: list[Unread]

    def __repr__(self) -> str:
        return (
            f"Results({len(self.runs)} runs, {len(self.problems)} problems, {len(self.optimizers)} optimizers, "
            f"{len(self.unread)} unread)"
        )

    @property
    def problems(self) -> list[str]:
        """The names of the problems, sorted."""
        return list(self._there["problem"])

    @property
    def optimizers(self) -> list[str]:
        """The display names of the optimizers, sorted."""
        return list(self._there["optimizer"])

    def optimizers_on(self, problem: str) -> list[str]:
        """The display names of the optimizers that have runs on a problem, sorted."""
        return sorted(set(self.runs["optimizer"][self.runs["problem"] == problem]))

    def statuses(self, problem: str, optimizer: str) -> str:
        """How many runs of an optimizer on a problem ended how, in words.

        Args:
            problem, optimizer: names.

        Returns:
            As `"2 interrupted, 1 stopped"`.
        """
        runs = self.runs[(self.runs["problem"] == problem) & (self.runs["optimizer"] == optimizer)]
        counts = runs["status"].value_counts().sort_index()
        return ", ".join(f"{count} {status}" for status, count in counts.items()) or "it has none"

    @property
    def complete(self) -> Results:
        """The runs that have an entry for every epoch: finished, or diverged."""
        return self.select(status=COMPLETE)

    def select(self, **conditions: Any) -> Results:
        """The runs of which columns have some values.

        Args:
            conditions: by column of `runs`, a value or several in a list, tuple or set.

        Returns:
            These runs, under the same numbers; `unread` stays.

        Raises:
            ConfigError: there is no such column, problem or optimizer.
        """
        kept = np.ones(len(self.runs), dtype=bool)
        for column, wanted in conditions.items():
            if column not in self.runs:
                raise ConfigError(unknown("column of runs:", column, list(self.runs)))
            values = wanted if isinstance(wanted, list | tuple | set | frozenset) else (wanted,)
            if column in _CHECKED:
                self._check(column, values)
            kept &= self.runs[column].isin(list(values)).to_numpy()
        return self._of(self.runs[kept])

    def metric(self, problem: str, metric: str | None = None) -> str:
        """The metric of a problem, checked.

        Args:
            problem: its name.
            metric: a column of `epochs`; None for that by which the problem is judged.

        Returns:
            The column.

        Raises:
            ConfigError: there is no such problem or column, or no run of the problem has the metric.
        """
        self._check("problem", (problem,))
        runs = self.runs[self.runs["problem"] == problem]
        own = str(runs["metric"].iloc[0])
        quantity = own if metric is None else metric
        if quantity not in _MEASURED:
            raise ConfigError(f"{option('metric')}: {unknown('metric', quantity, _MEASURED)}")
        if quantity != own and not any(self.has(run, quantity) for run in runs.index):
            there = [name for name in _MEASURED if any(self.has(run, name) for run in runs.index)]
            raise ConfigError(
                f"{option('metric')} {quantity}: no run of {problem} has one. It has {', '.join(there) or 'none'}."
            )
        return quantity

    def complete_runs(self, problem: str, optimizer: str) -> Mapping[str, list[int]]:
        """The runs of an optimizer on a problem that have an entry for every epoch.

        Args:
            problem, optimizer: names.

        Returns:
            By setting, the numbers of its runs; empty where no run is complete.

        Raises:
            ConfigError: there is no such problem or optimizer.
        """
        self._check("problem", (problem,))
        self._check("optimizer", (optimizer,))
        return self._complete.get((problem, optimizer), {})

    def stopped_runs(self, problem: str, optimizer: str) -> Mapping[str, list[int]]:
        """The runs of an optimizer on a problem that were stopped, by a target or a budget: times are censored there.

        Args:
            problem, optimizer: names.

        Returns:
            As `complete_runs`.

        Raises:
            ConfigError: there is no such problem or optimizer.
        """
        self._check("problem", (problem,))
        self._check("optimizer", (optimizer,))
        return self._stopped.get((problem, optimizer), {})

    def row(self, run: int) -> Mapping[str, Any]:
        """The row of a run in `runs`.

        Args:
            run: its number.

        Returns:
            By column.
        """
        return self._rows[run]

    def values(self, run: int, quantity: str) -> Column:
        """What a run measured.

        Args:
            run: its number.
            quantity: a column of `epochs`.

        Returns:
            One value for each evaluation, `(epochs + 1,)`.
        """
        start, stop = self._spans[run]
        return self._columns[quantity][start:stop]

    def best(self, problem: str, optimizer: str, mode: str = "most", metric: str | None = None) -> str:
        """The setting that stands for an optimizer, by DeepOBS's modes.

        Args:
            problem, optimizer: names.
            mode: `"most"` for the most runs, `"final"` for the best final mean, `"best"` for the best of any epoch.
            metric: as in `metric`.

        Returns:
            The text of the setting.

        Raises:
            ConfigError: something is not there, or no run is complete.
        """
        found = settings_of(self, problem, optimizer, metric)
        if not found:
            raise ConfigError(f"No run of {optimizer} on {problem} is complete: {self.statuses(problem, optimizer)}.")
        return choose(found, mode, is_accuracy(self.metric(problem, metric))).setting

    def curve(
        self, problem: str, optimizer: str, quantity: str | None = None, setting: str | None = None
    ) -> tuple[Column, Column]:
        """The curves of a setting, run beside run.

        Args:
            problem, optimizer: names.
            quantity: as `metric` in `metric`.
            setting: its text; None for that of `best`.

        Returns:
            An array `(epochs, runs)` of the runs that count, by seed, NaN after the end of a shorter one; and the
            epochs.

        Raises:
            ConfigError: something is not there, or no run is complete.
        """
        chosen = self.best(problem, optimizer) if setting is None else setting
        column = self.metric(problem, quantity)
        there = settings_of(self, problem, optimizer, column)
        found = next((each for each in there if each.setting == chosen), None)
        if found is None:
            raise ConfigError(f"No complete run of {optimizer} on {problem} has the setting {chosen}.")
        runs = self.runs.loc[list(found.runs)].sort_values("seed", kind="stable").index
        curves = [self.values(run, column) for run in runs]
        length = max(map(len, curves))
        table = np.full((length, len(curves)), np.nan)
        for index, curve in enumerate(curves):
            table[: len(curve), index] = curve
        return table, np.arange(length, dtype=np.float64)

    def warnings(self, mode: str = "most") -> list[Caveat]:
        """What makes a comparison of these runs less than it looks, by `honesty.caveats`.

        Args:
            mode: which setting stands for an optimizer, as in `best`.

        Returns:
            The caveats of the settings that are compared, by problem.

        Raises:
            ConfigError: there is no such mode.
        """
        from deepobs_func.analysis.honesty import caveats

        pairs = [(problem, optimizer) for problem in self.problems for optimizer in self.optimizers_on(problem)]
        return caveats(self.runs, {pair: self.best(*pair, mode) for pair in pairs if self.complete_runs(*pair)})

    @functools.cached_property
    def _spans(self) -> Mapping[int, tuple[int, int]]:
        """Of each run, the rows of `epochs`, which stand together."""
        runs, starts, counts = np.unique(self.epochs["run"].to_numpy(), return_index=True, return_counts=True)
        return {
            int(run): (int(start), int(start + count)) for run, start, count in zip(runs, starts, counts, strict=True)
        }

    @functools.cached_property
    def _rows(self) -> Mapping[int, dict[str, Any]]:
        return dict(zip(self.runs.index.tolist(), self.runs.to_dict("records"), strict=True))

    @functools.cached_property
    def _complete(self) -> Mapping[tuple[str, str], dict[str, list[int]]]:
        """By problem and optimizer, by setting, the runs that have an entry for every epoch."""
        return self._that_are(COMPLETE)

    @functools.cached_property
    def _stopped(self) -> Mapping[tuple[str, str], dict[str, list[int]]]:
        return self._that_are((STOPPED,))

    def _that_are(self, statuses: tuple[str, ...]) -> dict[tuple[str, str], dict[str, list[int]]]:
        found: dict[tuple[str, str], dict[str, list[int]]] = {}
        for run, row in self._rows.items():
            if row["status"] in statuses:
                settings = found.setdefault((row["problem"], row["optimizer"]), {})
                settings.setdefault(row["setting"], []).append(run)
        return found

    @functools.cached_property
    def _columns(self) -> Mapping[str, Column]:
        return {name: self.epochs[name].to_numpy() for name in _MEASURED}

    def has(self, run: int, quantity: str) -> bool:
        """Whether a run measured a quantity, a column of `epochs`."""
        return not bool(np.isnan(self.values(run, quantity)).all())

    def _of(self, runs: pd.DataFrame) -> Results:
        epochs, steps, tracked = (
            frame[frame["run"].isin(runs.index)] for frame in (self.epochs, self.steps, self.tracked)
        )
        return Results(runs, epochs, steps, tracked, self.unread)

    def _check(self, column: str, values: Iterable[Any]) -> None:
        there = self._there[column]
        for value in values:
            if value not in there:
                raise ConfigError(f"{unknown(_CHECKED[column], str(value), there)} These are the ones that have runs.")

    @functools.cached_property
    def _there(self) -> Mapping[str, list[str]]:
        return {column: sorted(set(self.runs[column])) for column in _CHECKED}
