"""By what a trial is judged, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deepobs_func.records import RunRecord, costs
from deepobs_func.study.budgets import Quantity, TuneOn

Log = Mapping[str, Sequence[float] | None]


@dataclass(frozen=True)
class Metric:
    """What of a record is searched the best of.

    A loss is searched the least of and an accuracy the most. Inside, everything is a loss, an accuracy its negative.
    What is not finite is the worst there is; so is an epoch whose loss is not finite, whatever its accuracy.

    Attributes:
        split: that is looked at.
        quantity: the value after the last epoch, or the best after any.
        accuracy: whether it is an accuracy.
    """

    split: TuneOn
    quantity: Quantity
    accuracy: bool

    @property
    def name(self) -> str:
        """As `"final valid accuracy"`."""
        return f"{self.quantity} {self.split} {'accuracy' if self.accuracy else 'loss'}"

    def losses(self, log: Log) -> list[float]:
        """After each epoch, from 1, what is searched the least of.

        Args:
            log: with `"valid_loss"`, `"valid_accuracy"` and the like, the first entry of each before training.
        """
        losses = list(log.get(f"{self.split}_loss") or ())
        values = [-value for value in log.get(f"{self.split}_accuracy") or ()] if self.accuracy else losses
        pairs = zip(losses, values, strict=False)
        return [value if math.isfinite(loss) and math.isfinite(value) else math.inf for loss, value in pairs][1:]

    def loss(self, record: RunRecord | None) -> float:
        """Of a run; infinite where there is no record, or nothing in it."""
        found = self.losses(log_of(record)) if record is not None else []
        if not found:
            return math.inf
        return found[-1] if self.quantity == "final" else min(found)

    def shown(self, loss: float) -> float | None:
        """The value of a loss as it is told; None where it is not finite."""
        if not math.isfinite(loss):
            return None
        return -loss if self.accuracy else loss


def log_of(record: RunRecord) -> dict[str, Sequence[float] | None]:
    """What a record says of its evaluations, by the names that `Metric.losses` takes."""
    return {
        "valid_loss": record.valid_losses,
        "valid_accuracy": record.valid_accuracies,
        "test_loss": record.test_losses,
        "test_accuracy": record.test_accuracies,
    }


def cost(record: RunRecord | None, unit: str) -> float | None:
    """What a trial took of its budget; None where it is not known.

    Args:
        record: of the run, also of one that failed.
        unit: one of `budgets.UNITS`. A trial is one trial. Gradients are the calls of the oracle, by
            `records.GRADIENTS`; seconds are those of training, without compilation and evaluation.
    """
    return _COSTS[unit](record)


def _trials(record: RunRecord | None) -> float | None:
    return 1.0


def _gradients(record: RunRecord | None) -> float | None:
    calls = {} if record is None else record.extra.get("calls", {})
    found = costs(calls)
    return found[-1] if found else None


def _seconds(record: RunRecord | None) -> float | None:
    timings = {} if record is None else record.extra.get("timings", {})
    return float(sum(timings["train"])) if "train" in timings else None


_COSTS = {"trials": _trials, "gradients": _gradients, "seconds": _seconds}
