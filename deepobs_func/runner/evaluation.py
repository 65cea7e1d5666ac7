"""The evaluation of a run: each split, in the test phase, chunk by chunk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import Batch, Evaluation, Inputs, ModelState, Params, map_inputs, size_of
from deepobs_func.datasets.loading import Split
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner.batches import Batches, Chunk
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.order import test_rows, train_eval_rows, valid_rows
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.step import Carry, Evaluate, make_evaluate, make_gather

# Inputs of a split that stay prepared: 10,000 images of MNIST. It is a third of their evaluation by a linear model;
# larger inputs belong to nets beside which it is nothing.
KEPT_BYTES = 2**25


class Result(NamedTuple):
    """The mean loss over a split, without the penalty, and accuracies, or None where there are none.

    Attributes:
        class_zero: the accuracy of outputs that are NaN, as a diverged net's are: their largest logit is that of
            class 0.
    """

    loss: float
    accuracy: float | None
    class_zero: float | None


class Part(NamedTuple):
    """A split as it is evaluated: `rows (chunks, n)` of the data set's split, which is `"train"` or `"test"`."""

    evaluate: Evaluate
    split: str
    rows: Tensor
    augment: bool


def bytes_kept(spec: DatasetSpec, augment: bool) -> int:
    """How many bytes of inputs of a split stay prepared: none of those that change, or that a stream prepares."""
    return 0 if spec.streamed or (augment and spec.augment) else KEPT_BYTES


class Evaluator:
    """Evaluates parameters on the same examples each time: whole batches of the run's batch size.

    The splits are `train` (a sample of it), `valid` where the run has one, and `test`.
    """

    def __init__(self, plan: Plan, batches: Batches, key: random.Key, execution: Execution) -> None:
        self._problem, self._batches = plan.problem, batches
        self.batch_size: int = plan.batch_size
        self._ranks = plan.ranks
        self._key = random.fold_in(key, random.EVALUATION)
        spec, augmented = plan.problem.dataset, plan.protocol.train_eval_head
        self.draws: bool = bool(plan.problem.noises) or (augmented and (spec.streamed or bool(spec.augment)))

        def part(split: str, rows: Tensor, augment: bool) -> Part:
            keep = bytes_kept(spec, augment)
            how: Any = {"channels_last": execution.channels_last, "keep": keep, "ranks": plan.ranks}
            evaluate = make_evaluate(plan.problem, augment=augment, **how)
            return Part(evaluate, split, rows.view(-1, batches.chunk(len(rows))), augment)

        size, valid = plan.batch_size, plan.valid
        self.parts: dict[str, Part] = {
            "train": part("train", train_eval_rows(plan.protocol, spec, key, size, valid), augmented)
        }
        if valid:
            self.parts["valid"] = part("train", valid_rows(spec, size, valid, plan.device), False)
        self.parts["test"] = part("test", test_rows(spec, size, plan.device), False)

        self._plan = plan
        self._zeros: dict[str, float] = {}

    def of_seed(self, batches: Batches, key: random.Key) -> Evaluator:
        """That of another run, which shares what is kept; the examples are drawn again where they depend on its key."""
        other, protocol, spec = copy.copy(self), self._plan.protocol, self._problem.dataset
        other._batches, other._key, other._zeros = batches, random.fold_in(key, random.EVALUATION), {}
        if protocol.train_eval_head and spec.shuffle:
            train = self.parts["train"]
            rows = train_eval_rows(protocol, spec, key, self.batch_size, self._plan.valid).view(train.rows.shape)
            other.parts = self.parts | {"train": train._replace(rows=rows)}
        return other

    def __call__(self, epoch: int, carry: Carry) -> dict[str, Result]:
        """The results on each split. Noise is drawn anew for each epoch, from keys."""
        return self.all(epoch, [carry])[0]

    def all(self, epoch: int, carries: Sequence[Carry]) -> list[dict[str, Result]]:
        """The same of several carries, which see each chunk of examples together."""
        found: list[dict[str, Result]] = [{} for _ in carries]
        for split, (part, key) in self.keyed(epoch).items():
            zero = None if split in self._zeros or not self._problem.has_accuracy else list[Tensor]()
            of_split = self._results(part, key, carries, zero)
            if zero is not None:
                self._zeros[split] = self._mean(zero)
            for results, result in zip(found, of_split, strict=True):
                results[split] = result._replace(class_zero=self._zeros.get(split))
        return found

    def class_zero(self, split: str, params: Params, moments: Tensors) -> float:
        """The accuracy on a split of outputs that are all NaN; computed once, since the targets do not change.

        Args:
            split: its name.
            params, moments: any, by which the shape of the outputs is found.
        """
        if split not in self._zeros:
            part, key = self.keyed(0)[split]
            found: list[Tensor] = []
            example: Any = None
            for _, _, chunk in self.inputs(part, key):
                example = example if found else self._nan_outputs(chunk, params, moments)
                found.append(self._right(example, chunk))
            self._zeros[split] = self._mean(found)
        return self._zeros[split]

    def _nan_outputs(self, chunk: Chunk, params: Params, moments: Tensors) -> Any:
        """NaN in the form of the outputs for the first example of a chunk, prepared as an evaluation prepares it."""
        split, rows = chunk
        example = make_gather(self._problem, augment=False)(split, rows[:1], ())
        return nan_outputs(self._problem, params, moments, example)

    def _right(self, example: Any, chunk: Chunk) -> Tensor:
        """Which examples count as right under the outputs of one example."""
        split, rows = chunk
        right: Any = self._problem.measure.correct
        outputs = pytree.tree_map(lambda leaf: _of_examples(leaf, len(rows)), example)
        return right(outputs, Batch.of(map_inputs(lambda each: each[rows], split.x), split.y[rows]))

    def mean(self, epoch: int, carry: Carry, measure: Callable[[Any, Batch], Tensor], split: str) -> float:
        """The mean over a split of `measure(outputs, batch) -> (B,)`, of the outputs of the test phase.

        Raises:
            ConfigError: there is no such split, or the function returns another shape.
        """
        if split not in self.parts:
            raise ConfigError(unknown("split", split, self.parts))
        part, key = self.keyed(epoch)[split]

        def measured(params: Params, batch: Batch) -> tuple[Tensor, ModelState]:
            outputs, state = self._problem.test_outputs_and_state(params, batch)
            values = measure(outputs, batch)
            if values.shape != (size_of(batch),):
                raise ConfigError(
                    f"The function returned the shape {tuple(values.shape)} for a batch of {size_of(batch)}; it must "
                    f"return a value for each example, ({size_of(batch)},)."
                )
            return values, state

        evaluate = make_evaluate(self._problem, augment=part.augment, function=measured, ranks=self._ranks)
        return self._mean([values for (values,), _, _ in self._chunks(part._replace(evaluate=evaluate), key, [carry])])

    def warm_up(self, carry: Carry) -> None:
        """Evaluates two chunks of each: the second begins with the recurrent state of the first."""
        for part, key in self.keyed(0).values():
            self._results(part._replace(rows=part.rows[:2]), key, [carry])

    def keyed(self, epoch: int) -> dict[str, tuple[Part, random.Key]]:
        """The splits, each with the key of its noise after an epoch."""
        key = random.fold_in(self._key, epoch) if self.draws else self._key
        return {
            split: (part, random.fold_in(key, _NUMBER[split]) if self.draws else key)
            for split, part in self.parts.items()
        }

    def _results(
        self, part: Part, key: random.Key, carries: Sequence[Carry], zero: list[Tensor] | None = None
    ) -> list[Result]:
        """The results of each carry; `zero` gets which examples outputs that are NaN would be right for."""
        found: list[list[Evaluation]] = [[] for _ in carries]
        example: Any = None
        for results, split, rows in self._chunks(part, key, carries):
            for own, result in zip(found, results, strict=True):
                own.append(result)
            if zero is not None:
                params, state = carries[0].params, carries[0].state
                example = example if zero else self._nan_outputs((split, rows), params, state.moments)
                zero.append(self._right(example, (split, rows)))
        return [self._result(own) for own in found]

    def _chunks(
        self, part: Part, key: random.Key, carries: Sequence[Carry]
    ) -> Iterator[tuple[list[Any], Split, Tensor]]:
        """Chunk after chunk, recurrent states carried on from zero: what `part.evaluate` found, split and rows."""
        zeros = self._problem.zero_carry(self.batch_size // self._ranks.size, device=key.device)
        recurrent = [zeros] * len(carries)
        for noise, chunk_key, (split, rows) in self.inputs(part, key):
            states = (ModelState(carry.state.moments, own) for carry, own in zip(carries, recurrent, strict=True))
            points = [(carry.params, state) for carry, state in zip(carries, states, strict=True)]
            found = part.evaluate(points, split, rows, noise, chunk_key)
            recurrent = [after for _, after in found]
            yield [result for result, _ in found], split, rows

    def inputs(self, part: Part, key: random.Key) -> Iterator[tuple[Tensors, random.Key, Chunk]]:
        """What each chunk of a split is, here: its noise, its key, its examples."""
        noise = self._problem.draw_noise(key, part.rows.numel(), train=False)
        size = part.rows.shape[1]
        with closing(self._batches.chunks(part.split, part.rows, key, part.augment)) as chunks:
            for index, (split, rows) in enumerate(chunks):
                drawn = {name: draw[index * size : (index + 1) * size] for name, draw in noise.items()}
                here = self._ranks.shards(drawn), (split, self._ranks.shard(rows))
                yield here[0], random.fold_in(key, index) if self.draws else key, here[1]

    def _result(self, found: Sequence[Evaluation]) -> Result:
        correct = [each.correct for each in found if each.correct is not None]
        return Result(self._mean([each.losses for each in found]), self._mean(correct) if correct else None, None)

    def _mean(self, values: list[Tensor]) -> float:
        """Over all examples, of which each process has as many."""
        return float(self._ranks.mean(torch.cat(values).double().mean()))


_NUMBER = {"train": 0, "test": 1, "valid": 2}  # of the splits: folded into the keys of their noise


def nan_outputs(problem: Problem, params: Params, moments: Tensors, example: tuple[Inputs, Tensor]) -> Any:
    """NaN in the form of the test phase's outputs for one example; what is no floating-point number is 0.

    Args:
        problem: gives the outputs.
        params, moments: any, of the run's device and type.
        example: inputs and target, each with a leading axis of 1, of the type that the model takes in a run.
    """
    device = next(iter(params.values())).device
    state = ModelState(moments, problem.zero_carry(1, device=device))
    noise = problem.draw_noise(random.key(0, device), 1, train=False)
    with torch.no_grad():
        outputs, _ = problem.test_outputs_and_state(params, Batch.of(*example, noise, state))

    def filled(leaf: Any) -> Any:
        is_float = isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex())
        return torch.full_like(leaf, torch.nan) if is_float else leaf

    return pytree.tree_map(filled, outputs)


def _of_examples(leaf: Any, size: int) -> Any:
    """The only example, so many times, without a copy."""
    return leaf.expand(size, *leaf.shape[1:]) if isinstance(leaf, Tensor) and leaf.ndim else leaf
