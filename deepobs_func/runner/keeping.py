"""What is kept of a run while it goes: checkpoints, when they are due and where they lie."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.records import RunRecord
from deepobs_func.runner import checkpoint
from deepobs_func.runner.checkpoint import Checkpoint
from deepobs_func.runner.events import Evaluated, Event, Logged
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.training import Iteration

AUTO_SECONDS = 60.0
"""Between two checkpoints at the ends of epochs, unless told otherwise."""


def checkpoint_folder(record: RunRecord, output_dir: str | Path) -> Path:
    """Where the checkpoints of a run lie: in the state folder, under the record's own relative path."""
    folder = records.state_dir(output_dir) / records.relative_folder(record)
    return folder / f"random_seed__{record.random_seed}__{record.extra['run_id'][:16]}"


class Checkpoints:
    """Writes checkpoints when they are due, and keeps the furthest ones.

    By default one is written at the end of an epoch where a minute has passed since the last, and when a signal ends
    the run; all go when the run is finished. With `checkpoint_every`, one is written every so many epochs or steps, and
    at the end, and the last `keep` stay.

    Args:
        plan: the run.
        folder: where they lie.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._every: Any = plan.config.checkpoint_every  # "auto", "never", or a number with its unit
        self._keep, self._folder = plan.config.keep, folder
        self._saved, self.failure = time.perf_counter(), ""

    def __call__(self, event: Event) -> None:
        """Writes one if it is due."""
        if self._is_due(event):
            self.save(event.iteration)

    def _is_due(self, event: Event) -> bool:
        if self._every == "never" or not isinstance(event, Evaluated | Logged):
            return False
        if self._every == "auto":
            return isinstance(event, Evaluated) and time.perf_counter() - self._saved > AUTO_SECONDS
        count, unit = self._every
        if unit == "epochs":
            return isinstance(event, Evaluated) and event.epoch > 0 and event.epoch % count == 0
        done = event.epoch * event.plan.steps_per_epoch + event.step
        crossed = done % count < event.execution.steps_per_call * event.plan.config.train_log_interval
        return isinstance(event, Logged) and crossed

    def save(self, iteration: Iteration) -> None:
        """Writes a checkpoint. A full disk or a state that cannot be saved does not end the run; the record notes it.

        Raises:
            ConfigError: the state cannot be saved, and checkpoints were asked for.
        """
        if self._every == "never":
            return
        try:
            state = iteration.state()
            checkpoint.save(checkpoint.path_in(self._folder, state), iteration.training, state)
            checkpoint.prune(self._folder, self._keep)
            self.failure = ""
        except OSError as error:
            self.failure = str(error)
        except ConfigError as error:
            if self._every != "auto":
                raise
            self.failure, self._every = str(error), "never"
        self._saved = time.perf_counter()

    def latest(self) -> Checkpoint | None:
        """The furthest one that is kept; None where there is none."""
        path = checkpoint.latest(self._folder)
        return None if path is None else checkpoint.read(path)

    def end(self, iteration: Iteration) -> None:
        """The run has ended: what was asked for stays, what was kept for resuming goes."""
        if self._every in ("auto", "never"):
            checkpoint.prune(self._folder, 0)
        else:
            self.save(iteration)


def finished(plan: Plan, record: RunRecord, output_dir: str | Path) -> RunRecord | None:
    """The record of the same run that is finished, with all that is asked of it; None where there is none."""
    folder = records.folder_of(record, output_dir)
    for path in sorted(folder.glob(f"random_seed__{record.random_seed}__*.json")) if folder.is_dir() else []:
        try:
            found = records.read(path)
        except DataError:
            continue
        same = found.extra.get("run_id") == record.extra["run_id"]
        if same and set(plan.config.track) <= set(found.extra.get("configuration", {}).get("track", ())):
            return found
    return None
