"""What happens in a run, as its iterator tells it and as callbacks see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deepobs_func.base import Batch, Params

if TYPE_CHECKING:
    from deepobs_func.records import RunRecord
    from deepobs_func.runner.log import Log
    from deepobs_func.runner.plan import Plan
    from deepobs_func.runner.training import Training, TrainState


@dataclass(frozen=True, eq=False)
class Event:
    """Something that happened in a run.

    Attributes:
        training: the run.
        epoch: how many epochs are complete.
        step: how many steps of the next one were made.
        log: what was found so far; it is the run's own and grows: read it, do not keep it.
    """

    training: Training
    epoch: int
    step: int
    log: Log
    snapshot: Callable[[], TrainState]

    @property
    def plan(self) -> Plan:
        """What is run."""
        return self.training.plan

    @property
    def state(self) -> TrainState:
        """The state of the run at this event, a value of its own; to be asked for before the iterator goes on."""
        return self.snapshot()

    @property
    def params(self) -> Params:
        """The parameters that are evaluated, `optimizer.eval_params`."""
        return self.training.eval_params(self.state)

    @property
    def record(self) -> RunRecord:
        """The record of the run so far."""
        return self.training.record(self.state)

    def mean(self, measure: Callable[[Any, Batch], Tensor], split: str = "test") -> float:
        """The mean over a split of `measure(outputs, batch) -> (B,)`, in the test phase; such as a top-5 accuracy."""
        return self.training.mean(self.state, measure, split)


@dataclass(frozen=True, eq=False)
class Evaluated(Event):
    """The splits were evaluated: before training, and after each epoch. The results are the last entries of `log`."""


@dataclass(frozen=True, eq=False)
class Logged(Event):
    """A call of steps was made that has a logged one among them.

    Attributes:
        losses: the mean losses of the call's steps, without the penalty, `(k,)`, on the device: reading them waits.
    """

    losses: Tensor


@dataclass(frozen=True, eq=False)
class Stepped(Event):
    """A step that is watched was made.

    Attributes:
        index: its number, counted from 0 over the whole run.
        before, after: the carries around it.
        make_batch: makes the batch of the step.
        add_seconds: adds to the seconds of tracking of this epoch.
    """

    index: int
    before: Any
    after: Any
    make_batch: Callable[[], Batch]


@dataclass(frozen=True, eq=False)
class Finished(Event):
    """The run has ended: finished, or diverged where divergence ends it."""
