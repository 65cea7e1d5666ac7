"""One run, from a configuration to a file: a consumer of `Training` that loses nothing, however the run ends."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.base import Params
from deepobs_func.errors import ResumeError, UserError, option
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import checkpoint, signals
from deepobs_func.runner.agreeing import agreed, check_kept
from deepobs_func.runner.callbacks import Callback, answered, watching
from deepobs_func.runner.checkpoint import Checkpoint
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.distributed import check_alike
from deepobs_func.runner.events import Evaluated, Event, Finished, Logged
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.keeping import Checkpoints, checkpoint_folder, finished
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.runner.probe_entries import write_record
from deepobs_func.runner.recording import make_record
from deepobs_func.runner.series import ALONE, Series
from deepobs_func.runner.signals import SHIELD
from deepobs_func.runner.tracking import Tracker
from deepobs_func.runner.training import Iteration, Training, TrainState, Watch, one_by_one


@dataclass(frozen=True)
class Run:
    """A run that has ended. It has the attributes of its record, too: `run.test_losses`, `run.status`.

    Attributes:
        record: the results; `record.path` is its file.
        plan: the resolved configuration.
        training, state: the `Training` and its last state; None if `resume` found the run finished.
    """

    record: RunRecord
    plan: Plan
    training: Training | None = None
    state: TrainState | None = None

    def __getattr__(self, name: str) -> Any:
        """An attribute of the record."""
        if name.startswith("__") or name == "record":  # what copying and pickling look for
            raise AttributeError(name)
        return getattr(self.record, name)

    @property
    def problem(self) -> Problem:
        """What was trained, at the run's weight decay."""
        return self.plan.problem

    @property
    def params(self) -> Params:
        """The trained parameters: those that were evaluated.

        Raises:
            UserError: the run was finished already, so that nothing was trained here.
        """
        if self.training is None or self.state is None:
            raise UserError(
                f"The run was finished already ({self.record.path}); its parameters were not loaded. Load them from "
                "a checkpoint with deepobs_func.load, or run it anew without resume=True."
            )
        return self.training.eval_params(self.state)


class RunInterrupted(KeyboardInterrupt):
    """A signal ended a run.

    Attributes:
        record: what was done so far; its `path` is the file where one was written, and its `note` says why that is
            elsewhere than it should be.
        checkpoint: what the run can go on from; None where there is none.
    """

    def __init__(self, record: RunRecord, checkpoint: Path | None = None) -> None:
        super().__init__(f"interrupted after {max(len(record.train_losses) - 1, 0)} of {record.num_epochs} epochs")
        self.record: RunRecord = record
        self.checkpoint: Path | None = checkpoint


def run(
    config: RunConfig,
    problem: Problem | None = None,
    optimizer: Optimizer | Any = None,
    callbacks: Sequence[Callback] = (),
    *,
    execution: Execution | None = None,
    resume: bool | str | Path = False,
    about: Mapping[str, Any] | None = None,
    series: Series = ALONE,
) -> Run:
    """Trains a problem and records it, as DeepOBS does: evaluated before training and after every epoch.

    Two runs of equal `run_id` and equal `execution_id` give the same numbers, bit for bit, on one machine with one set
    of versions. The execution is measured if none is given; a machine with an empty cache may measure another one.

    Args:
        config: what to run. Its record is written into `config.output_dir`, unless that is None.
        problem: your own problem, e.g. from `problems.from_module`; by default the one of that name.
        optimizer: your own optimizer: a functional one, or a callable from named parameters to a torch optimizer;
            `config.optimizer` is then its name. By default the one of that name.
        callbacks: see `runner.callbacks`.
        execution: how to execute it, e.g. `Execution.read(record)`; by default measured.
        resume: whether to go on from the last checkpoint of the same run, to start where there is none, and to return
            the record where it is finished; or the checkpoint to go on from.
        about: what a study says of this run, as JSON can hold it, such as its budget and the number of the trial. It
            stands under `extra["study"]` in the record that is written, and decides nothing: it is not in the `run_id`.
        series: the study that it is part of, for what is decided once for all its runs.

    Returns:
        Record, parameters, last state and problem; the status is `"finished"`, `"diverged"` or `"stopped"`.

    Raises:
        ConfigError, DataError: the run cannot start; nothing was trained.
        DataError: a file of streamed data cannot be read. What was done so far is written with status `"failed"`, as
            after any other exception.
        RunInterrupted: Ctrl-C, SIGTERM or SIGHUP. What was done so far is written with status `"interrupted"`, with a
            checkpoint from which `resume=True` goes on.

    >>> trained = run(RunConfig("quadratic_deep", "adam", lr=0.04, epochs=2, output_dir=None))
    >>> trained.record.status, len(trained.record.test_losses), trained.params["theta"].shape
    ('finished', 3, torch.Size([100]))
    """
    with signals.caught(), SHIELD.raised(), ExitStack() as stack:
        for callback in callbacks:
            stack.callback(getattr(callback, "close", lambda: None))
        plan = make_plan(config, problem, optimizer)
        check_alike(plan, execution, watching(callbacks) is not None)
        output_dir, checkpoints = plan.config.output_dir, None
        if output_dir is not None:
            empty = make_record(plan, Log())
            done = plan.ranks.by_first(lambda: _looked_up(empty, plan, resume=bool(resume)))
            if done is not None:
                return Run(done, plan)
            checkpoints = Checkpoints(plan, checkpoint_folder(empty, output_dir))
        return _Running(plan, callbacks, checkpoints, about, series).run(execution, resume)


def go_on_or_start(*args: Any, resume: bool = True, **others: Any) -> Run:
    """`run` in a study: it goes on where it was, and starts anew beside a checkpoint that it cannot go on from.

    That is one of another version, machine or number of threads, or one that was asked for something else.

    Args:
        args, resume, others: as `run` has them.
    """
    try:
        return run(*args, resume=resume, **others)
    except ResumeError as error:
        with contextlib.suppress(OSError):  # a full disk costs the line alone
            print(f"{error}\nThe run starts anew.", file=sys.stderr, flush=True)
        return run(*args, **others)


def _looked_up(empty: RunRecord, plan: Plan, *, resume: bool) -> RunRecord | None:
    """The record of the run where it is finished and asked for, after it was seen that one can be written."""
    output_dir = plan.config.output_dir
    assert output_dir is not None, "something is to be written"
    records.check_writable(records.folder_of(empty, output_dir), output_dir)
    return finished(empty, output_dir, plan.config) if resume else None


def _announce(callbacks: Sequence[Callback], what: str, *details: Any) -> None:
    """Tells those callbacks that have a method for it."""
    for callback in callbacks:
        getattr(callback, what, lambda *details: None)(*details)


class _Running:
    """A run under way, and what is kept of it."""

    def __init__(
        self,
        plan: Plan,
        callbacks: Sequence[Callback],
        checkpoints: Checkpoints | None,
        about: Mapping[str, Any] | None,
        series: Series,
    ) -> None:
        self.plan, self.callbacks, self.checkpoints, self.about = plan, callbacks, checkpoints, about
        self.series = series
        self.iteration: Iteration | None = None
        self.found: Checkpoint | None = None  # what the run goes on from
        self.whole = False  # whether the state is one that a checkpoint may hold, whatever comes

    def run(self, execution: Execution | None, resume: bool | str | Path) -> Run:
        """Trains, and writes what there is, whatever ends it."""
        try:
            self._train(execution, resume)
        except KeyboardInterrupt as interrupt:
            with signals.ignored():
                is_answered = not isinstance(interrupt, signals.Unanswered)
                kept = self._kept(getattr(interrupt, "whole", False)) if is_answered else None
                record = self._written("interrupted")
            raise RunInterrupted(record, kept) from interrupt
        except BaseException as error:  # SystemExit too: whatever ends a run, what was done is kept
            if self.iteration is None and isinstance(error, UserError):
                raise  # it could not start
            with signals.ignored():
                self._kept()
                record = self._written("failed", error)
            if record.path is not None:
                error.add_note(f"The run failed; what it did so far is in {record.path}. {record.note}".rstrip())
            raise
        with signals.ignored():
            assert self.iteration is not None, "it was trained"
            record = self._written()
            if self.checkpoints and record.status != "stopped":
                self.checkpoints.end(self.iteration)
            return Run(record, self.plan, self.iteration.training, self.iteration.last_state())

    def _train(self, execution: Execution | None, resume: bool | str | Path) -> None:
        """To the end, or to where a callback ends it."""
        _announce(self.callbacks, "start", self.plan)
        tracking: list[Callback] = [Tracker(self.plan)] if self.plan.config.track else []
        callbacks = [*tracking, *self.callbacks]
        watch = watching(callbacks)
        kept = self.found = self._found(resume, execution, watch)
        with SHIELD.raised(False):  # nothing is to be lost yet
            training = Training(
                self.plan,
                execution or (kept.execution if kept else None),
                watch=watch,
                measuring=lambda: _announce(self.callbacks, "measuring"),
                series=self.series,
            )
        _announce(self.callbacks, "chosen", training.execution)
        if self.checkpoints:
            self.checkpoints.begin(kept)
        self.iteration = training(kept.state(training) if kept else training.start())
        with closing(self.iteration):
            for event in self.iteration:
                self.whole = isinstance(event, Evaluated | Logged)  # between two steps that are in the log as they are
                stops = self.plan.ranks.all(answered(event, callbacks))  # any process may end the run of all
                stop = next((each for each in stops if each is not None), None)
                if stop is not None and not _is_last(event):
                    self._kept(True)
                    event.log.status, event.log.stop, event.log.limit = "stopped", stop.reason, dict(stop.limit)
                    return
                if self.checkpoints:
                    self.checkpoints(event)
                self.whole = False

    def _found(self, resume: bool | str | Path, execution: Execution | None, watch: Watch | None) -> Checkpoint | None:
        """The checkpoint to go on from, which is of this run; None for a start."""
        kept = self.plan.ranks.by_first(lambda: self._looked_up(resume))
        if kept is not None:
            checkpoint.check_same_run(kept, self.plan)
            check_kept(self.plan, kept.execution, kept.path)
            given = execution and one_by_one(agreed(self.plan, execution).alone, watch)
            if given is not None and given != kept.execution:
                raise ResumeError(
                    f"{kept.path} was executed otherwise ({kept.execution}) than {option('execution')} says "
                    f"({execution}); give none to go on with it."
                )
        if resume:
            _announce(self.callbacks, "resuming", kept)
        return kept

    def _looked_up(self, resume: bool | str | Path) -> Checkpoint | None:
        if not isinstance(resume, bool):
            return checkpoint.read(resume)
        return self.checkpoints.latest() if resume and self.checkpoints else None

    def _kept(self, whole: bool = False) -> Path | None:
        """Writes a checkpoint, if the state is whole."""
        if self.iteration is None or self.checkpoints is None or not (whole or self.whole):
            return None
        if self.plan.ranks.size > 1 and (self.plan.ranks.rank or self.iteration.carry.state.carry):
            return None  # process 0 writes, and a recurrent state needs all of them, who may be gone
        return self.checkpoints.save(self.iteration)

    def _written(self, status: str = "", error: BaseException | None = None) -> RunRecord:
        """Writes the record of what was done so far."""
        record = self._record()
        record.extra |= {"status": status} if status else {}
        if error is not None:
            words = "".join(traceback.format_exception(error))
            record.extra |= {"error": f"{type(error).__name__}: {error}", "traceback": words}
        record.extra |= {"study": dict(self.about)} if self.about else {}
        if self.checkpoints and self.checkpoints.failure:
            record.extra["checkpoint_failed"] = self.checkpoints.failure
        record.extra["environment"]["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        if self.plan.config.output_dir is not None and self.plan.ranks.rank == 0:
            record.path, record.note = write_record(record, self.plan.config.output_dir)
        _announce(self.callbacks, "written", record)
        return record

    def _record(self) -> RunRecord:
        if self.iteration is None and self.found is not None:
            return make_record(self.plan, Log.from_plain_data(self.found.head["log"]), self.found.execution)
        if self.iteration is None:
            return make_record(self.plan, Log())
        try:
            return self.iteration.record()
        except Exception:  # a device that failed gives nothing back; what was read from it before is in the log
            return make_record(self.plan, self.iteration.log, self.iteration.training.execution)


def _is_last(event: Event) -> bool:
    """Whether nothing is left to be done after it, so that to stop here is to finish."""
    return isinstance(event, Finished) or (isinstance(event, Evaluated) and event.epoch == event.plan.epochs)
