"""Runs of the package that go on by an epoch whenever they are told to, so that they can take turns with others."""

from __future__ import annotations

from typing import Any

from benchmarks.shares import learning_rate
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig
from deepobs_func.runner.events import Evaluated
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.training import Training


class Paused:
    """A run that stops after each evaluation until it is told to go on.

    Args:
        problem: what is run, on as many epochs as `deepobs run` has by default.
        data: the folder, or `"synthetic"`.
        compile: as for `RunConfig`.
        share: of its data that the problem was cut to; the epochs are as many more, so that the runner decides as it
            does for the whole.
    """

    def __init__(self, problem: Problem, data: str, compile: str, share: float = 1.0) -> None:
        config = RunConfig(
            problem.name,
            "sgd",
            learning_rate(problem),
            epochs=round(problem.epochs / share),
            data=data,
            output_dir=None,
            compile=compile,
            on_divergence="continue",
        )
        self._training = Training(make_plan(config, problem))
        self._begin()

    def _begin(self) -> None:
        """Up to the first evaluation."""
        self._iteration = self._training(self._training.start())
        next(self._iteration)

    @property
    def execution(self) -> dict[str, Any]:
        """How the runner executes it."""
        return self._training.execution.as_plain_data()

    def epoch(self) -> float:
        """Goes on until the next evaluation is done: the seconds of training and evaluation by the runner's clock.

        A run that has no epoch left is begun again.
        """
        if self._iteration.epoch == self._training.plan.epochs:
            self.stop()
            self._begin()
        evaluated = next(event for event in self._iteration if isinstance(event, Evaluated))
        timings = evaluated.log.timings
        return timings["train"][-1] + timings["evaluate"][-1]

    def stop(self) -> None:
        """Ends the run."""
        self._iteration.close()
