"""Training as an iterator over a state that is a value.

    plan = make_plan(config)
    training = Training(plan)
    for event in training(training.start()):
        ...
    record = training.record(event.state)

An iteration may be left at any event and entered again with `event.state`, here or in another process
(`runner.checkpoint`): the numbers are the same, bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.backend.memory import keep_freed_memory
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.counting import calls_so_far
from deepobs_func.problems.oracle import Metrics
from deepobs_func.records import RunRecord
from deepobs_func.runner.agreeing import agreed, asked
from deepobs_func.runner.batches import Batches, make_batches
from deepobs_func.runner.evaluation import Evaluator
from deepobs_func.runner.events import Evaluated, Event, Finished, Logged, Stepped
from deepobs_func.runner.execution import Execution, synchronize
from deepobs_func.runner.fitting import naming_what_fits
from deepobs_func.runner.log import Log
from deepobs_func.runner.measuring import Timing, choose, timing
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.recording import make_record
from deepobs_func.runner.series import ALONE, Series
from deepobs_func.runner.signals import SHIELD
from deepobs_func.runner.step import Carry, StepInput, TrainStep, laid_out, make_batch, make_train_step

Watch = Callable[[int], bool]
E = TypeVar("E", bound=Event)


class TrainState(NamedTuple):
    """All that changes in a run.

    Attributes:
        carry: parameters, optimizer state, model state.
        epoch: how many epochs are complete.
        step: how many steps of the next one were made.
        log: what was found so far.
    """

    carry: Carry
    epoch: int
    step: int
    log: Log


def one_by_one(execution: Execution, watch: Watch | None) -> Execution:
    """The execution, with a call for each step where steps are watched: a call of several shows its last one alone."""
    return execution if watch is None else dataclasses.replace(execution, steps_per_call=1)


def watch_nothing(step: int) -> bool:
    """The `watch` of a run without `Stepped` events."""
    return False


class Training:
    """A run of a plan: its data, its step and its evaluation.

    Args:
        plan: what to run.
        execution: how; measured, or taken from an earlier measurement, by default. A given one cuts batches and repeats
            bits as the plan asks.
        watch: `step -> bool`, which steps, counted over the whole run, are shown one by one as `Stepped` events. Then a
            call makes one step, so it is part of what an execution is measured for.
        measuring: called once before steps are timed to find the execution; not called if it is known.
        series: the study that the run is part of, which decides what compiling may cost.

    Raises:
        DataError: (from the constructor) the data are not there or cannot be read.
        ConfigError: (from the constructor) the execution cannot be carried out, or contradicts the plan.

    >>> from deepobs_func import RunConfig
    >>> from deepobs_func.runner import make_plan
    >>> training = Training(make_plan(RunConfig("quadratic_deep", "adam", lr=0.04, epochs=2, output_dir=None)))
    >>> for event in training(training.start()):
    ...     if isinstance(event, Evaluated):
    ...         break
    >>> for event in training(event.state):  # goes on where it was left
    ...     pass
    >>> training.record(event.state).status
    'finished'
    """

    def __init__(
        self,
        plan: Plan,
        execution: Execution | None = None,
        *,
        watch: Watch | None = None,
        measuring: Callable[[], None] = lambda: None,
        series: Series = ALONE,
    ) -> None:
        keep_freed_memory()
        self.plan: Plan = plan
        self.watch: Watch = watch or watch_nothing
        self.key: random.Key = random.key(plan.config.seed, plan.device)
        self.batches: Batches = make_batches(plan, self.key)
        start, first = time.perf_counter(), functools.cache(self.batches.first)
        initial = self._initial()
        announce = functools.cache(measuring)

        def measure(execution: Execution) -> Timing:
            announce()
            return self._timing(initial, first(execution.steps_per_call), execution)

        with naming_what_fits(plan, functools.partial(self._attempt, initial, first)):
            if execution is None:
                chosen = choose(plan, initial.params, measure, series, watched=watch is not None)
            else:
                chosen = agreed(plan, execution)
            self.execution: Execution = one_by_one(chosen.alone, watch)
        self.train_step: TrainStep = make_train_step(
            plan.problem, plan.optimizer, self.execution, plan.config.precision
        )
        self.evaluator: Evaluator = Evaluator(plan, self.batches, self.key, self.execution)
        self.make_batch: Callable[[ModelState, StepInput], Batch] = make_batch(plan.problem, plan.ranks)
        with naming_what_fits(plan, functools.partial(self._attempt, initial, first)):
            self._warm_up(initial, first(self.execution.steps_per_call))
        self._setting_up = time.perf_counter() - start

    def start(self) -> TrainState:
        """The state before the first evaluation: the initial parameters, and an empty log."""
        carry = self._laid_out(self._initial(), self.execution)
        log = Log()
        log.timings["warm_up"] = self._setting_up
        if self.batches.streamed:
            log.timings["data_wait"] = []
        if self.watch is not watch_nothing:
            log.timings["track"] = []
        return TrainState(carry, 0, 0, log)

    def __call__(self, state: TrainState) -> Iteration:
        """Goes on from a state to the end of the run: an iterator over its events.

        Args:
            state: of this plan; it is not changed.

        Yields:
            `Evaluated` before training and after each epoch; `Logged` every `train_log_interval` steps; `Stepped` after
            each step that is watched; `Finished` at the end. The clock stands still while the caller looks.
        """
        return Iteration(self, state)

    def record(self, state: TrainState) -> RunRecord:
        """The record of a run in a state, finished or not."""
        return make_record(self.plan, state.log, self.execution)

    def eval_params(self, state: TrainState) -> Params:
        """The parameters that are evaluated, which some optimizers tell apart from those that they step."""
        return self.plan.optimizer.eval_params(state.carry.opt_state, state.carry.params)

    def _initial(self) -> Carry:
        params, model_state = self.plan.problem.init(self.key)
        return Carry(params, self.plan.optimizer.init(params, self.key), model_state)

    def _laid_out(self, carry: Carry, execution: Execution) -> Carry:
        if not execution.channels_last:
            return carry
        params = {name: laid_out(leaf) for name, leaf in carry.params.items()}
        return Carry(params, self.plan.optimizer.init(params, self.key), carry.state)

    def from_zero(self, carry: Carry) -> Carry:
        """A recurrent state is zero at the start of every pass over the data."""
        zeros = self.plan.problem.zero_carry(self.plan.shard_size, device=self.plan.device)
        return carry._replace(state=carry.state._replace(carry=zeros))

    def _throwaway(self, carry: Carry) -> Carry:
        """At the start of a pass, with a state that an optimizer of torch's may change."""
        return self.from_zero(carry)._replace(opt_state=self.plan.optimizer.init(carry.params, self.key))

    def _timing(self, carry: Carry, inputs: StepInput, execution: Execution) -> Timing:
        """Times steps of the run, each from where the one before ended; their results are dropped."""
        train_step = make_train_step(self.plan.problem, self.plan.optimizer, execution, self.plan.config.precision)
        carry = self._throwaway(self._laid_out(carry, execution))

        def call() -> None:
            nonlocal carry
            carry, metrics = train_step(carry, inputs)
            metrics.loss.sum().item()

        with execution.apply(self.plan.config.precision, self.plan.device):
            return timing(call, execution.steps_per_call, self.plan.device, self.plan.ranks)

    def _attempt(self, carry: Carry, first: Callable[[int], StepInput], size: int) -> None:
        """Makes a step in pieces of so many examples, which is thrown away."""
        execution, config = Execution(**asked(self.plan) | {"micro_batch": size}), self.plan.config
        with execution.apply(config.precision, self.plan.device):
            step = make_train_step(self.plan.problem, self.plan.optimizer, execution, config.precision)
            step(self._throwaway(carry), first(1))[1].loss.sum().item()

    def _warm_up(self, carry: Carry, inputs: StepInput) -> None:
        """Makes a step and an evaluation that are thrown away: compiling and first calls are off the clock."""
        carry = self._throwaway(self._laid_out(carry, self.execution))
        with self.execution.apply(self.plan.config.precision, self.plan.device):
            _, metrics = self.train_step(carry, inputs)
            metrics.loss.sum().item()
            self.evaluator.warm_up(carry)


class _Stopwatch:
    """Adds up the seconds of training; it stands still while a caller looks."""

    def __init__(self, before: float) -> None:
        self._seconds, self._start = before, time.perf_counter()

    def pause(self) -> float:
        """Stops, and returns the seconds so far."""
        self._seconds += time.perf_counter() - self._start
        return self._seconds

    def go_on(self) -> float:
        """Starts again, and returns how long the pause was."""
        before, self._start = self._start, time.perf_counter()
        return self._start - before


class Iteration(Iterator[Event]):
    """A run under way: an iterator over its events, to be closed when it is left early.

    Args:
        training: what runs.
        state: where it goes on from.
    """

    def __init__(self, training: Training, state: TrainState) -> None:
        self.training: Training = training
        self.plan: Plan = training.plan
        self.carry: Carry = state.carry._replace(opt_state=self._own(state))
        self.log: Log = state.log.copy()
        self.epoch: int = state.epoch
        self.step: int = state.step
        self.columns: list[Metrics] = []  # of the steps that are not in the log yet, on the device
        self.reports: list[dict[str, Tensor]] = []  # likewise
        self._events = self._run()

    def __next__(self) -> Event:
        with self.training.execution.apply(self.plan.config.precision, self.plan.device):
            return next(self._events)

    def close(self) -> None:
        """Ends it where it is; workers that read its data end too."""
        self._events.close()

    def state(self) -> TrainState:
        """The state now, as a value.

        Raises:
            ConfigError: the optimizer is of a class whose state cannot be copied.
        """
        state = self.last_state()
        return state._replace(carry=state.carry._replace(opt_state=self._own(state)))

    def last_state(self) -> TrainState:
        """The state at the end of the iteration; it shares what a torch optimizer changes in place."""
        return TrainState(self.carry, self.epoch, self.step, self._log_now())

    def record(self) -> RunRecord:
        """The record of the run so far."""
        return make_record(self.plan, self._log_now(), self.training.execution)

    def eval_params(self) -> Params:
        """The parameters that are evaluated now."""
        return self.plan.optimizer.eval_params(self.carry.opt_state, self.carry.params)

    def mean(self, measure: Callable[[Any, Batch], Tensor], split: str = "test") -> float:
        """The mean over a split of a function of the test-phase outputs, `(outputs, batch) -> (B,)`."""
        with self.training.execution.apply(self.plan.config.precision, self.plan.device):
            carry = self.carry._replace(params=self.eval_params())
            return self.training.evaluator.mean(self.epoch, carry, measure, split)

    def _run(self) -> Generator[Event]:
        """From here to the end."""
        while self.log.status == "running" and not self._has_diverged():
            if self.log.evaluations <= self.epoch:  # at the start, after an epoch, and where it was left between both
                yield self._evaluate()
            elif self.epoch < self.plan.epochs:
                yield from self._train_epoch()
            else:
                break
        if self.log.status == "running":
            self.log.finish(self.plan.epochs, self.plan.logged_steps)
        yield self._event(Finished)

    def _evaluate(self) -> Event:
        """Evaluates every split, into the log."""
        start, log = time.perf_counter(), self.log
        with SHIELD.raised(False):  # nothing changes yet
            params = self._checked(self.eval_params())
            penalty = float(self.plan.problem.penalty(params))
            results = self.training.evaluator(self.epoch, self.carry._replace(params=params))
        for split, result in results.items():
            log.evaluated(split, result.loss + penalty, result.accuracy, result.class_zero)
        log.penalties.append(penalty)
        log.timings["evaluate"].append(time.perf_counter() - start)
        if not all(math.isfinite(column[-1]) for column in log.losses.values()):
            log.diverge(self.epoch, None)
        return self._event(Evaluated)

    def _checked(self, params: Params) -> Params:
        """The same, after it was seen that they are parameters of the problem: others may broadcast, and train on."""
        shapes = self.plan.problem.shapes
        for name, shape in shapes.items():
            if name not in params or params[name].shape != shape:
                found = tuple(params[name].shape) if name in params else "none"
                raise ConfigError(
                    f"The optimizer {self.plan.chosen.name} made {name} of shape {found}; the problem's has "
                    f"{tuple(shape)}. An update keeps names and shapes."
                )
        return params

    def _train_epoch(self) -> Generator[Event]:
        """Trains from the step that was reached to the end of the epoch."""
        plan, training, k = self.plan, self.training, self.training.execution.steps_per_call
        interval, partial, first = plan.config.train_log_interval, self.log.partial, self.epoch * plan.steps_per_epoch
        if self.step == 0:
            self.carry = training.from_zero(self.carry)
        columns, reports, watches = self.columns, self.reports, training.watch is not watch_nothing
        watch = _Stopwatch(partial.seconds)
        with closing(training.batches.epoch(self.epoch, k, self.step)) as calls:
            for step, inputs in zip(itertools.count(self.step, k), calls, strict=False):
                SHIELD.check()
                before = self.carry
                self.carry, metrics = training.train_step(before, inputs)
                self.step = step + k
                columns.append(metrics)
                logged = -step % interval < k
                if logged:
                    reports.append(plan.optimizer.report(self.carry.opt_state))
                # Before anything else, so that no state lacks what is seen of its step.
                if watches and training.watch(first + step):
                    synchronize(plan.device)  # what the step itself still takes is no cost of looking at it
                    partial.seconds = watch.pause()
                    make = functools.partial(training.make_batch, before.state, inputs.one(0))
                    yield self._event(Stepped, first + step, before, self.carry, make)
                    partial.track += watch.go_on()
                if logged:
                    partial.seconds = watch.pause()
                    yield self._event(Logged, metrics.loss)
                    watch.go_on()
            self._fetch(self.log)
            self.columns, self.reports = [], []
            partial.seconds = watch.pause()
            self.log.end_epoch(interval, self.epoch + 1, stop=plan.config.on_divergence == "stop")
            for kind, number in calls_so_far(plan.optimizer, self.carry.opt_state).items():
                self.log.calls.setdefault(kind, []).append(number)
            self.epoch, self.step = self.epoch + 1, 0

    def _has_diverged(self) -> bool:
        """Whether a divergence has ended the run."""
        return self.log.divergence is not None and self.plan.config.on_divergence == "stop"

    def _event(self, kind: Callable[..., E], *details: Any) -> E:
        """An event here and now."""
        return kind(self, self.epoch, self.step, *details)

    def _own(self, state: TrainState) -> Any:
        """An optimizer state that nobody else changes."""
        optimizer, carry, key = self.plan.optimizer, state.carry, self.training.key
        if state.epoch == state.step == 0:
            return optimizer.init(carry.params, key)
        return optimizer.load(optimizer.save(carry.opt_state), carry.params, key)

    def _log_now(self) -> Log:
        """The log with what the last steps left on the device, as a value."""
        log = self.log.copy()
        self._fetch(log)
        return log

    def _fetch(self, log: Log) -> None:
        """Adds to a log what the steps since the log's own left on the device."""
        partial = log.partial
        if self.columns:
            stacked = torch.stack([torch.cat(column) for column in zip(*self.columns, strict=True)]).double().cpu()
            partial.losses += stacked.sum(0).tolist()
            partial.penalties += stacked[1].tolist()
        partial.reports += [{name: float(value) for name, value in report.items()} for report in self.reports]
        if self.step:
            partial.data_wait += self.training.batches.waited
