"""A study, run: what is finished is skipped, what is half done goes on, what is left is shared out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepobs_func.errors import ConfigError, option
from deepobs_func.study.differing import differences
from deepobs_func.study.jobs import Job, make_job
from deepobs_func.study.ledger import UNCHANGED, Changes, Ledger
from deepobs_func.study.pool import Pool
from deepobs_func.study.scheduler import Outcome, Scheduler
from deepobs_func.study.spec import Study

Watch = Callable[[Scheduler, Sequence[Outcome]], None]


@dataclass
class Swept:
    """What came of a sweep.

    Attributes:
        outcomes: of each run that has ended, in the order in which they ended.
        changes: how the study differs from what was asked for in its folder before.
    """

    outcomes: list[Outcome] = field(default_factory=list)
    changes: Changes = UNCHANGED

    def counts(self) -> dict[str, int]:
        """How many runs ended how."""
        return dict(Counter(outcome.status for outcome in self.outcomes))

    @property
    def failed(self) -> list[Outcome]:
        """The runs that failed or were cancelled."""
        return [outcome for outcome in self.outcomes if outcome.status in ("failed", "cancelled")]


def jobs_of(study: Study, share: tuple[int, int] = (0, 1)) -> list[Job]:
    """The runs of a study, or of a share of it, checked.

    Args:
        study: the study.
        share: `(i, n)` for the runs i, i + n, i + 2 n, ...

    Raises:
        ConfigError: a run cannot be run, or the share is none.
    """
    index, parts = share
    if not 0 <= index < parts:
        raise ConfigError(f"{option('share')} {index}/{parts}: it must be I/N with I from 0 to N - 1.")
    return [make_job(config) for config in study.runs[index::parts]]


def sweep(
    study: Study,
    *,
    jobs: int | None = None,
    threads: int | None = None,
    retry: bool = False,
    share: tuple[int, int] = (0, 1),
    make: Callable[..., Scheduler] | None = None,
    watch: Watch = lambda scheduler, outcomes: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Swept:
    """Runs a study. The same call goes on with what an earlier one, however it ended, has left.

    Args:
        study: the study.
        jobs: how many runs at a time, of worker processes; by default the study's, or 1.
        threads: of each of these; by default those of the study so far, at first an equal share of the cores.
        retry: whether runs that failed, or were cancelled, in earlier sweeps are tried again.
        share: `(i, n)` for a part of the runs, as in `jobs_of`.
        make: `(output_dir, **options) -> Scheduler`, what the runs are shared out by; by default worker processes of
            this machine, `Pool`.
        watch: called twice a second with the scheduler and what has ended so far.
        tell: is told what is worth a line to a reader.

    Returns:
        How each run ended. A run that fails costs itself alone.

    Raises:
        ConfigError: a run, or the machine, cannot do what is asked for; nothing was run.
        KeyboardInterrupt: Ctrl-C or a signal. What was done is kept.

    >>> swept = sweep(Study(["two_d_beale"], {"adam": {"lr": [0.1, 0.01]}}, epochs=1))
    >>> swept.counts()
    {'finished': 2}
    """
    ledger, all_jobs = Ledger(study.output_dir), jobs_of(study, share)
    options: dict[str, Any] = {"retries": study.retries, "tell": tell}
    if make is not None and (jobs is not None or threads is not None):
        raise ConfigError(
            f"{option('jobs')} and {option('threads')} are of the worker processes of this machine; with another "
            "scheduler, leave them out."
        )
    if make is None:
        make, options = Pool, options | {"jobs": jobs_at_a_time(study, jobs), "threads": threads}
    found = Swept()
    with make(study.output_dir, **options) as scheduler:
        before, now = ledger.setting("study"), study.plain()
        found.changes = ledger.remember(all_jobs) if share[1] == 1 else ledger.add_jobs(all_jobs)
        ledger.setting("study", now)
        for line in _told(found.changes, before, now, study.output_dir):
            tell(line)
        for job in all_jobs:
            if retry:
                ledger.allow(job.run_id)
            scheduler.add(job, limits=limits_of(study), again=retry)
        while scheduler.has_more:
            if scheduler.has_outcome:
                found.outcomes.append(scheduler.next())
            else:
                scheduler.step()
            watch(scheduler, found.outcomes)
    return found


def jobs_at_a_time(study: Study, jobs: int | None) -> int:
    """How many runs go on at once: as asked for, or as the study says, or one.

    Raises:
        ConfigError: it is below 1.
    """
    found = (study.jobs or 1) if jobs is None else jobs
    if found < 1:
        raise ConfigError(f"{option('jobs')} {found}: it must be a whole number from 1.")
    return found


def limits_of(study: Study) -> dict[str, Any]:
    """What ends a run of the study early."""
    given = {name: getattr(study.budget, name) for name in ("max_seconds", "gradients", "cost")}
    return {name: value for name, value in given.items() if value is not None}


def _told(changes: Changes, before: Any, now: dict[str, Any], output_dir: str) -> list[str]:
    """In what a study differs from the one that was run in its folder before, if anything of that is dropped."""
    if not changes.dropped:
        return []
    words = differences(before, now) if isinstance(before, dict) else []
    return [
        f"{output_dir} holds another study: {changes.dropped} of its runs are not asked for now, and {changes.new} are "
        "new. What both have is not run again; nothing is removed.",
        *(f"  {each}" for each in words),
    ]
