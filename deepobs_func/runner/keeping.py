"""What is kept of a run while it goes: checkpoints, when they are due and where they lie."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.records import RunRecord
from deepobs_func.runner import checkpoint
from deepobs_func.runner.asking import has_all
from deepobs_func.runner.checkpoint import Checkpoint
from deepobs_func.runner.config import RunConfig, as_plain_data
from deepobs_func.runner.events import Evaluated, Event, Logged
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.training import Iteration

AUTO_SECONDS = 60.0
"""Between two checkpoints at the ends of epochs, unless told otherwise."""


def checkpoint_folder(record: RunRecord, output_dir: str | Path) -> Path:
    """Where the checkpoints of a run lie: in the state folder, under the record's own relative path."""
    folder = records.state_dir(output_dir) / records.relative_folder(record)
    return folder / f"random_seed__{record.random_seed}__{record.extra['run_id'][:16]}"


def _starts(folder: Path) -> dict[int, Path]:
    """The folders of a run that hold checkpoints, by the number of the start that wrote them, the last one last.

    The first start writes into the folder of the run. One that begins anew beside checkpoints writes into a folder of
    its own, `<folder>__2` and so on: what is there is the user's, and a path that was said stays where it is.
    """
    found = {1: folder} if checkpoint.paths(folder) else {}
    for path in folder.parent.glob(f"{folder.name}__*") if folder.parent.is_dir() else ():
        number = path.name.removeprefix(f"{folder.name}__")
        if number.isdecimal() and checkpoint.paths(path):
            found[int(number)] = path
    return dict(sorted(found.items()))


def newest(folder: Path) -> list[Path]:
    """The checkpoints of the last start of a run that left any, the furthest last.

    Args:
        folder: of the run; see `checkpoint_folder`.
    """
    return [path for last in list(_starts(folder).values())[-1:] for path in checkpoint.paths(last)]


class Checkpoints:
    """Writes checkpoints when they are due, and keeps the last ones.

    By default one is written at the end of an epoch where a minute has passed since the last, and when a signal, a stop
    or an error ends the run between two steps; all go when the run is finished. With `checkpoint_every`, one is written
    every so many epochs, or at the first logged step after so many, and at the end; the last `keep` stay. Those that an
    earlier start of the same run left stay too, unless this one goes on from them.

    Args:
        plan: the run.
        folder: where they lie; see `checkpoint_folder`.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._every: Any = plan.config.checkpoint_every  # "auto", "never", or a number with its unit
        self._plan, self._keep, self._base, self._folder = plan, plan.config.keep, folder, folder
        self._saved, self._position, self.failure = time.perf_counter(), 0, ""
        self._written: list[Path] = []  # by this run, or by the one that it goes on from: others are never removed
        self._tried = not self._is_asked_for

    @property
    def _is_asked_for(self) -> bool:
        return self._every not in ("auto", "never")

    def begin(self, found: Checkpoint | None) -> None:
        """The run starts, or goes on from a checkpoint."""
        starts = _starts(self._base)
        last = newest(self._base)
        if found is not None:
            self._position = found.head["epoch"] * self._plan.steps_per_epoch + found.head["step"]
            if last and found.path.resolve() == last[-1].resolve():
                # What an earlier command asked to keep goes only where this one asks for checkpoints of its own.
                self._folder, self._written = last[-1].parent, last if self._is_asked_for else last[-1:]
                return
            self._written = [path for folder in starts.values() for path in _same(found.path, folder)]
        self._folder = self._base.with_name(f"{self._base.name}__{max(starts) + 1}") if starts else self._base

    def __call__(self, event: Event) -> None:
        """Writes one if it is due.

        Raises:
            ConfigError: the state cannot be saved, and checkpoints were asked for. It is tried at the first event after
                a step, so that no epoch is lost.
        """
        if not self._tried and isinstance(event, Evaluated | Logged) and (event.epoch or event.step):
            self._tried = True
            checkpoint.pack(self._plan, event.state)
        if isinstance(event, Evaluated | Logged) and self._plan.ranks.from_first(self._is_due(event)):
            self.save(event.iteration)

    def _is_due(self, event: Event) -> bool:
        if self._every == "never" or not isinstance(event, Evaluated | Logged):
            return False
        if self._every == "auto":
            return isinstance(event, Evaluated) and time.perf_counter() - self._saved > AUTO_SECONDS
        count, unit = self._every
        if unit == "epochs":
            return isinstance(event, Evaluated) and event.epoch > 0 and event.epoch % count == 0
        before, self._position = self._position, event.epoch * event.plan.steps_per_epoch + event.step
        return self._position // count > before // count

    def save(self, iteration: Iteration) -> Path | None:
        """Writes a checkpoint, and says where.

        Whatever prevents it (a full disk, a state that cannot be saved) ends no run: the record says so, and what was
        kept before stays.
        """
        if self._every == "never":
            return None
        path = None
        try:
            state = iteration.state()
            path = checkpoint.path_in(self._folder, state)
            checkpoint.save(path, iteration.training, state)
            self._written = [*(kept for kept in self._written if kept != path), path]
            self._prune(self._written[-self._keep :])
            self.failure = ""
        except Exception as error:  # a disk's, a device's, a class's
            self.failure, path = str(error) or type(error).__name__, None
            if isinstance(error, ConfigError):
                self._every = "never"  # it will not do later either
        self._saved = time.perf_counter()
        return path

    def latest(self) -> Checkpoint | None:
        """The furthest one of the last start that left any; None where there is none.

        Raises:
            DataError: it cannot be read.
            ResumeError: there is none of this run, but one of the same setting and seed that differs in what decides
                the numbers, such as the version of the package.
        """
        own = newest(self._base)
        if own:
            return checkpoint.read(own[-1])
        seed = f"random_seed__{self._plan.config.seed}__*"
        for folder in sorted(self._base.parent.glob(seed)) if self._base.parent.is_dir() else []:
            for path in checkpoint.paths(folder)[-1:]:
                checkpoint.check_same_run(checkpoint.read(path), self._plan)
        return None

    def end(self, iteration: Iteration) -> None:
        """The run has ended: what was asked for stays, what was kept for resuming goes."""
        if self._is_asked_for:
            self.save(iteration)
        else:
            self._prune([])

    def _prune(self, keep: Sequence[Path]) -> None:
        """Removes what this run wrote, or went on from, but for what stays."""
        if self._plan.ranks.rank:
            return
        for folder in {self._folder, *(path.parent for path in self._written)}:
            done = [path for path in self._written if path.parent == folder and path not in keep]
            checkpoint.prune(folder, done)
        self._written = list(keep)


def _same(path: Path, folder: Path) -> list[Path]:
    """The checkpoint of a folder that a path names, if it names one."""
    return [each for each in checkpoint.paths(folder) if each.resolve() == path.resolve()]


def finished(record: RunRecord, output_dir: str | Path, config: RunConfig | None = None) -> RunRecord | None:
    """The record of the same run that is finished, with all that is asked of it; None where there is none.

    Args:
        record: of the run before it began.
        output_dir: the results tree.
        config: what is asked for; None where any record of the run will do.
    """
    folder = records.folder_of(record, output_dir)
    for path in sorted(folder.glob(f"random_seed__{record.random_seed}__*.json")) if folder.is_dir() else []:
        try:
            found = records.read(path)
        except DataError:
            continue
        same = found.extra.get("run_id") == record.extra["run_id"]
        if same and (config is None or has_all(found, as_plain_data(config))):
            return found
    return None
