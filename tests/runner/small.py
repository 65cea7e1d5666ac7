"""A small problem with everything that a run can have: classes, an accuracy, a penalty."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from deepobs_func import datasets, problems
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, run
from deepobs_func.runner.callbacks import Callback


def _made() -> Problem:
    r = np.random.RandomState(0)
    means = r.normal(size=(3, 5)).astype(np.float32)

    def split(size: int) -> tuple[np.ndarray, np.ndarray]:
        y = r.randint(0, 3, size)
        return means[y] + r.normal(size=(size, 5)).astype(np.float32), y

    torch.manual_seed(0)
    return problems.from_module(
        nn.Linear(5, 3),
        partial(F.cross_entropy, reduction="none"),
        datasets.from_arrays("small", split(100), split(70)),
        correct=lambda logits, y: logits.argmax(1) == y,
        weight_decay=0.01,
        epochs=3,
        batch_size=32,
        name="small",
    )


# A frozen value, and the checks of `from_module` take longer than a run. It is made here, where no test has patched
# anything.
_SMALL = _made()


def small_problem() -> Problem:
    """Softmax regression of 3 classes on 5 inputs; 96 training and 64 test examples; L2 factor 0.01."""
    return _SMALL


def config(**changes: object) -> RunConfig:
    """A run of the small problem that writes nothing."""
    values: dict[str, object] = {"problem": "small", "optimizer": "sgd", "lr": 0.1, "output_dir": None}
    return RunConfig(**(values | changes))  # type: ignore[arg-type]


def recorded(config: RunConfig, problem: Problem | None = None, *callbacks: Callback) -> RunRecord:
    """The record of a run."""
    return run(config, problem, callbacks=callbacks).record
