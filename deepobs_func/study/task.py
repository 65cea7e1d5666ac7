"""What a worker is told to do, and how it does it: one run, or a population of runs, claimed, resumed and written.

The same function runs in a worker process of this machine, in a task of Ray and in an array task of Slurm.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepobs_func.errors import UserError
from deepobs_func.records import RunRecord, costs
from deepobs_func.runner.callbacks import Answer, Callback, Evaluated, Event, Finished, Logged, Stop, max_seconds
from deepobs_func.runner.config import RunConfig, as_plain_data
from deepobs_func.runner.loop import RunInterrupted, go_on_or_start
from deepobs_func.runner.population.members import Member, PopulationInterrupted
from deepobs_func.runner.population.running import run_members
from deepobs_func.runner.series import Series
from deepobs_func.study.disk import FULL
from deepobs_func.study.jobs import Job, standing, write_failure
from deepobs_func.study.ledger import Ledger

Say = Callable[[Mapping[str, Any]], None]
Ask = Callable[[Mapping[str, Any]], str | None]
NOTES = 1.0  # seconds between two notes of where a run is


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes:
        jobs: the run, or several of one structure as a population.
        output_dir: the results tree.
        runs: how many runs of its structure the study has: compiling is paid once for all.
        asks: whether it is asked after each evaluation if the run goes on.
        about: what the records state about the study, by run id.
        limits: what ends a run early: `max_seconds` of training, `gradients`, the most that the optimizer asks for.
    """

    jobs: tuple[Job, ...]
    output_dir: str
    runs: int = 1
    asks: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)

    def as_plain_data(self) -> dict[str, Any]:
        """What JSON can hold."""
        return {
            "jobs": [
                {"config": as_plain_data(job.config), "run_id": job.run_id, "folder": str(job.folder)}
                for job in self.jobs
            ],
            "output_dir": self.output_dir,
            "runs": self.runs,
            "asks": self.asks,
            "about": dict(self.about),
            "limits": dict(self.limits),
        }

    @classmethod
    def from_plain_data(cls, values: Mapping[str, Any]) -> Task:
        """The inverse of `as_plain_data`."""
        jobs = (Job(RunConfig(**job["config"]), job["run_id"], Path(job["folder"])) for job in values["jobs"])
        return cls(tuple(jobs), values["output_dir"], values["runs"], values["asks"], values["about"], values["limits"])


@dataclass(frozen=True)
class Ended:
    """How a task ended.

    Attributes:
        status: `"finished"`, `"diverged"`, `"stopped"`, `"failed"`, `"interrupted"`; `"claimed"` where another process
            runs it, or where it cannot be claimed now; `"cancelled"` where it is marked so.
        path: of the record; "" where there is none.
        error: why, in a line, if it failed.
        note: why the record is not where it should be, or the run is not claimed; else "".
        place: the folder that is full, where a run is not claimed for that.
    """

    status: str
    path: str = ""
    error: str = ""
    note: str = ""
    place: str = ""


def execute(task: Task, say: Say, ask: Ask) -> list[Ended]:
    """Runs a task: claimed, from its last checkpoint if there is one, and not at all if it is finished.

    Args:
        task: what to do.
        say: is told where the run is, as plain data.
        ask: is asked after each evaluation whether the run goes on, if the task asks; a text ends it.

    Returns:
        How each of its runs ended. What a run raises is in its record, with the traceback, and raises nothing here.
    """
    ledger = Ledger(task.output_dir)
    with ExitStack() as stack:
        for job in task.jobs:
            try:
                claim = ledger.claim(job.run_id)
                taken = claim.acquire()
            except OSError as error:
                return [_unclaimed(ledger.folder, error)] * len(task.jobs)
            if not taken:
                return [Ended("claimed")] * len(task.jobs)
            stack.callback(claim.release)
        if len(task.jobs) > 1:
            cancelled = [ledger.is_cancelled(job.run_id) for job in task.jobs]
            if any(cancelled):
                return [Ended("cancelled" if each else "interrupted") for each in cancelled]
            return _population(task, ledger, say)
        (job,) = task.jobs
        if ledger.is_cancelled(job.run_id):
            return [Ended("cancelled")]
        try:
            found = standing(job, task.output_dir, task.limits)
        except UserError as error:  # it can be made where it was asked for, and not here
            _print(traceback.format_exc())
            return [Ended("failed", "", f"{type(error).__name__}: {error}")]
        if found.stage in ("finished", "diverged", "stopped"):
            return [_as_recorded(found.record)]
        reporter = Reporter(task, ledger, say, ask)
        return [_run(task, job, reporter)]


def _unclaimed(folder: Path, error: OSError) -> Ended:
    """A run on a full disk, which is tried again when there is room; any other fault counts as a failure."""
    words = f"{folder} cannot be written ({error.strerror or error})."
    if error.errno in FULL:
        return Ended("claimed", note=words, place=str(folder))
    return Ended("failed", error=f"{type(error).__name__}: {words}")


class Reporter:
    """A callback that tells a sweep where a run is, and asks it whether the run goes on.

    Args:
        task: what runs.
        ledger: where its progress is noted.
        say, ask: as in `execute`.
    """

    def __init__(self, task: Task, ledger: Ledger, say: Say, ask: Ask) -> None:
        self._task, self._ledger, self._say, self._ask = task, ledger, say, ask
        self._noted = -math.inf
        self.record: RunRecord | None = None

    def __call__(self, event: Event) -> Answer:
        """Says where the run is; asks after an evaluation."""
        if isinstance(event, Finished) or not isinstance(event, Evaluated | Logged):
            return None
        is_whole = isinstance(event, Evaluated)
        if is_whole or time.monotonic() - self._noted > NOTES:
            self._tell(event, is_whole)
        if is_whole and self._task.asks:
            reason = self._ask({"epoch": event.epoch, "curves": _curves(event)})
            return None if reason is None else Stop(reason)
        return None

    def written(self, record: RunRecord) -> None:
        """The record was written."""
        self.record = record

    def _tell(self, event: Event, is_whole: bool) -> None:
        steps = event.epoch * event.plan.steps_per_epoch + event.step
        progress = {
            "epoch": event.epoch,
            "epochs": event.plan.epochs,
            "share": steps / (event.plan.epochs * event.plan.steps_per_epoch),
            "pid": os.getpid(),
            "host": platform.node(),
        }
        if is_whole:
            progress["last"] = {name: column[-1] for name, column in _curves(event).items()}
        self._say(progress)
        if time.monotonic() - self._noted > NOTES:
            for job in self._task.jobs:
                self._ledger.note(job.run_id, progress)
            self._noted = time.monotonic()


def _curves(event: Event) -> dict[str, list[float]]:
    """Losses and accuracies so far, by names such as `valid_accuracy`."""
    log = event.log
    losses = {f"{split}_loss": column for split, column in log.losses.items()}
    return losses | {f"{split}_accuracy": column for split, column in log.accuracies.items()}


def _ending(limits: Mapping[str, Any]) -> list[Callback]:
    """The callbacks that end a run whose budget is spent."""
    found: list[Callback] = []
    if "max_seconds" in limits:
        found.append(max_seconds(limits["max_seconds"]))
    if "gradients" in limits:
        most = limits["gradients"]

        def spent(event: Event) -> Answer:
            made = event.log.calls.get("gradients", [0])[-1] if isinstance(event, Evaluated) else 0
            return Stop(f"its budget of {most} gradients is spent", {"gradients": most}) if made >= most else None

        found.append(spent)
    if "cost" in limits:
        dearest = limits["cost"]

        def spent_all(event: Event) -> Answer:
            made = costs(event.log.calls)[-1:] if isinstance(event, Evaluated) else []
            words = f"its budget of {dearest:g} gradient equivalents is spent"
            return Stop(words, {"cost": dearest}) if made >= [dearest] else None

        found.append(spent_all)
    return found


def _run(task: Task, job: Job, reporter: Reporter) -> Ended:
    """The run itself, and whatever it raises as a value."""
    series = Series(task.runs, Ledger(task.output_dir).choices)
    callbacks = [reporter, *_ending(task.limits)]
    given: dict[str, Any] = {"callbacks": callbacks, "about": task.about.get(job.run_id), "series": series}
    try:
        ended = go_on_or_start(job.config, **given)
    except RunInterrupted as interrupt:
        return Ended("interrupted", str(interrupt.record.path or ""))
    except KeyboardInterrupt:
        return Ended("interrupted")
    except BaseException as error:  # SystemExit too: whatever a run does costs this run alone
        _print(traceback.format_exc())
        words = f"{type(error).__name__}: {error}"
        if reporter.record is not None:
            return _as_recorded(reporter.record)
        return _failed(task, job, words, traceback.format_exc())
    return _as_recorded(ended.record)


def _population(task: Task, ledger: Ledger, say: Say) -> list[Ended]:
    """Runs of one structure, trained as one; the files say how each ended."""
    configs, start = [job.config for job in task.jobs], time.monotonic()
    epochs = task.jobs[0].plan().epochs
    noted = start

    def watch(epoch: int, alive: int) -> None:
        nonlocal noted
        progress = {"epoch": epoch, "epochs": epochs, "share": epoch / epochs, "members": alive}
        say(progress)
        if time.monotonic() - noted > NOTES:
            noted = time.monotonic()
            for job in task.jobs:
                ledger.note(job.run_id, progress)

    series = Series(task.runs, ledger.choices)
    words = details = ""
    members: Sequence[Member] = ()
    try:
        members = run_members(configs, resume=True, together=True, watch=watch, about=task.about, series=series)
    except PopulationInterrupted as interrupt:
        words, members = "interrupted", interrupt.members
    except Exception as error:  # before anything was trained: none of them can start
        _print(traceback.format_exc())
        words, details = f"{type(error).__name__}: {error}", traceback.format_exc()
    found = []
    elsewhere = {member.plan.run_id: member.record for member in members if member.record.note}
    for job in task.jobs:
        stands = standing(job, task.output_dir)
        if job.run_id in elsewhere:  # where nobody looks for it
            found.append(_as_recorded(elsewhere[job.run_id]))
        elif stands.stage in ("finished", "diverged", "stopped") or (stands.stage == "failed" and not words):
            found.append(_as_recorded(stands.record))
        elif words == "interrupted":
            found.append(Ended("interrupted"))
        else:
            found.append(_failed(task, job, words or "It did not end.", details))
    return found


def _failed(task: Task, job: Job, error: str, details: str) -> Ended:
    """A run that could not write its record: it could not start, or no place could be written."""
    try:
        record = write_failure(job, task.output_dir, error, details)
    except (UserError, OSError) as other:
        return Ended("failed", "", f"{error}; {other}")
    return Ended("failed", str(record.path), error, record.note)


def _as_recorded(record: RunRecord | None) -> Ended:
    assert record is not None, "it has ended"
    return Ended(record.status, str(record.path), record.extra.get("error", ""), record.note)


def _print(text: str) -> None:
    """Into the log, if there is room for it."""
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
