"""The evaluation of all members at once, by `vmap`, on the same examples and noise as alone."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from deepobs_func import random
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.kernels import Kernels, current
from deepobs_func.base import Batch, Inputs, ModelState, Params
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner.evaluation import Evaluator, Part, bytes_kept
from deepobs_func.runner.step import kept, make_gather

# Bytes of the widest activation of a call. Eager code stays in a core's cache: a product of 16,000 x 100 x 100 takes
# 1.6 times as long a row as one of 1,700. Compiled code stores little of it, and a call costs a quarter of a
# millisecond.
IN_CACHE, IN_A_GRAPH = 2**20, 2**22


class Found(NamedTuple):
    """Of a split: mean losses, accuracies, and those of outputs that are NaN, `(m,)` float64."""

    losses: Tensor
    accuracies: Tensor | None
    class_zero: Tensor | None


class EvaluationOfAll:
    """Evaluates members of several seeds.

    Args:
        problem: what is evaluated.
        evaluators: of each seed.
        compile: whether the evaluation of a chunk is one compiled graph.
    """

    def __init__(self, problem: Problem, evaluators: Sequence[Evaluator], *, compile: bool) -> None:
        self._problem, self._evaluators, self._compile = problem, evaluators, compile
        first = evaluators[0]
        self._gather = {
            split: kept(make_gather(problem, augment=part.augment), bytes_kept(problem.dataset, part.augment))
            for split, part in first.parts.items()
        }
        self._alike = not first.draws and all(
            torch.equal(part.rows, other.parts[split].rows)
            for other in evaluators[1:]
            for split, part in first.parts.items()
        )

    def __call__(
        self, epoch: int, seeds: Sequence[int], params: Params, moments: Tensors, constants: Tensors
    ) -> dict[str, Found]:
        """The results of members by split, in the order of the leading axes.

        Args:
            epoch: how many are complete, of which the noise is.
            seeds: the index of each seed.
            params, moments: with leading axes (S, N).
            constants: moments that all share.
        """
        if self._alike:
            params, moments = tree_map(lambda leaf: leaf.flatten(0, 1), (params, moments))
            return self._of_a_seed(epoch, seeds[0], params, moments, constants)
        found = []
        for at, seed in enumerate(seeds):
            own = tree_map(operator.itemgetter(at), (params, moments))
            found.append(self._of_a_seed(epoch, seed, own[0], own[1], constants))
        return {split: _joined([results[split] for results in found]) for split in found[0]}

    def _of_a_seed(
        self, epoch: int, seed: int, params: Params, moments: Tensors, constants: Tensors
    ) -> dict[str, Found]:
        evaluator, results = self._evaluators[seed], {}
        members = len(next(iter(params.values())))
        for split, (part, key) in evaluator.keyed(epoch).items():
            at_once = evenly(members, self._members_at_once(part.rows.shape[1]))
            groups = [
                tree_map(operator.itemgetter(slice(start, start + at_once)), (params, moments))
                for start in range(0, members, at_once)
            ]
            losses, correct = self._split(split, evaluator, part, key, groups, constants)
            if self._problem.has_accuracy:
                first = tree_map(operator.itemgetter(0), (params, moments))
                right = evaluator.class_zero(split, first[0], {**first[1], **constants})
                zero = torch.full_like(losses, right)
                results[split] = Found(losses, correct, zero)
            else:
                results[split] = Found(losses, None, None)
        return results

    def _members_at_once(self, chunk: int) -> int:
        """As many as keep the widest activation small, or as large as the inputs, which all share."""
        inputs = self._problem.dataset.numbers
        widest = max((shape.numel() for _, shape in self._problem.layers.values()), default=1024)
        most = IN_A_GRAPH if self._compile else IN_CACHE
        return max(1, max(most, 4 * chunk * inputs) // (4 * chunk * widest))

    def _split(
        self,
        name: str,
        evaluator: Evaluator,
        part: Part,
        key: random.Key,
        groups: Sequence[tuple[Params, Tensors]],
        constants: Tensors,
    ) -> tuple[Tensor, Tensor]:
        """Mean losses and accuracies on a split of groups of members, which see each chunk of examples in turn."""
        spec = self._problem.dataset
        draw = spec.function("draw") if part.augment and spec.augment and not spec.streamed else None
        of_chunk = _of_chunk(self._problem, self._compile, current())
        zeros = self._problem.zero_carry(evaluator.batch_size, device=key.device)
        sizes = [len(next(iter(params.values()))) for params, _ in groups]
        recurrent = [{name: zero.expand(size, *zero.shape) for name, zero in zeros.items()} for size in sizes]
        totals, number = [], 0
        for noise, chunk_key, (split, rows) in evaluator.inputs(part, key):
            draws = draw(chunk_key, len(rows), torch.float32) if draw else ()
            x, y = self._gather[name](split, rows, draws)
            found = []
            for index, (params, moments) in enumerate(groups):
                *sums, recurrent[index] = of_chunk(params, moments, recurrent[index], constants, x, y, noise)
                found.append(torch.stack(sums))
            totals.append(torch.cat(found, 1))
            number += len(rows)
        losses, correct = torch.stack(totals).sum(0).div(number).cpu()
        return losses, correct


@functools.lru_cache(maxsize=32)
def _of_chunk(problem: Problem, compile: bool, kernels: Kernels) -> Any:
    """Makes the evaluation of a chunk: sums of losses and of correct ones, `(m,)` float64, and the recurrent state."""

    def of_chunk(
        params: Params,
        moments: Tensors,
        recurrent: Tensors,
        constants: Tensors,
        x: Inputs,
        y: Tensor,
        noise: Tensors,
    ) -> tuple[Tensor, Tensor, Tensors]:
        def of_member(params: Params, moments: Tensors, recurrent: Tensors) -> tuple[Tensor, Tensor, Tensors]:
            batch = Batch(x, y, noise, ModelState({**moments, **constants}, recurrent))
            evaluation, after = problem.evaluate_and_state(params, batch)
            losses = evaluation.losses.double().sum()
            correct = losses if evaluation.correct is None else evaluation.correct.double().sum()
            return losses, correct, after.carry

        return torch.vmap(of_member)(params, moments, recurrent)

    return compiled(of_chunk, problem, onednn=kernels.onednn) if compile else of_chunk


def evenly(members: int, most: int) -> int:
    """The size of equally large groups of at most so many; one is smaller where no size of at least half divides.

    >>> evenly(360, 52), evenly(360, 11), evenly(13, 6)
    (45, 10, 5)
    """
    divisors = [size for size in range(most, most // 2, -1) if members % size == 0]
    return divisors[0] if divisors else -(-members // -(-members // most))


def _joined(found: Sequence[Found]) -> Found:
    """Of several seeds, in order."""
    columns: list[Any] = list(zip(*found, strict=True))
    joined: list[Any] = [None if column[0] is None else torch.cat(column) for column in columns]
    return Found(*joined)
