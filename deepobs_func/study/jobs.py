"""A run of a study before it runs: what it is, where its files lie, and how far it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from deepobs_func import records
from deepobs_func.errors import ConfigError, DataError, option
from deepobs_func.records import RunRecord
from deepobs_func.runner import checkpoint
from deepobs_func.runner.config import RunConfig, typed
from deepobs_func.runner.keeping import checkpoint_folder, finished, newest
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.runner.probe_entries import write_record
from deepobs_func.runner.recording import make_record

Stage = Literal["finished", "diverged", "stopped", "failed", "interrupted", "waiting"]


@dataclass(frozen=True)
class Job:
    """A run of a study.

    Attributes:
        config: what was asked for; problem and optimizer are names or import paths.
        run_id: the hash of what decides its numbers.
        folder: of its record, relative to the results tree.
    """

    config: RunConfig
    run_id: str
    folder: Path

    @property
    def label(self) -> str:
        """Problem, optimizer, setting and seed, for people."""
        return f"{self.folder} seed {self.config.seed}"

    def plan(self) -> Plan:
        """Its plan, made anew: a study of thousands of runs does not hold theirs."""
        return make_plan(self.config)


def make_job(config: RunConfig) -> Job:
    """A run as a job; every mistake in it is found here.

    Raises:
        ConfigError: it cannot be run.
    """
    for name, value in config.hyperparams.items():
        if not _is_plain(value):
            raise ConfigError(
                f"{option(f'hyperparams.{name}')} {value!r}: a run of a study is handed to other processes as text. "
                "Give a number, a text, a list of these, or the import path of a class."
            )
    plan = make_plan(config)
    return Job(typed(config), plan.run_id, records.relative_folder(make_record(plan, Log())))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str | bool)


@dataclass(frozen=True)
class Standing:
    """How far a run is, as its files say.

    Attributes:
        stage: `"waiting"` where there is nothing of it.
        record: the record that says so; None where there is none.
        failures: how often it has failed.
        resumable: whether there is a checkpoint of it.
    """

    stage: Stage
    record: RunRecord | None
    failures: int
    resumable: bool


def standing(job: Job, output_dir: str | Path, limits: Mapping[str, Any] | None = None) -> Standing:
    """Looks at the files of a run.

    Args:
        job: the run.
        output_dir: the results tree.
        limits: what ends a run of the study early, as a `Task` has it.

    Returns:
        A finished or diverged record comes first; then one that a callback stopped, which is final, unless for a budget
        that is larger now; then the last of those that failed, were interrupted or may go on.
    """
    plan = job.plan()
    empty = make_record(plan, Log())
    done = finished(empty, output_dir, plan.config)
    if done is not None:
        return Standing("diverged" if done.status == "diverged" else "finished", done, 0, False)
    partial = [record for record in partial_records(job, output_dir) if record.extra.get("run_id") == job.run_id]
    failures = sum(record.status == "failed" for record in partial)
    resumable = bool(newest(checkpoint_folder(empty, output_dir)))
    stopped = [record for record in partial if record.status == "stopped" and _is_final(record, limits or {})]
    last = (stopped or partial)[-1:]
    if not last:
        return Standing("interrupted" if resumable else "waiting", None, failures, resumable)
    goes_on = last[0].status == "stopped" and not stopped
    return Standing("interrupted" if goes_on else _stage(last[0]), last[0], failures, resumable)


def _stage(record: RunRecord) -> Stage:
    return record.status


def _is_final(record: RunRecord, limits: Mapping[str, Any]) -> bool:
    """Whether a run that was stopped stays so: for a budget that was spent, while no larger one is given."""
    spent = record.extra.get("limit", {})
    return all(name in limits and limits[name] <= value for name, value in spent.items())


def partial_records(job: Job, output_dir: str | Path) -> Iterator[RunRecord]:
    """The records of a setting and seed that did not finish, the oldest first; unreadable ones are left out."""
    folder = records.state_dir(output_dir) / job.folder
    for path in sorted(folder.glob(f"random_seed__{job.config.seed}__*.json.partial")):
        try:
            yield records.read(path)
        except DataError:
            continue


def write_failure(job: Job, output_dir: str | Path, error: str, details: str = "") -> RunRecord:
    """Writes the record of a run that could not write it itself, with what its last checkpoint holds.

    Args:
        job: the run.
        output_dir: the results tree.
        error: why, in a line.
        details: a traceback, or the end of what the process said.

    Returns:
        The record, with its path.
    """
    plan = job.plan()
    record = make_record(plan, _last_log(plan, output_dir))
    record.extra |= {"status": "failed", "error": error, "traceback": details}
    record.path, record.note = write_record(record, output_dir)
    return record


def _last_log(plan: Plan, output_dir: str | Path) -> Log:
    for path in reversed(newest(checkpoint_folder(make_record(plan, Log()), output_dir))):
        try:
            head: Mapping[str, Any] = checkpoint.read(path).head
        except DataError:
            continue
        return Log.from_plain_data(head["log"])
    return Log()
