"""The evaluation of a run: the training sample and the test set, in the test phase, in large chunks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import ModelState
from deepobs_func.datasets.loading import Dataset, Split
from deepobs_func.runner.order import evaluation_chunk, test_rows, train_eval_rows
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.step import Carry, Evaluate, make_evaluate


class Result(NamedTuple):
    """The mean loss over a split, without the penalty, and the accuracy, or None where there is none."""

    loss: float
    accuracy: float | None


class Evaluator:
    """Evaluates a run's parameters on the same examples each time: whole batches of the run's batch size."""

    def __init__(self, plan: Plan, dataset: Dataset, key: random.Key) -> None:
        self._problem, self._batch_size = plan.problem, plan.batch_size
        self._key = random.fold_in(key, random.EVALUATION)
        self._draws = bool(plan.problem.noises) or (plan.protocol.train_eval_head and bool(dataset.spec.augment))
        train, test = (
            make_evaluate(plan.problem, compile=plan.compile, augment=augment)
            for augment in (plan.protocol.train_eval_head, False)
        )
        self._parts = (
            (train, dataset.train, train_eval_rows(plan.protocol, dataset.spec, key, plan.batch_size)),
            (test, dataset.test, test_rows(dataset.spec, plan.batch_size, plan.device)),
        )

    def __call__(self, epoch: int, carry: Carry) -> tuple[Result, Result]:
        """The results on the training sample and on the test set. Noise is drawn anew for each epoch, from keys."""
        key = random.fold_in(self._key, epoch) if self._draws else self._key
        train, test = (
            self._evaluated(*part, random.fold_in(key, index) if self._draws else key, carry)
            for index, part in enumerate(self._parts)
        )
        return train, test

    def class_zero_accuracies(self) -> tuple[float, float]:
        """The accuracies of predicting class 0, which a diverged net does, on both splits."""
        train, test = (float((split.y[rows] == 0).double().mean()) for _, split, rows in self._parts)
        return train, test

    def _evaluated(self, evaluate: Evaluate, split: Split, rows: Tensor, key: random.Key, carry: Carry) -> Result:
        """Chunk after chunk; a recurrent net at the run's batch size, its state carried on from zero."""
        noise = self._problem.draw_noise(key, len(rows), train=False)
        recurrent = self._problem.zero_carry(self._batch_size, device=rows.device)
        chunk = self._batch_size if recurrent else evaluation_chunk(len(rows), self._batch_size)
        losses, correct = [], []
        for index, start in enumerate(range(0, len(rows), chunk)):
            part = slice(start, start + chunk)
            part_noise = {name: draw[part] for name, draw in noise.items()}
            part_key = random.fold_in(key, index) if self._draws else key
            state = ModelState(carry.state.moments, recurrent)
            result, recurrent = evaluate(carry.params, state, split, rows[part], part_noise, part_key)
            losses.append(result.losses)
            if result.correct is not None:
                correct.append(result.correct)
        accuracy = float(torch.cat(correct).double().mean()) if correct else None
        return Result(float(torch.cat(losses).double().mean()), accuracy)
