"""What a run has found so far, as plain data: numbers and lists, which a checkpoint holds and a record is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["running", "finished", "diverged", "stopped"]
SPLITS = ("train", "valid", "test")


def _copied(value: Any) -> Any:
    """Lists and dictionaries of plain data, ten times as fast as `copy.deepcopy`, which looks at every number."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value] if value and isinstance(value[0], list | dict) else value.copy()
    return value


@dataclass
class Partial:
    """The epoch under way.

    Attributes:
        losses, penalties: of each of its steps so far, `(steps,)`.
        reports: what the optimizer reported at each logged step.
        seconds: of training so far.
        data_wait: seconds in which the device had nothing to do because a batch was not there.
        track: seconds of tracking.
    """

    losses: list[float] = field(default_factory=list)
    penalties: list[float] = field(default_factory=list)
    reports: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    data_wait: float = 0.0
    track: float = 0.0


@dataclass
class Log:
    """The results of a run so far.

    Attributes:
        status: `"running"` until the run has ended.
        losses, accuracies: by split, one entry for each evaluation; losses with the penalty, accuracies in `[0, 1]`.
        penalties: one for each evaluation.
        class_zero: by split, the accuracy of predicting class 0, which a diverged net does.
        minibatch_losses, minibatch_penalties: every `train_log_interval` steps of each epoch; losses with the penalty.
        reports: what the optimizer reported of its state, beside each mini-batch loss.
        tracked: the tracked quantities by name, each a list, and `"steps"`, which they are of.
        metrics: what callbacks returned: by name, a list of `[epoch, step, value]`.
        calls: by kind, how often the oracle was called, cumulative, after each epoch.
        divergence: where the objective first was not finite: the epoch, counted from 1 (0 is the evaluation before
            training), and the step in it, from 0, or None where the evaluation after that epoch found it.
        stop: why a callback ended the run; "" where none did.
        limit: the budget that was spent then, if that is why.
        timings: seconds; `warm_up`, once; `train`, `data_wait`, `track` of each epoch; `evaluate` of each evaluation.
        partial: the epoch under way.
    """

    status: Status = "running"
    losses: dict[str, list[float]] = field(default_factory=dict)
    accuracies: dict[str, list[float]] = field(default_factory=dict)
    penalties: list[float] = field(default_factory=list)
    class_zero: dict[str, float] = field(default_factory=dict)
    minibatch_losses: list[float] = field(default_factory=list)
    minibatch_penalties: list[float] = field(default_factory=list)
    reports: dict[str, list[float]] = field(default_factory=dict)
    tracked: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, list[list[float]]] = field(default_factory=dict)
    calls: dict[str, list[int]] = field(default_factory=dict)
    divergence: dict[str, int | None] | None = None
    stop: str = ""
    limit: dict[str, float] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=lambda: {"warm_up": 0.0, "train": [], "evaluate": []})
    partial: Partial = field(default_factory=Partial)

    @property
    def evaluations(self) -> int:
        """How many evaluations were made."""
        return len(self.penalties)

    def copy(self) -> Log:
        """An independent copy."""
        partial = Partial(**{name: _copied(value) for name, value in vars(self.partial).items()})
        values = {name: _copied(value) for name, value in vars(self).items() if name != "partial"}
        return Log(**values, partial=partial)

    def as_plain_data(self) -> dict[str, Any]:
        """What JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_plain_data(cls, values: Mapping[str, Any]) -> Log:
        """The inverse of `as_plain_data`."""
        return cls(**{**values, "partial": Partial(**values["partial"])})

    def evaluated(self, split: str, loss: float, accuracy: float | None, class_zero: float | None) -> None:
        """Adds the result of a split."""
        self.losses.setdefault(split, []).append(loss)
        if accuracy is not None and class_zero is not None:
            self.accuracies.setdefault(split, []).append(accuracy)
            self.class_zero[split] = class_zero

    def diverge(self, epoch: int, step: int | None) -> None:
        """Notes where the objective first was not finite; see `divergence`."""
        if self.divergence is None:
            self.divergence = {"epoch": epoch, "step": step}

    def end_epoch(self, interval: int, epoch: int, *, stop: bool) -> None:
        """Adds the current epoch to the results: every `interval`-th loss, up to a divergence if that ends the run.

        Args:
            interval: steps between two losses that are kept.
            epoch: its number, from 1.
            stop: whether a divergence ends the run.
        """
        done, self.partial = self.partial, Partial()
        bad = next((step for step, loss in enumerate(done.losses) if not math.isfinite(loss)), None)
        kept = len(done.losses)
        if bad is not None:
            self.diverge(epoch, bad)
            kept = bad + 1 if stop else kept
        self.minibatch_losses += done.losses[:kept:interval]
        self.minibatch_penalties += done.penalties[:kept:interval]
        for report in done.reports:
            for name, value in report.items():
                self.reports.setdefault(name, []).append(value)
        for column in self.reports.values():
            del column[len(self.minibatch_losses) :]
        self.timings["train"].append(done.seconds)
        for name, seconds in (("data_wait", done.data_wait), ("track", done.track)):
            if name in self.timings:
                self.timings[name].append(seconds)

    def finish(self, epochs: int, logged_steps: int) -> None:
        """Ends the log. Entries that a diverged run did not reach are NaN, its accuracies those of class 0."""
        self.status = "finished" if self.divergence is None else "diverged"
        missing, nan = epochs + 1 - self.evaluations, math.nan
        for column in (*self.losses.values(), self.penalties):
            column += [nan] * missing
        for split, column in self.accuracies.items():
            column += [self.class_zero[split]] * missing
        for column in (self.minibatch_losses, self.minibatch_penalties, *self.reports.values()):
            column += [nan] * (logged_steps - len(column))
