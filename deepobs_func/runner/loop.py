"""The loop: evaluate, train an epoch, evaluate, and so on; into a record."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import torch

from deepobs_func import random, records
from deepobs_func.memory import keep_freed_memory
from deepobs_func.problems.oracle import Metrics
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner.choice import Choice, Timing, choose, timing
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.evaluation import Evaluator
from deepobs_func.runner.feed import Feed, make_feed
from deepobs_func.runner.plan import Plan, empty_record, make_plan
from deepobs_func.runner.precision import precision
from deepobs_func.runner.progress import Reporter
from deepobs_func.runner.step import Carry, StepInput, laid_out, make_train_step
from deepobs_func.runner.threads import num_threads
from deepobs_func.runner.tracking import Tracker


class RunInterrupted(KeyboardInterrupt):
    """Ctrl-C during a run. What was done so far is in `record`, whose `path` is the file where one was written."""

    def __init__(self, record: RunRecord) -> None:
        super().__init__(f"interrupted after {max(len(record.train_losses) - 1, 0)} of {record.num_epochs} epochs")
        self.record = record


def run(config: RunConfig, problem: Problem | None = None, reporter: Reporter | None = None) -> RunRecord:
    """Trains a problem and records it, as DeepOBS does: evaluated before training and after every epoch.

    Two runs of one configuration, on one machine with the same thread count and versions, give the same numbers, bit
    for bit.

    Args:
        config: what to run. Its record is written into `config.output_dir`, unless that is None.
        problem: a problem of your own, e.g. from `problems.from_module`; by default the one that the name says.
        reporter: shows the progress; by default nothing is shown.

    Returns:
        The record; its status is `"finished"` or `"diverged"`.

    Raises:
        ConfigError, DataError: the run cannot start; nothing was trained.
        DataError: a file of streamed data cannot be read. What was done so far is written with status `"failed"`, as
            after any other exception.
        RunInterrupted: Ctrl-C. The epochs so far are written with status `"interrupted"`.
    """
    plan = make_plan(config, problem)
    record = empty_record(plan)
    key = random.key(plan.config.seed, plan.device)
    feed = make_feed(plan, key)
    params, state = plan.problem.init(key)
    carry = Carry(params, plan.optimizer.init(params, key), state)
    if config.output_dir is not None:
        records.check_writable(records.folder_of(record, config.output_dir), config.output_dir)
    tracker = Tracker(plan.problem, plan.config, plan.lr_at, key, params)
    keep_freed_memory()
    training = _Training(plan, feed, key, record, tracker, reporter or Reporter())
    try:
        with precision(plan.config.precision, plan.device):
            training.train(carry)
    except KeyboardInterrupt as interrupt:
        record.extra["status"] = "interrupted"
        _write(record, config)
        raise RunInterrupted(record) from interrupt
    except Exception as error:
        record.extra |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
        _write(record, config)
        if record.path is not None:
            error.add_note(f"The run failed; what it did so far is in {record.path}.")
        raise
    _write(record, config)
    return record


def _write(record: RunRecord, config: RunConfig) -> None:
    """Writes the record; an interrupted run in which nothing was done leaves none."""
    if config.output_dir is not None and (record.train_losses or record.status == "failed"):
        record.extra["environment"]["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        record.path = records.write(record, config.output_dir)


class _Training:
    """A run under way: what does not change during it, and the record that grows."""

    def __init__(
        self, plan: Plan, feed: Feed, key: random.Key, record: RunRecord, tracker: Tracker, reporter: Reporter
    ) -> None:
        self.plan, self.feed, self.key = plan, feed, key
        self.record, self.tracker, self.reporter = record, tracker, reporter
        self.timings: dict[str, Any] = {"warm_up": 0.0, "train": [], "evaluate": []}
        if feed.data_wait is not None:
            self.timings["data_wait"] = feed.data_wait
        self.penalties: list[float] = []
        self.minibatch_penalties: list[float] = []
        self.class_zero: tuple[float | None, float | None] = (None, None)
        self.reports: dict[str, list[float]] = {}
        self.divergence: dict[str, Any] | None = None

    def train(self, carry: Carry) -> None:
        """Fills the record. What it has when an exception leaves this method is what was done so far."""
        self.record.extra |= {
            "status": "interrupted",
            "protocol": self.plan.protocol.name,
            "timings": self.timings,
            "penalties": self.penalties,
            "minibatch_penalties": self.minibatch_penalties,
        }
        if self.plan.config.track:
            self.record.extra["tracked"] = self.tracker.tracked
            self.timings["track"] = []
        self.reporter.start(self.plan)
        try:
            carry = self._set_up(carry)
            self._evaluate(0, carry)
            for epoch in range(self.plan.epochs):
                if self._stopped():
                    break
                carry = self._train_epoch(epoch, carry)
                if not self._stopped():
                    self._evaluate(epoch + 1, carry)
            self._finish()
        finally:
            self.reporter.close()

    def _set_up(self, carry: Carry) -> Carry:
        """Chooses how to execute the run and warms it up: measuring, compiling and first calls are off the clock."""
        start, first = time.perf_counter(), functools.cache(self.feed.first)
        announce = functools.cache(self.reporter.measuring)  # once, if anything is measured

        def measure(choice: Choice) -> Timing:
            announce()
            return self._timing(carry, first(choice.steps_per_call), choice)

        choice = choose(self.plan, carry.params, measure)
        self.record.extra["resolved"] = dataclasses.asdict(choice) | (
            {} if self.plan.workers is None else {"workers": self.plan.workers}
        )
        self.reporter.chosen(choice)
        self.steps_per_call, self.threads = choice.steps_per_call, choice.threads
        self.train_step = make_train_step(self.plan.problem, self.plan.optimizer, choice)
        self.evaluator = Evaluator(self.plan, self.feed, self.key, choice)
        carry = self._laid_out(carry, choice)
        with num_threads(self.threads):
            _, metrics = self.train_step(self._throwaway(carry), first(self.steps_per_call))
            metrics.loss.sum().item()
            self.evaluator.warm_up(carry)
        self.timings["warm_up"] = time.perf_counter() - start
        return carry

    def _timing(self, carry: Carry, inputs: StepInput, choice: Choice) -> Timing:
        """Times steps of the run under a choice, each from where the one before ended; their results are dropped."""
        train_step = make_train_step(self.plan.problem, self.plan.optimizer, choice)
        carry = self._throwaway(self._laid_out(carry, choice))

        def call() -> None:
            nonlocal carry
            carry, metrics = train_step(carry, inputs)
            metrics.loss.sum().item()

        with num_threads(choice.threads):
            return timing(call, choice.steps_per_call)

    def _laid_out(self, carry: Carry, choice: Choice) -> Carry:
        if not choice.channels_last:
            return carry
        params = {name: laid_out(leaf) for name, leaf in carry.params.items()}
        return Carry(params, self.plan.optimizer.init(params, self.key), carry.state)

    def _throwaway(self, carry: Carry) -> Carry:
        """At the start of a pass, with a state that a torch optimizer may change."""
        return self._from_zero(carry)._replace(opt_state=self.plan.optimizer.init(carry.params, self.key))

    def _train_epoch(self, epoch: int, carry: Carry) -> Carry:
        carry = self._from_zero(carry)
        columns, reports = list[Metrics](), []
        interval, k = self.plan.config.train_log_interval, self.steps_per_call
        first, tracking = epoch * self.plan.steps_per_epoch, 0.0
        start = time.perf_counter()
        with num_threads(self.threads), closing(self.feed.epoch(epoch, k)) as calls:
            for step, inputs in zip(itertools.count(step=k), calls, strict=False):
                before = carry
                carry, metrics = self.train_step(before, inputs)
                if self.tracker.is_due(first + step):
                    tracking += self.tracker.measure(first + step, before, inputs, carry)
                columns.append(metrics)
                if -step % interval < k:
                    reports.append(self.plan.optimizer.report(carry.opt_state))
                    self.reporter.step(epoch, step, metrics.loss)
        copied = torch.stack([torch.cat(column) for column in zip(*columns, strict=True)]).double().cpu()
        self.timings["train"].append(time.perf_counter() - start - tracking)
        if "track" in self.timings:
            self.timings["track"].append(tracking)
        self._log_steps(epoch, copied)
        self._log_reports(reports)
        return carry

    def _from_zero(self, carry: Carry) -> Carry:
        """A recurrent state is zero at the start of every pass over the data."""
        zeros = self.plan.problem.zero_carry(self.plan.batch_size, device=self.plan.device)
        return carry._replace(state=carry.state._replace(carry=zeros))

    def _log_steps(self, epoch: int, metrics: torch.Tensor) -> None:
        """Records an epoch's mini-batch losses, `(2, steps)`: loss and penalty; and sees whether one diverged."""
        objectives, penalties = metrics.sum(0), metrics[1]
        bad = (~torch.isfinite(objectives)).nonzero().flatten()
        if len(bad):
            self._diverge(epoch, int(bad[0]))
            if self._stopped():
                objectives = objectives[: int(bad[0]) + 1]
        interval = self.plan.config.train_log_interval
        self.record.minibatch_train_losses += objectives[::interval].tolist()
        self.minibatch_penalties += penalties[: len(objectives) : interval].tolist()

    def _log_reports(self, reports: list[dict[str, torch.Tensor]]) -> None:
        """Records what the optimizer reports of its state after a step, beside each recorded mini-batch loss."""
        for report in reports:
            for name, value in report.items():
                self.reports.setdefault(name, []).append(float(value))
        for column in self.reports.values():
            del column[len(self.record.minibatch_train_losses) :]
        if self.reports:
            self.record.extra["reports"] = self.reports

    def _evaluate(self, epoch: int, carry: Carry) -> None:
        start = time.perf_counter()
        carry = carry._replace(params=self.plan.optimizer.eval_params(carry.opt_state, carry.params))
        with num_threads(self.threads):
            penalty = float(self.plan.problem.penalty(carry.params))
            train, test = self.evaluator(epoch, carry)
        record = self.record
        record.train_losses.append(train.loss + penalty)
        record.test_losses.append(test.loss + penalty)
        self.penalties.append(penalty)
        self.class_zero = train.class_zero, test.class_zero
        if record.train_accuracies is not None and record.test_accuracies is not None:
            assert train.accuracy is not None, "a problem with accuracies measures them"
            assert test.accuracy is not None
            record.train_accuracies.append(train.accuracy)
            record.test_accuracies.append(test.accuracy)
        self.timings["evaluate"].append(time.perf_counter() - start)
        if not (math.isfinite(record.train_losses[-1]) and math.isfinite(record.test_losses[-1])):
            self._diverge(epoch, None)
        self.reporter.evaluated(epoch, record)

    def _diverge(self, epoch: int, step: int | None) -> None:
        """Notes where the objective first was not finite: in a step of an epoch, or in the evaluation after it."""
        if self.divergence is None:
            self.divergence = self.record.extra["divergence"] = {"epoch": epoch, "step": step}

    def _stopped(self) -> bool:
        return self.divergence is not None and self.plan.config.on_divergence == "stop"

    def _finish(self) -> None:
        record = self.record
        record.extra["status"] = "finished" if self.divergence is None else "diverged"
        missing = self.plan.epochs + 1 - len(record.train_losses)
        nan = float("nan")
        record.train_losses += [nan] * missing
        record.test_losses += [nan] * missing
        self.penalties += [nan] * missing
        if record.train_accuracies is not None and record.test_accuracies is not None:
            train, test = self.class_zero
            assert train is not None, "a problem with accuracies measures them"
            assert test is not None
            record.train_accuracies += [train] * missing
            record.test_accuracies += [test] * missing
        steps = self.plan.epochs * -(-self.plan.steps_per_epoch // self.plan.config.train_log_interval)
        for column in (record.minibatch_train_losses, self.minibatch_penalties, *self.reports.values()):
            column += [nan] * (steps - len(column))
