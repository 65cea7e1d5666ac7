"""A pool that runs one run after the other in this process, with what `study.tuning` asks of a pool."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

from deepobs_func import records
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, run
from deepobs_func.runner.callbacks import Evaluated, Event, Stop
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.recording import make_record
from deepobs_func.study.tuning import Decide


class Outcome(NamedTuple):
    config: RunConfig
    run_id: str
    status: str
    record: RunRecord | None
    error: str = ""


class Ask:
    """After each evaluation, whether the run goes on."""

    def __init__(self, config: RunConfig, decide: Decide) -> None:
        self.config, self.decide = config, decide

    def __call__(self, event: Event) -> Stop | None:
        if not isinstance(event, Evaluated):
            return None
        log = {f"{split}_loss": list(column) for split, column in event.log.losses.items()}
        log |= {f"{split}_accuracy": list(column) for split, column in event.log.accuracies.items()}
        reason = self.decide(self.config, event.epoch, log)
        return None if reason is None else Stop(reason)


class InProcess:
    """Runs what was submitted, the last first if `backwards`, when the next outcome is asked for."""

    def __init__(self, decide: Decide, backwards: bool = False) -> None:
        self.decide, self.backwards = decide, backwards
        self.waiting: list[tuple[RunConfig, bool, Mapping[str, Any]]] = []
        self.submitted: list[RunConfig] = []
        self.ran: list[RunConfig] = []

    def submit(self, config: RunConfig, *, prune: bool = False, about: Mapping[str, Any] | None = None) -> None:
        self.submitted.append(config)
        self.waiting.append((config, prune, about or {}))

    def next(self) -> Outcome:
        config, prune, about = self.waiting.pop(-1 if self.backwards else 0)
        run_id = make_plan(config).run_id
        done = stopped(config, run_id)
        if done is None:
            callbacks = [Ask(config, self.decide)] if prune else []
            try:
                ended = run(config, callbacks=callbacks, resume=True, about=about)
            except RuntimeError as error:
                return Outcome(config, run_id, "failed", None, str(error))
            done = ended.record
            if ended.training is not None:
                self.ran.append(config)
        return Outcome(config, run_id, done.status, done)


def stopped(config: RunConfig, run_id: str) -> RunRecord | None:
    """The record of a run that a callback stopped, which is final."""
    if config.output_dir is None:
        return None
    plan = make_plan(config)
    folder = records.state_dir(config.output_dir) / records.relative_folder(make_record(plan, Log()))
    found = [records.read(path) for path in sorted(folder.glob(f"random_seed__{config.seed}__*.json.partial"))]
    return next((each for each in found if each.extra["run_id"] == run_id and each.status == "stopped"), None)


class Pools:
    """Makes pools, and keeps the last one."""

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards
        self.last: InProcess

    def __call__(self, decide: Decide) -> AbstractContextManager[InProcess]:
        self.last = InProcess(decide, self.backwards)
        return nullcontext(self.last)
