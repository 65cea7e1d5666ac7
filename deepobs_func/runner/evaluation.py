"""The evaluation of a run: each split, in the test phase, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.datasets.loading import Split
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.runner.batches import Batches
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.order import test_rows, train_eval_rows, valid_rows
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
    """A split as it is evaluated: `rows (chunks, n)` of the data set's split, which is `"train"` or `"test"`."""

    evaluate: Evaluate
    split: str
    rows: Tensor
    augment: bool


class Evaluator:
    """Evaluates parameters on the same examples each time: whole batches of the run's batch size.

    The splits are `train` (a sample of it), `valid` where the run has one, and `test`.
    """

    def __init__(self, plan: Plan, batches: Batches, key: random.Key, execution: Execution) -> None:
        self._problem, self._batch_size, self._batches = plan.problem, plan.batch_size, batches
        self._key = random.fold_in(key, random.EVALUATION)
        spec, augmented = plan.problem.dataset, plan.protocol.train_eval_head
        self._draws = bool(plan.problem.noises) or (augmented and (spec.streamed or bool(spec.augment)))

        def part(split: str, rows: Tensor, augment: bool) -> _Part:
            evaluate = make_evaluate(plan.problem, augment=augment, channels_last=execution.channels_last)
            return _Part(evaluate, split, rows.view(-1, batches.chunk(len(rows))), augment)

        size, valid = plan.batch_size, plan.valid
        self._parts = {"train": part("train", train_eval_rows(plan.protocol, spec, key, size, valid), augmented)}
        if valid:
            self._parts["valid"] = part("train", valid_rows(spec, size, valid, plan.device), False)
        self._parts["test"] = part("test", test_rows(spec, size, plan.device), False)

    def __call__(self, epoch: int, carry: Carry) -> dict[str, Result]:
        """The results on each split. Noise is drawn anew for each epoch, from keys."""
        return {split: self._result(part, key, carry) for split, (part, key) in self._keyed(epoch).items()}

    def mean(self, epoch: int, carry: Carry, measure: Callable[[Any, Batch], Tensor], split: str) -> float:
        """The mean over a split of `measure(outputs, batch) -> (B,)`, of the outputs of the test phase.

        Raises:
            ConfigError: there is no such split, or the function returns another shape.
        """
        if split not in self._parts:
            raise ConfigError(unknown("split", split, self._parts))
        part, key = self._keyed(epoch)[split]

        def measured(params: Params, batch: Batch) -> tuple[Tensor, ModelState]:
            outputs, state = self._problem.test_outputs_and_state(params, batch)
            values = measure(outputs, batch)
            if values.shape != batch.x.shape[:1]:
                raise ConfigError(
                    f"The function returned the shape {tuple(values.shape)} for a batch of {len(batch.x)}; it must "
                    f"return a value for each example, ({len(batch.x)},)."
                )
            return values, state

        evaluate = make_evaluate(self._problem, augment=part.augment, function=measured)
        return _mean([values for values, _, _ in self._chunks(part._replace(evaluate=evaluate), key, carry)])

    def warm_up(self, carry: Carry) -> None:
        """Evaluates two chunks of each: the second begins with the recurrent state of the first."""
        for part, key in self._keyed(0).values():
            self._result(part._replace(rows=part.rows[:2]), key, carry)

    def _keyed(self, epoch: int) -> dict[str, tuple[_Part, random.Key]]:
        key = random.fold_in(self._key, epoch) if self._draws else self._key
        return {
            split: (part, random.fold_in(key, _NUMBER[split]) if self._draws else key)
            for split, part in self._parts.items()
        }

    def _result(self, part: _Part, key: random.Key, carry: Carry) -> Result:
        losses, correct, zero = [], [], []
        for result, split, rows in self._chunks(part, key, carry):
            losses.append(result.losses)
            if result.correct is not None:
                correct.append(result.correct)
                zero.append(_is_class_zero(split.y[rows]))
        return Result(_mean(losses), _mean(correct) if correct else None, _mean(zero) if zero else None)

    def _chunks(self, part: _Part, key: random.Key, carry: Carry) -> Iterator[tuple[Any, Split, Tensor]]:
        """Chunk after chunk, a recurrent state carried on from zero: what `part.evaluate` found, split and rows."""
        noise = self._problem.draw_noise(key, part.rows.numel(), train=False)
        recurrent = self._problem.zero_carry(self._batch_size, device=key.device)
        start = 0
        with closing(self._batches.chunks(part.split, part.rows, key, part.augment)) as chunks:
            for index, (split, rows) in enumerate(chunks):
                drawn = {name: draw[start : start + len(rows)] for name, draw in noise.items()}
                start += len(rows)
                chunk_key = random.fold_in(key, index) if self._draws else key
                state = ModelState(carry.state.moments, recurrent)
                found, recurrent = part.evaluate(carry.params, state, split, rows, drawn, chunk_key)
                yield found, split, rows


_NUMBER = {"train": 0, "test": 1, "valid": 2}  # of the splits: folded into the keys of their noise


def _is_class_zero(y: Tensor) -> Tensor:
    """Whether a label is class 0, of class ids or of rows of probabilities."""
    return (y.argmax(-1) if y.is_floating_point() and y.ndim > 1 and y.shape[-1] else y) == 0


def _mean(values: list[Tensor]) -> float:
    return float(torch.cat(values).double().mean())
