"""Callbacks: functions of a run's events, which may record a number or end the run.

def top5(event):
    if isinstance(event, Evaluated):
        return {"top5": event.mean(lambda logits, batch: (logits.topk(5).indices == batch.y[:, None]).any(1))}

run(config, callbacks=[top5, stop_at("test_accuracy", 0.9)])
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.probes.catalog import LAYER
from deepobs_func.runner.events import Evaluated, Event, Finished, Logged, Stepped
from deepobs_func.runner.log import SPLITS, Log
from deepobs_func.runner.plan import Plan

__all__ = [
    "Callback",
    "Evaluated",
    "Event",
    "Finished",
    "JsonLines",
    "Logged",
    "Stepped",
    "Stop",
    "StopAt",
    "TensorBoard",
    "max_seconds",
    "stop_at",
]


@dataclass(frozen=True)
class Stop:
    """A callback's answer that ends the run, with status `"stopped"`.

    Attributes:
        reason: goes into the record.
        limit: the budget that is spent, such as `{"max_seconds": 60}`, if that is why: with a larger one a study goes
            on with the run.
    """

    reason: str
    limit: Mapping[str, float] = field(default_factory=dict)


Answer = Stop | Mapping[str, float] | None
"""What a callback returns: nothing, numbers to record under their names, or that the run is to end."""

Callback = Callable[[Event], Answer]
"""`event -> answer`. An object may have more methods: `start(plan)`, called before anything is loaded, where a
`ConfigError` says what cannot be; `watches(step) -> bool`, which steps it wants to see one by one as `Stepped` events;
`written(record)`, called when the record was written;
and `close()`, called when the run ends, however it does."""


def watching(callbacks: Sequence[Callback]) -> Callable[[int], bool] | None:
    """Which steps any of the callbacks wants to see; None where none wants any."""
    watches = [callback.watches for callback in callbacks if hasattr(callback, "watches")]
    return (lambda step: any(wants(step) for wants in watches)) if watches else None


def answered(event: Event, callbacks: Sequence[Callback]) -> Stop | None:
    """Shows an event to callbacks, records the numbers that they return, and says whether one ends the run.

    Raises:
        ConfigError: a callback returned something else.
    """
    stop = None
    for callback in callbacks:
        answer = callback(event)
        if isinstance(answer, Stop):
            stop = stop or answer
        elif answer is not None:
            for name, value in _numbers(answer).items():
                event.log.metrics.setdefault(name, []).append([event.epoch, event.step, value])
    return stop


def _numbers(answer: Any) -> dict[str, float]:
    """Numbers by name, as floats."""
    try:
        if isinstance(answer, Mapping) and not any(isinstance(value, str) for value in answer.values()):
            found = {name: float(value) for name, value in answer.items()}
            if all(isinstance(name, str) for name in found):
                return found
    except (TypeError, ValueError, RuntimeError):  # a tensor of several elements raises the last
        pass
    raise ConfigError(
        f"A callback returned {answer!r}. It may return None, a mapping of names to numbers, or Stop(reason)."
    )


_COMPARE = {"loss": operator.le, "accuracy": operator.ge}


class StopAt:
    """Ends a run at the first evaluation at which a quantity has come to its target.

    Args:
        quantity: `"test_accuracy"`, `"train_loss"`, `"valid_loss"` and the like. An accuracy has reached its
            target if it is at least that, a loss if it is at most that.
        target: the value.

    Returns:
        The callback.

    Raises:
        ConfigError: (from here) there is no such quantity, or the target is no number; (when the run starts) the run
            does not have it.

    >>> from deepobs_func import RunConfig, run
    >>> config = RunConfig("quadratic_deep", "adam", lr=0.04, epochs=9, output_dir=None)
    >>> run(config, callbacks=[stop_at("test_loss", 200.0)]).record.status
    'stopped'
    """

    def __init__(self, quantity: str, target: float) -> None:
        self._split, _, self._kind = quantity.partition("_")
        known = [f"{split}_{kind}" for split in SPLITS for kind in _COMPARE]
        if quantity not in known:
            raise ConfigError(unknown("quantity to stop at:", quantity, known))
        if math.isnan(target):
            raise ConfigError(f"{option('stop_at')} {quantity}={target}: the target must be a number.")
        self._quantity, self._target = quantity, target

    def start(self, plan: Plan) -> None:
        """Whether the run has the quantity, before anything is loaded.

        Raises:
            ConfigError: it has not.
        """
        if self._kind == "accuracy" and not plan.problem.has_accuracy:
            raise ConfigError(
                f"{option('stop_at')} {self._quantity}: {plan.problem.name} has no accuracy. Stop at "
                f"{self._split}_loss."
            )
        if self._split == "valid" and not plan.config.valid:
            raise ConfigError(
                f"{option('stop_at')} {self._quantity}: no examples are set aside to validate on. Set some aside with "
                f"{option('valid')}, or stop at test_{self._kind}."
            )

    def __call__(self, event: Event) -> Stop | None:
        """Ends the run where the target is reached."""
        if not isinstance(event, Evaluated):
            return None
        columns = event.log.accuracies if self._kind == "accuracy" else event.log.losses
        value = columns[self._split][-1]
        if not _COMPARE[self._kind](value, self._target):
            return None
        return Stop(f"{self._quantity} {value:g} reached {self._target:g}")


stop_at = StopAt


def max_seconds(seconds: float) -> Callback:
    """Ends a run when it has trained for so many seconds, on the training clock: no evaluation, no tracking.

    Args:
        seconds: positive.

    Returns:
        The callback.

    Raises:
        ConfigError: the number is not positive.

    >>> from deepobs_func import RunConfig, run
    >>> config = RunConfig("quadratic_deep", "adam", lr=0.04, epochs=2, output_dir=None)
    >>> run(config, callbacks=[max_seconds(600)]).record.status
    'finished'
    """
    if not seconds > 0:
        raise ConfigError(f"{option('max_seconds')} {seconds!r}: it must be a positive number of seconds.")

    def callback(event: Event) -> Stop | None:
        trained = sum(event.log.timings["train"]) + event.log.partial.seconds
        if trained < seconds:
            return None
        return Stop(f"{trained:.3g} of {seconds:g} s of training are used", {"max_seconds": seconds})

    return callback


class JsonLines:
    """Writes a line of JSON for each evaluation and the end, for other programs to follow.

    Args:
        path: the file; a run adds its lines at the end.

    Raises:
        ConfigError: the file cannot be written.

    >>> from deepobs_func import RunConfig, run
    >>> config = RunConfig("two_d_beale", "adam", lr=0.01, epochs=1, output_dir=None)
    >>> finished = run(config, callbacks=[JsonLines("log.jsonl")])
    >>> [json.loads(line)["event"] for line in Path("log.jsonl").read_text().splitlines()]
    ['evaluated', 'evaluated', 'finished']
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self._stream = Path(path).expanduser().open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written ({error}). Name another file.") from error

    def __call__(self, event: Event) -> None:
        """Writes the event's line."""
        if not isinstance(event, Evaluated | Finished):
            return
        kind = "evaluated" if isinstance(event, Evaluated) else event.log.status
        line = json.dumps({"event": kind, "time": time.time(), "epoch": event.epoch, **last(event.log)})
        with contextlib.suppress(OSError):  # a full disk ends no run: the record has all of it
            self._stream.write(f"{line}\n")

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):
            self._stream.close()


def last(log: Log) -> dict[str, Any]:
    """The results of the last evaluation: `{"train_loss": ..., "test_accuracy": ...}`."""
    found = {f"{split}_loss": column[-1] for split, column in log.losses.items()}
    return found | {f"{split}_accuracy": column[-1] for split, column in log.accuracies.items()}


class TensorBoard:
    """Writes losses, accuracies, tracked quantities and metrics for TensorBoard.

    Args:
        folder: the log folder.

    Raises:
        ConfigError: TensorBoard is not installed (extra `tensorboard`), or the folder cannot be written.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("TensorBoard is not installed: pip install 'deepobs-func[tensorboard]'") from error
        try:
            self._writer = SummaryWriter(str(Path(folder).expanduser()))
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written ({error}). Name another folder.") from error
        self._shown: dict[str, int] = {}  # how much of each column that grows

    def __call__(self, event: Event) -> None:
        """Adds what the event brings."""
        steps_per_epoch = event.plan.steps_per_epoch
        done = event.epoch * steps_per_epoch + event.step
        if isinstance(event, Logged):
            self._writer.add_scalar("minibatch/loss", float(event.losses[-1]), done)
        if isinstance(event, Evaluated):
            for name, value in last(event.log).items():
                self._writer.add_scalar(name.replace("_", "/", 1), value, done)
        if not isinstance(event, Evaluated | Finished):
            return
        tracked = event.log.tracked
        for name, column in tracked.get("quantities", {}).items():
            self._add(f"tracked/{name}", zip(tracked["steps"], column, strict=True))
            for index, layer in enumerate(tracked.get("layers", ()) if name.endswith(LAYER) else ()):
                values = ((step, each[index]) for step, each in zip(tracked["steps"], column, strict=True))
                self._add(f"tracked/{name.removesuffix(LAYER)}/{layer}", values)
        for name, entries in event.log.metrics.items():
            self._add(f"metrics/{name}", ((epoch * steps_per_epoch + step, value) for epoch, step, value in entries))

    def _add(self, name: str, column: Iterable[tuple[float, Any]]) -> None:
        """What a column has that was not shown yet."""
        entries = list(column)
        for step, value in entries[self._shown.get(name, 0) :]:
            if isinstance(value, float):  # a histogram is none
                self._writer.add_scalar(name, value, int(step))
        self._shown[name] = len(entries)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()
