"""What a run shows while it goes: a progress bar on a terminal, a line per epoch elsewhere, or nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from deepobs_func.records import RunRecord

if TYPE_CHECKING:
    from torch import Tensor

    from deepobs_func.runner.choice import Choice
    from deepobs_func.runner.plan import Plan

MEASURING = "measuring how the steps run fastest here; it is kept for later runs"
_REFRESH = 0.2  # seconds between two readings of the loss, each of which waits for the device
_WAITING = 0.1  # the share of an epoch from which on waiting for data is worth a word


class Reporter:
    """Shows nothing. The methods are called by the loop, in this order; `close` comes in any case."""

    def start(self, plan: Plan) -> None:
        """Before the first evaluation."""

    def measuring(self) -> None:
        """Once, before steps are timed to decide how the run is executed; not where that is known."""

    def chosen(self, choice: Choice) -> None:
        """When it is decided how the run is executed, before the first evaluation."""

    def step(self, epoch: int, step: int, losses: Tensor) -> None:
        """Once per logging interval; the losses `(k,)` of the steps from this one on are still on the device."""

    def evaluated(self, epoch: int, record: RunRecord) -> None:
        """After each evaluation; `epoch` is the number of epochs trained."""

    def close(self) -> None:
        """At the end, however it came."""


def summary(epoch: int, record: RunRecord) -> str:
    """One line on the last evaluation."""
    text = f"epoch {epoch}/{record.num_epochs}  train {record.train_losses[-1]:.4f}  test {record.test_losses[-1]:.4f}"
    if record.test_accuracies:
        text += f"  test accuracy {record.test_accuracies[-1]:.2%}"
    return text


def waiting(record: RunRecord) -> str:
    """Says that the data of the last epoch did not come as fast as they were used; else it is empty."""
    timings = record.extra["timings"]
    if not timings.get("data_wait"):
        return ""
    share = timings["data_wait"][-1] / timings["train"][-1]
    return f"  {share:.0%} of the epoch spent waiting for data (--workers)" if share > _WAITING else ""


def tracking(record: RunRecord) -> str:
    """Says what tracking cost in the last epoch; else it is empty."""
    timings = record.extra["timings"]
    return f"  tracking {timings['track'][-1]:.1f} s" if timings.get("track") else ""


def description(choice: Choice) -> str:
    """One line on how a run is executed."""
    together = f", {choice.steps_per_call} steps a call" if choice.steps_per_call > 1 else ""
    return f"{choice.reason}{together}{', channels last' if choice.channels_last else ''}"


class Lines(Reporter):
    """A plain line after each evaluation."""

    def __init__(self, console: Console) -> None:
        self._console, self._start, self._steps = console, 0.0, 0

    def start(self, plan: Plan) -> None:
        self._steps = plan.steps_per_epoch

    def measuring(self) -> None:
        self._console.print(MEASURING, highlight=False, soft_wrap=True)

    def chosen(self, choice: Choice) -> None:
        self._console.print(description(choice), highlight=False, soft_wrap=True)

    def evaluated(self, epoch: int, record: RunRecord) -> None:
        train = record.extra["timings"]["train"]
        speed = f"  {self._steps / train[-1]:.0f} steps/s" if train else ""
        if not epoch:
            self._start = time.perf_counter()  # setting up is over
        elapsed = time.perf_counter() - self._start
        left = f"  {elapsed / epoch * (record.num_epochs - epoch):.0f} s left" if epoch else ""
        notes = waiting(record) + tracking(record)
        self._console.print(summary(epoch, record) + speed + notes + left, highlight=False, soft_wrap=True)


class Bar(Reporter):
    """A progress bar with loss, accuracy, steps per second and time left."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._steps, self._read, self._loss, self._test = 0, 0.0, "", ""

    def start(self, plan: Plan) -> None:
        self._steps = plan.steps_per_epoch
        name = f"{plan.problem.name} {plan.config.optimizer.rpartition('.')[2]}"
        self._task = self._progress.add_task(name, total=plan.epochs * plan.steps_per_epoch, shown="")
        self._progress.start()

    def measuring(self) -> None:
        self._progress.console.print(MEASURING, highlight=False)

    def chosen(self, choice: Choice) -> None:
        self._progress.console.print(description(choice), highlight=False)

    def step(self, epoch: int, step: int, losses: Tensor) -> None:
        if time.perf_counter() - self._read < _REFRESH:
            return
        self._loss = f"loss {float(losses[-1]):.4f}"
        self._show(epoch * self._steps + step + len(losses))
        self._read = time.perf_counter()

    def evaluated(self, epoch: int, record: RunRecord) -> None:
        accuracy = f"  accuracy {record.test_accuracies[-1]:.2%}" if record.test_accuracies else ""
        self._test = f"test {record.test_losses[-1]:.4f}{accuracy}{waiting(record)}{tracking(record)}"
        self._show(epoch * self._steps)

    def _show(self, done: int) -> None:
        task = self._progress.tasks[0]
        speed = f"{task.finished_speed or task.speed or 0.0:.0f} steps/s"
        text = "  ".join(part for part in (self._loss, self._test, speed) if part)
        self._progress.update(self._task, completed=done, shown=text)

    def close(self) -> None:
        self._progress.stop()


def make_reporter(console: Console, *, quiet: bool) -> Reporter:
    """The reporter that fits the console."""
    if quiet:
        return Reporter()
    return Bar(console) if console.is_terminal else Lines(console)
