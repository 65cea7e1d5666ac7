"""Which run is next, and what comes of one that has ended; the same for processes of this machine and for a cluster."""

from __future__ import annotations

import abc
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from deepobs_func import records
from deepobs_func.errors import DataError, UserError
from deepobs_func.records import RunRecord
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.population.members import structure
from deepobs_func.study.disk import Disk
from deepobs_func.study.groups import groups
from deepobs_func.study.jobs import Job, make_job, standing, write_failure
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.task import Ended, Task

LAST_LINES = 4000  # characters of what a killed process said
ELSEWHERE = 2.0  # seconds until a run that another process has is asked for again


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        config: what was asked for.
        run_id: its id.
        status: `"finished"`, `"diverged"`, `"stopped"`, `"failed"`, or `"cancelled"`.
        record: its record; None where none could be written.
        error: why it failed; "" if it did not.
        new: whether anything was computed for it here.
    """

    config: RunConfig
    run_id: str
    status: str
    record: RunRecord | None
    error: str = ""
    new: bool = True


@dataclass
class Entry:
    """What one worker does at a time: a run, or several of one structure as a population.

    Attributes:
        jobs: the runs.
        asks: whether it is asked after each evaluation if the run goes on.
        about: what the records state, by run id.
        limits: what ends a run early, as a `Task` has it.
        reported: the ids of those that have ended; they are trained again beside the others if these go on.
        failures: how often it has failed.
        not_before: the time from which on it may start.
        progress: where it is.
        started: since when it runs; None while it waits.
    """

    jobs: tuple[Job, ...]
    asks: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, Any] = field(default_factory=dict)
    reported: frozenset[str] = frozenset()
    failures: int = 0
    not_before: float = 0.0
    progress: dict[str, Any] = field(default_factory=dict)
    started: float | None = None

    @property
    def label(self) -> str:
        """For people."""
        more = f" and {len(self.jobs) - 1} more" if len(self.jobs) > 1 else ""
        return f"{self.jobs[0].label}{more}"


class Scheduler(abc.ABC):
    """Runs that are shared out: each once, resumed where it was, tried again where it failed. A context manager.

    Args:
        output_dir: the results tree.
        retries: how often a run that failed is tried again, its failures in earlier sweeps counted.
        tell: is told what is worth a line to a reader.
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        retries: int = 1,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.ledger: Ledger = Ledger(output_dir)
        self.output_dir = output_dir
        self.waiting: deque[Entry] = deque()
        self._fresh = list[tuple[Job, dict[str, Any]]]()
        self._retries, self._tell = retries, tell
        self._alike = Counter[Hashable]()  # how many runs of each structure: compiling is paid once for all
        self._outcomes = deque[Outcome]()
        self._disk = Disk(output_dir, tell)

    @property
    @abc.abstractmethod
    def running(self) -> Sequence[Entry]:
        """What is under way."""

    @property
    @abc.abstractmethod
    def workers(self) -> int:
        """How much goes on at a time."""

    @abc.abstractmethod
    def advance(self) -> None:
        """Gives out what can be given out, and handles what has happened, for half a second at most."""

    def step(self) -> None:
        """Takes what was submitted since the last step, and advances.

        Raises:
            UserError: a worker cannot be started.
        """
        self._group()
        self.advance()

    @abc.abstractmethod
    def close(self) -> None:
        """Ends what is under way; each run keeps what it did."""

    def submit(self, config: RunConfig, *, prune: bool = False, about: Mapping[str, Any] | None = None) -> Job:
        """Takes a run. One that is finished already ends at once; one that is half done goes on.

        Args:
            config: what to run; it is written into the results tree.
            prune: whether `decide` is asked about it.
            about: what its record states of the study.

        Returns:
            The run as a job.

        Raises:
            ConfigError: it cannot be run.
        """
        job = make_job(replace(config, output_dir=self.output_dir))
        self.add(job, asks=prune, about=about)
        return job

    def add(
        self,
        job: Job,
        *,
        asks: bool = False,
        about: Mapping[str, Any] | None = None,
        limits: Mapping[str, Any] | None = None,
        again: bool = False,
    ) -> None:
        """Takes a run that is a job already; those that are taken together may be trained as a population.

        Args:
            job: the run.
            asks: whether `decide` is asked about it.
            about: what its record states.
            limits: what ends it early, as a `Task` has it.
            again: whether failures of earlier sweeps are forgotten.
        """
        said = {job.run_id: dict(about)} if about else {}
        details = {"asks": asks, "about": said, "limits": dict(limits or {}), "again": again}
        self._fresh.append((job, details))
        self._alike[structure(job.config)] += 1

    def _group(self) -> None:
        """Puts together what may be trained as one; a run that is watched, or ends early, is alone."""
        fresh, self._fresh = self._fresh, []
        details = {job.run_id: each for job, each in fresh}
        free = [job for job, each in fresh if not each["asks"] and not each["limits"]]
        for group in groups(free, self.workers, self.ledger) if free else []:
            about = {name: text for job in group for name, text in details[job.run_id]["about"].items()}
            self._enter(group, **(details[group[0].run_id] | {"about": about}))
        for job, each in fresh:
            if each["asks"] or each["limits"]:
                self._enter((job,), **each)

    def _enter(
        self, jobs: tuple[Job, ...], *, asks: bool, about: dict[str, Any], limits: dict[str, Any], again: bool
    ) -> None:
        """Takes runs that are to be done together, as far as they are not finished."""
        ended, most, kept = set[str](), 0, list(jobs)
        for job in jobs:
            found = standing(job, self.output_dir, limits)
            failures = 0 if again else found.failures
            if found.stage in ("finished", "diverged", "stopped"):
                self._end(job, found.stage, found.record, new=False)
            elif failures > self._retries:
                error = found.record.extra.get("error", "") if found.record else ""
                self._end(job, "failed", found.record, error, new=False)
                kept.remove(job)  # beside it, none could be trained
                continue
            else:
                most = max(most, failures)
                continue
            ended.add(job.run_id)
        if len(ended) < len(kept):
            self.waiting.append(Entry(tuple(kept), asks, about, limits, frozenset(ended), most))

    def next(self) -> Outcome:
        """The next run that has ended, waited for.

        Raises:
            LookupError: nothing is under way.
            UserError: workers cannot be started.
        """
        while not self._outcomes:
            if not self.has_more:
                raise LookupError("nothing was submitted that has not ended")
            self.step()
        return self._outcomes.popleft()

    @property
    def has_more(self) -> bool:
        """Whether `next` has something to wait for."""
        return bool(self._outcomes or self._fresh or self.waiting or self.running)

    @property
    def has_outcome(self) -> bool:
        """Whether `next` answers at once."""
        return bool(self._outcomes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _due(self) -> Entry | None:
        """The first waiting entry that may start, taken out."""
        now = time.monotonic()
        for index, entry in enumerate(self.waiting):
            if entry.not_before <= now and not self._disk.is_full:
                del self.waiting[index]
                entry.started, entry.progress = now, {}
                return entry
        return None

    def _task(self, entry: Entry) -> Task:
        runs = self._alike[structure(entry.jobs[0].config)]
        return Task(entry.jobs, str(self.output_dir), runs, entry.asks, entry.about, entry.limits)

    def _end(
        self, job: Job, status: str, record: RunRecord | None = None, error: str = "", *, new: bool = True
    ) -> None:
        self._outcomes.append(Outcome(job.config, job.run_id, status, record, error, new))

    def _ended(self, entry: Entry, found: Sequence[Ended]) -> None:
        """What comes of an entry that a worker is done with: of each of its runs."""
        entry.started, reported, left = None, set(entry.reported), []
        for job, ended in zip(entry.jobs, found, strict=True):
            if job.run_id in entry.reported:
                continue
            again = replace(entry, jobs=(job,), reported=frozenset())
            reported.add(job.run_id)
            if ended.status == "cancelled" or (ended.status == "interrupted" and self.ledger.is_cancelled(job.run_id)):
                self._end(job, "cancelled")
            elif ended.status == "failed" and not ended.path:
                self._unwritten(again, ended.error, last_words(self.ledger.log(job.run_id)))
            elif ended.status == "failed":
                self._failed(again, ended.path, ended.error)
            elif ended.status in ("claimed", "interrupted"):
                left.append(ended.status)
                reported.discard(job.run_id)
                if ended.note:
                    self._disk.fill(ended.note, ended.place)
            else:
                path = self._disk.placed(ended.path, ended.note)
                self._end(job, ended.status, _read(path), ended.error)
        if left:
            jobs = tuple(job for job in entry.jobs if not self.ledger.is_cancelled(job.run_id))
            not_before = time.monotonic() + (ELSEWHERE if "claimed" in left else 0.0)
            self.waiting.append(replace(entry, jobs=jobs, reported=frozenset(reported), not_before=not_before))

    def _failed(self, entry: Entry, path: str, error: str) -> None:
        """Tries it again, or not."""
        entry.failures += 1
        if entry.failures <= self._retries:
            self._tell(f"{entry.label} failed and is tried again: {error}")
            self.waiting.append(entry)
            return
        for job in entry.jobs:
            self._end(job, "failed", _read(path), error)

    def _killed(self, entry: Entry, why: str, said: str) -> None:
        """What ran an entry has died of it: a run has failed; a population is tried run by run."""
        entry.started = None
        if len(entry.jobs) > 1:
            self._tell(f"{entry.label}, as a population: {why} They run one by one.")
            left = [job for job in entry.jobs if job.run_id not in entry.reported]
            self.waiting.extend(replace(entry, jobs=(job,), reported=frozenset()) for job in left)
            return
        self._unwritten(entry, why, said)

    def _unwritten(self, entry: Entry, why: str, said: str) -> None:
        """A run has failed and could not write its record."""
        try:
            record = write_failure(entry.jobs[0], self.output_dir, why, said)
        except (UserError, OSError) as error:
            self._failed(entry, "", f"{why} {error}")
            return
        self._failed(entry, str(record.path), why)


def last_words(path: Path) -> str:
    """The end of what a process printed; "" where it printed nothing."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-LAST_LINES:].strip()
    except OSError:
        return ""


def _read(path: str) -> RunRecord | None:
    try:
        return records.read(path) if path else None
    except DataError:
        return None
