"""The evaluation of a run: the training sample and the test set, in the test phase, in large chunks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.datasets.loading import Dataset, Split
from deepobs_func.runner.order import evaluation_chunk, test_rows, train_eval_rows
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.step import Carry, make_evaluate


class Result(NamedTuple):
    """The mean loss over a split, without the penalty, and the accuracy, or None where there is none."""

    loss: float
    accuracy: float | None


class Evaluator:
    """Evaluates a run's parameters on the same examples each time: whole batches of the run's batch size."""

    def __init__(self, plan: Plan, dataset: Dataset, key: random.Key) -> None:
        self._problem, self._batch_size = plan.problem, plan.batch_size
        self._key = random.fold_in(key, random.EVALUATION)
        self._evaluate = make_evaluate(plan.problem, compile=plan.compile)
        self._splits = (
            (dataset.train, train_eval_rows(plan.protocol, dataset.spec, key, plan.batch_size)),
            (dataset.test, test_rows(dataset.spec, plan.batch_size, plan.device)),
        )

    def __call__(self, epoch: int, carry: Carry) -> tuple[Result, Result]:
        """The results on the training sample and on the test set. Noise is drawn anew for each epoch, from keys."""
        key = random.fold_in(self._key, epoch) if self._problem.noises else self._key
        train, test = (
            self._on_split(split, rows, random.fold_in(key, index) if self._problem.noises else key, carry)
            for index, (split, rows) in enumerate(self._splits)
        )
        return train, test

    def class_zero_accuracies(self) -> tuple[float, float]:
        """The accuracies of predicting class 0, which a diverged net does, on both splits."""
        train, test = (float((split.y[rows] == 0).double().mean()) for split, rows in self._splits)
        return train, test

    def _on_split(self, split: Split, rows: Tensor, key: random.Key, carry: Carry) -> Result:
        noise = self._problem.draw_noise(key, len(rows), train=False)
        chunk = evaluation_chunk(len(rows), self._batch_size)
        losses, correct = [], []
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            part_noise = {name: draw[part] for name, draw in noise.items()}
            result = self._evaluate(carry.params, carry.state, split, rows[part], part_noise)
            losses.append(result.losses)
            if result.correct is not None:
                correct.append(result.correct)
        accuracy = float(torch.cat(correct).double().mean()) if correct else None
        return Result(float(torch.cat(losses).double().mean()), accuracy)
