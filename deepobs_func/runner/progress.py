"""What a run shows while it goes: a progress bar on a terminal, a line per epoch elsewhere. Both are callbacks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from deepobs_func.runner.events import Evaluated, Event, Logged

if TYPE_CHECKING:
    from torch import Tensor

    from deepobs_func.runner.checkpoint import Checkpoint
    from deepobs_func.runner.execution import Execution
    from deepobs_func.runner.log import Log
    from deepobs_func.runner.plan import Plan

MEASURING = "measuring how the steps run fastest here; it is kept for later runs"
_REFRESH = 0.2  # seconds between two readings of the loss, each of which waits for the device
_WAITING = 0.1  # the share of an epoch from which on waiting for data is worth a word


def summary(epoch: int, epochs: int, log: Log) -> str:
    """One line on the last evaluation."""
    text = f"epoch {epoch}/{epochs}  train {log.losses['train'][-1]:.4f}"
    if "valid" in log.losses:
        text += f"  valid {log.losses['valid'][-1]:.4f}"
    text += f"  test {log.losses['test'][-1]:.4f}"
    if "test" in log.accuracies:
        text += f"  test accuracy {log.accuracies['test'][-1]:.2%}"
    return text


def waiting(log: Log) -> str:
    """Says that the data of the last epoch did not come as fast as they were used; else it is empty."""
    if not log.timings.get("data_wait"):
        return ""
    share = log.timings["data_wait"][-1] / log.timings["train"][-1]
    return f"  {share:.0%} of the epoch spent waiting for data (--workers)" if share > _WAITING else ""


def tracking(log: Log) -> str:
    """Says what tracking cost in the last epoch; else it is empty."""
    return f"  tracking {log.timings['track'][-1]:.1f} s" if log.timings.get("track") else ""


def description(execution: Execution) -> str:
    """One line on how a run is executed."""
    together = f", {execution.steps_per_call} steps a call" if execution.steps_per_call > 1 else ""
    return f"{execution.reason}{together}{', channels last' if execution.channels_last else ''}"


def going_on(kept: Checkpoint | None) -> str:
    """One line on what a run goes on from."""
    if kept is None:
        return "no checkpoint of this run: it starts"
    step = f", step {kept.head['step']}" if kept.head["step"] else ""
    return f"going on after epoch {kept.head['epoch']}{step}, from {kept.path}"


class Shown:
    """What shows a run and never ends it: where nobody can read any more, it falls silent.

    A reader that closes its pipe, a terminal that is gone or a full disk behind standard output are no reason to lose a
    run. (rich ends the process at a broken pipe, by `SystemExit`.)

    Args:
        console: where it prints.
    """

    def __init__(self, console: Console) -> None:
        self._console, self._silent = console, False

    def _safely(self, show: Callable[..., None], *arguments: Any) -> None:
        if self._silent:
            return
        try:
            show(*arguments)
        except (OSError, SystemExit):
            self._silence()
        except ValueError:
            if not self._console.file.closed:
                raise
            self._silence()

    def _silence(self) -> None:
        self._silent = True
        if self._console.file is sys.stdout:
            silence_stdout()

    def __call__(self, event: Event) -> None:
        """Shows an event."""
        if isinstance(event, Evaluated):
            self._safely(self._evaluated, event)
        elif isinstance(event, Logged):
            self._safely(self._logged, event)

    def start(self, plan: Plan) -> None:
        """Before anything is loaded."""
        self._safely(self._start, plan)

    def resuming(self, kept: Checkpoint | None) -> None:
        """When a run that may have been begun earlier goes on, or starts since there is no checkpoint."""
        self._safely(self._say, going_on(kept))

    def measuring(self) -> None:
        """Before steps are timed to decide how the run is executed; not where that is known."""
        self._safely(self._say, MEASURING)

    def chosen(self, execution: Execution) -> None:
        """When it is decided how the run is executed."""
        self._safely(self._say, description(execution))

    def close(self) -> None:
        """At the end, however it came."""

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def _start(self, plan: Plan) -> None:
        """What is to be known of the run."""

    def _evaluated(self, event: Evaluated) -> None:
        raise NotImplementedError  # abstract

    def _logged(self, event: Logged) -> None:
        """Nothing, where there is no bar."""


_SILENCED = False  # whether what is written to standard output goes nowhere


def say(text: str, *, err: bool = False) -> None:
    """Prints a line, if anybody reads it: on standard error where standard output goes nowhere."""
    try:
        print(text, file=sys.stderr if err or _SILENCED else sys.stdout, flush=True)
    except (OSError, ValueError):  # a ValueError is that of a closed file
        if not (err or _SILENCED):
            silence_stdout()
            say(text, err=True)


def silence_stdout() -> None:
    """Drops what is written to standard output, which nobody reads, so that nothing fails of it, at the exit either."""
    global _SILENCED
    _SILENCED = True
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # it is no file of the system's, or closed
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # for as long as the process lives


class Lines(Shown):
    """A plain line after each evaluation."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._began, self._from = 0.0, 0

    def _evaluated(self, event: Evaluated) -> None:
        log, epochs, steps = event.log, event.plan.epochs, event.plan.steps_per_epoch
        speed = f"  {steps / log.timings['train'][-1]:.0f} steps/s" if log.timings["train"] else ""
        if not self._began:
            self._began, self._from = time.perf_counter(), event.epoch  # setting up is over
        done = event.epoch - self._from
        elapsed = time.perf_counter() - self._began
        left = f"  {elapsed / done * (epochs - event.epoch):.0f} s left" if done else ""
        self._say(summary(event.epoch, epochs, log) + speed + waiting(log) + tracking(log) + left)


class Bar(Shown):
    """A progress bar with loss, accuracy, steps per second and time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self._read, self._loss, self._test = 0.0, "", ""

    def _start(self, plan: Plan) -> None:
        name = f"{plan.problem.name} {plan.config.optimizer.rpartition('.')[2]}"
        self._task = self._progress.add_task(name, total=plan.epochs * plan.steps_per_epoch, shown="")
        self._progress.start()

    def _logged(self, event: Logged) -> None:
        if time.perf_counter() - self._read < _REFRESH:
            return
        self._loss = f"loss {_last(event.losses):.4f}"
        self._show(event.epoch * event.plan.steps_per_epoch + event.step)
        self._read = time.perf_counter()

    def _evaluated(self, event: Evaluated) -> None:
        log = event.log
        accuracy = f"  accuracy {log.accuracies['test'][-1]:.2%}" if "test" in log.accuracies else ""
        self._test = f"test {log.losses['test'][-1]:.4f}{accuracy}{waiting(log)}{tracking(log)}"
        self._show(event.epoch * event.plan.steps_per_epoch)

    def _show(self, done: int) -> None:
        task = self._progress.tasks[0]
        speed = f"{task.finished_speed or task.speed or 0.0:.0f} steps/s"
        text = "  ".join(part for part in (self._loss, self._test, speed) if part)
        self._progress.update(self._task, completed=done, shown=text)

    def close(self) -> None:
        """Stops the bar."""
        self._safely(self._progress.stop)


def _last(losses: Tensor) -> float:
    return float(losses[-1])


def make_progress(console: Console, *, quiet: bool) -> list[Shown]:
    """The callbacks that fit the console: none where it is to be quiet."""
    if quiet:
        return []
    return [Bar(console) if console.is_terminal else Lines(console)]
