"""Runs of the package that go on by an epoch whenever they are told to, so that they can take turns with others."""

from __future__ import annotations

from typing import Any

from greenlet import greenlet

from benchmarks.shares import learning_rate
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, RunInterrupted, run
from deepobs_func.runner.progress import Reporter


class Paused(Reporter):
    """A run that stops after each evaluation until it is told to go on.

    It has a stack of its own (greenlet) in the thread of whoever calls: a thread of its own would have a second pool of
    workers under OpenMP, which slows short operations down, its own and those of the others.

    Args:
        problem: what is run, on as many epochs as `deepobs run` has by default.
        data: the folder, or `"synthetic"`.
        compile: as for `RunConfig`.
        share: of its data that the problem was cut to; the epochs are as many more, so that the runner decides as it
            does for the whole.
    """

    def __init__(self, problem: Problem, data: str, compile: str, share: float = 1.0) -> None:
        self._epochs = round(problem.epochs / share)
        self._config = RunConfig(
            problem.name,
            "sgd",
            learning_rate(problem),
            epochs=self._epochs,
            data=data,
            output_dir=None,
            compile=compile,
            on_divergence="continue",
        )
        self._problem = problem
        self._begin()

    def _begin(self) -> None:
        """Up to the first evaluation."""
        self._stopping = False
        self._caller, self._run = greenlet.getcurrent(), greenlet(self._whole_run)
        self._record: RunRecord = self._run.switch()

    def _whole_run(self) -> None:
        """What happens on the run's own stack."""
        try:
            run(self._config, self._problem, self)
        except RunInterrupted:
            return

    @property
    def resolved(self) -> dict[str, Any]:
        """What the runner chose."""
        return self._record.extra["resolved"]

    def epoch(self) -> float:
        """Goes on until the next evaluation is done: the seconds of training and evaluation by the runner's clock.

        A run that has no epoch left is begun again.
        """
        if len(self._record.extra["timings"]["train"]) == self._epochs:
            self.stop()
            self._begin()
        self._run.switch()
        timings = self._record.extra["timings"]
        return timings["train"][-1] + timings["evaluate"][-1]

    def stop(self) -> None:
        """Ends the run."""
        self._stopping = True
        self._run.switch()

    def evaluated(self, epoch: int, record: RunRecord) -> None:
        """Called by the loop: hands the record over, and waits for the next turn."""
        self._caller.switch(record)
        if self._stopping:
            raise KeyboardInterrupt
