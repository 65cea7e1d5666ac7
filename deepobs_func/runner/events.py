"""What happens in a run, as its iterator tells it and as callbacks see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from deepobs_func.base import Batch, Params

if TYPE_CHECKING:
    from deepobs_func.records import RunRecord
    from deepobs_func.runner.execution import Execution
    from deepobs_func.runner.log import Log
    from deepobs_func.runner.plan import Plan
    from deepobs_func.runner.step import Carry
    from deepobs_func.runner.training import Iteration, TrainState


@dataclass(frozen=True, eq=False)
class Event:
    """An event of a run.

    Its properties show the run as it is now: read them before the iterator goes on.

    Attributes:
        iteration: the run under way.
        epoch: how many epochs are complete.
        step: how many steps of the next one were made.
    """

    iteration: Iteration
    epoch: int
    step: int

    @property
    def plan(self) -> Plan:
        """The resolved configuration."""
        return self.iteration.plan

    @property
    def execution(self) -> Execution:
        """How it is executed."""
        return self.iteration.training.execution

    @property
    def log(self) -> Log:
        """The results so far. The log is the run's own and grows. Read it, do not keep it."""
        return self.iteration.log

    @property
    def state(self) -> TrainState:
        """The state of the run, a value of its own that can be kept."""
        return self.iteration.state()

    @property
    def params(self) -> Params:
        """The parameters that are evaluated, `optimizer.eval_params`."""
        return self.iteration.eval_params()

    @property
    def record(self) -> RunRecord:
        """The record of the run so far."""
        return self.iteration.record()

    def mean(self, measure: Callable[[Any, Batch], Tensor], split: str = "test") -> float:
        """The mean over a split of a function of the outputs, in the test phase; such as a top-5 accuracy.

        Args:
            measure: `(outputs, batch) -> (B,)`.
            split: `"train"`, `"valid"` or `"test"`.

        Returns:
            The mean over all examples that are evaluated.
        """
        return self.iteration.mean(measure, split)


@dataclass(frozen=True, eq=False)
class Evaluated(Event):
    """The splits were evaluated: before training, and after each epoch. The results are the last entries of `log`.

    Attributes:
        iteration, epoch, step: as in `Event`; `step` is 0.
    """


@dataclass(frozen=True, eq=False)
class Logged(Event):
    """A call of steps was made that has a logged one among them.

    Attributes:
        iteration, epoch, step: as in `Event`.
        losses: the mean losses of the call's steps, without the penalty, `(k,)`, on the device: reading them waits.
    """

    losses: Tensor


@dataclass(frozen=True, eq=False)
class Stepped(Event):
    """A step that is watched was made.

    Attributes:
        iteration, epoch, step: as in `Event`.
        index: its number, counted from 0 over the whole run.
        before, after: the carries around it.
        make_batch: makes the batch of the step, with the model state before it.
    """

    index: int
    before: Carry
    after: Carry
    make_batch: Callable[[], Batch]


@dataclass(frozen=True, eq=False)
class Finished(Event):
    """The run has ended: finished, or diverged where divergence ends it.

    Attributes:
        iteration, epoch, step: as in `Event`.
    """
