"""Runs of the package that go on by an epoch whenever they are told to, so that they can take turns with others."""

from __future__ import annotations

import threading
from typing import Any

import torch

from benchmarks.shares import learning_rate
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, RunInterrupted, run
from deepobs_func.runner.progress import Reporter


class Paused(Reporter):
    """A run in a thread of its own that waits after each evaluation; one such thread runs at a time.

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
        self._problem, self._num_threads = problem, torch.get_num_threads()
        self._begin()

    def _begin(self) -> None:
        """Up to the first evaluation."""
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._record: RunRecord | None = None
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    @property
    def resolved(self) -> dict[str, Any]:
        """What the runner chose."""
        return self._extra["resolved"]

    def epoch(self) -> float:
        """Goes on until the next evaluation is done: the seconds of training and evaluation by the runner's clock.

        A run that has no epoch left is begun again.
        """
        if len(self._extra["timings"]["train"]) == self._epochs:
            self.stop()
            self._begin()
        self._go.release()
        self._wait()
        timings = self._extra["timings"]
        return timings["train"][-1] + timings["evaluate"][-1]

    def stop(self) -> None:
        """Ends the run."""
        self._stopping = True
        self._go.release()
        self._thread.join()

    def evaluated(self, epoch: int, record: RunRecord) -> None:
        """Called by the loop: hands over, and waits for the next turn."""
        self._record = record
        self._done.release()
        self._go.acquire()
        if self._stopping:
            raise KeyboardInterrupt

    @property
    def _extra(self) -> dict[str, Any]:
        assert self._record is not None, "the first evaluation is done"
        return self._record.extra

    def _wait(self) -> None:
        self._done.acquire()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        torch.set_num_threads(self._num_threads)  # a thread has its own number
        try:
            run(self._config, self._problem, self)
        except RunInterrupted:
            pass
        except BaseException as error:  # handed to the thread that waits
            self._error = error
        self._done.release()
