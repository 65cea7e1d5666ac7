"""The evaluation of a run: the training sample and the test set, in the test phase, chunk by chunk."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import ModelState
from deepobs_func.runner.choice import Choice
from deepobs_func.runner.feed import Feed
from deepobs_func.runner.order import test_rows, train_eval_rows
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.step import Carry, Evaluate, make_evaluate


class Result(NamedTuple):
    """The mean loss over a split, without the penalty, and accuracies, or None where there are none.

    Attributes:
        class_zero: the accuracy of predicting class 0, which a diverged net does.
    """

    loss: float
    accuracy: float | None
    class_zero: float | None


class _Part(NamedTuple):
    """One of the two things that are evaluated; `rows (chunks, n)`."""

    evaluate: Evaluate
    split: str
    rows: Tensor
    augment: bool


class Evaluator:
    """Evaluates a run's parameters on the same examples each time: whole batches of the run's batch size."""

    def __init__(self, plan: Plan, feed: Feed, key: random.Key, choice: Choice) -> None:
        self._problem, self._batch_size, self._feed = plan.problem, plan.batch_size, feed
        self._key = random.fold_in(key, random.EVALUATION)
        spec, augmented = plan.problem.dataset, plan.protocol.train_eval_head
        self._draws = bool(plan.problem.noises) or (augmented and (spec.streamed or bool(spec.augment)))

        problem = plan.problem.with_onednn() if choice.onednn else plan.problem

        def part(split: str, rows: Tensor, augment: bool) -> _Part:
            evaluate = make_evaluate(problem, augment=augment, channels_last=choice.channels_last)
            return _Part(evaluate, split, rows.view(-1, feed.chunk(len(rows))), augment)

        self._parts = (
            part("train", train_eval_rows(plan.protocol, spec, key, plan.batch_size), augmented),
            part("test", test_rows(spec, plan.batch_size, plan.device), False),
        )

    def __call__(self, epoch: int, carry: Carry) -> tuple[Result, Result]:
        """The results on the training sample and on the test set. Noise is drawn anew for each epoch, from keys."""
        train, test = (self._evaluated(*part, carry) for part in self._keyed(epoch))
        return train, test

    def warm_up(self, carry: Carry) -> None:
        """Evaluates two chunks of each: the second begins with the recurrent state of the first."""
        for part, key in self._keyed(0):
            self._evaluated(part._replace(rows=part.rows[:2]), key, carry)

    def _keyed(self, epoch: int) -> list[tuple[_Part, random.Key]]:
        key = random.fold_in(self._key, epoch) if self._draws else self._key
        return [(part, random.fold_in(key, index) if self._draws else key) for index, part in enumerate(self._parts)]

    def _evaluated(self, part: _Part, key: random.Key, carry: Carry) -> Result:
        """Chunk after chunk, a recurrent state carried on from zero."""
        noise = self._problem.draw_noise(key, part.rows.numel(), train=False)
        recurrent = self._problem.zero_carry(self._batch_size, device=key.device)
        losses, correct, zero = [], [], []
        start = 0
        with closing(self._feed.chunks(part.split, part.rows, key, part.augment)) as chunks:
            for index, (split, rows) in enumerate(chunks):
                drawn = {name: draw[start : start + len(rows)] for name, draw in noise.items()}
                start += len(rows)
                chunk_key = random.fold_in(key, index) if self._draws else key
                state = ModelState(carry.state.moments, recurrent)
                result, recurrent = part.evaluate(carry.params, state, split, rows, drawn, chunk_key)
                losses.append(result.losses)
                if result.correct is not None:
                    correct.append(result.correct)
                    zero.append(_is_class_zero(split.y[rows]))
        return Result(_mean(losses), _mean(correct) if correct else None, _mean(zero) if zero else None)


def _is_class_zero(y: Tensor) -> Tensor:
    """Whether a label is class 0, of class ids or of rows of probabilities."""
    return (y.argmax(-1) if y.is_floating_point() and y.ndim > 1 and y.shape[-1] else y) == 0


def _mean(values: list[Tensor]) -> float:
    return float(torch.cat(values).double().mean())
