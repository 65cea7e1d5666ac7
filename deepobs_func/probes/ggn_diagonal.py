"""The diagonal of the GGN, exact and by Monte-Carlo, example by example."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp
from torch.utils import _pytree as pytree

from deepobs_func import random, tree
from deepobs_func.base import BATCH_DIMS, Batch, ModelState, Params, first_of, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.probes.contract import LossOrProblem, Problem, checked_ggn
from deepobs_func.probes.curvature import criterion_hessian
from deepobs_func.probes.fisher import checked_sampler, sampled
from deepobs_func.probes.jacobians import Tensors, TensorsOf
from deepobs_func.probes.many import many
from deepobs_func.probes.ways import known
from deepobs_func.tree import Tree

COLUMNS = 32  # unit vectors of the outputs at a time
HELD = 2**26  # numbers in gradients that are held in memory at a time, unless one example needs more


def ggn_diagonal(subject: LossOrProblem, params: Params, batch: Any) -> Tree:
    """`diag(1/B sum_n J_n^T H_n J_n) = 1/B sum_n sum_c (J_n^T e_c) * (J_n^T H_n e_c)`, exactly.

    Args:
        subject: a Problem with a GGN.
        params, batch: the point.

    Returns:
        A tree like `params`. Where examples are coupled, c runs over the outputs of the whole batch at once.

    Raises:
        ConfigError: there is no GGN, or the batch is not a `Batch`.
    """
    problem = checked_ggn(subject, params, batch, "diagonal")
    at_once = known(problem).offers("vmap")

    def of_piece(piece: Batch, _: Tensor) -> Tree:
        outputs = TensorsOf(lambda p: problem.outputs(p, piece))
        tensors, pull = vjp(outputs, params)[:2]
        hessian = criterion_hessian(problem, piece, outputs, tensors)  # of the sum over the piece, times 1 / its size
        weigh = lambda column: pull(hessian(column))[0]
        total = tree.zeros_like(params)
        for columns in _identity(tensors):
            plain, weighted = many(pull, at_once=at_once)(columns)[0], many(weigh, at_once=at_once)(columns)
            total = tree.add(total, tree.map(lambda a, b: (a * b).sum(0), plain, weighted))
        return tree.scale(float(size_of(piece)), total)

    return _mean_over_examples(of_piece, problem, params, batch, 2 * COLUMNS)


def sampled_ggn_diagonal(subject: LossOrProblem, params: Params, batch: Any, key: random.Key) -> Tree:
    """`1/B sum_n (J_n^T s_n)^2` for one draw of each `s_n` with `E[s_n s_n^T] = H_n`; see `ggn_diagonal`."""
    problem = checked_sampler(subject, params, batch, "diagonal")

    def of_piece(piece: Batch, n: Tensor) -> Tree:
        outputs = TensorsOf(lambda p: problem.outputs(p, piece))
        tensors, pull = vjp(outputs, params)[:2]
        vectors = sampled(problem, outputs.rebuilt(tensors), piece, random.fold_in(key, n))
        return tree.map(torch.square, pull(vectors)[0])

    return _mean_over_examples(of_piece, problem, params, batch, 1)


def _mean_over_examples(
    of_piece: Callable[[Batch, Tensor], Tree], problem: Problem, params: Params, batch: Any, gradients: int
) -> Tree:
    """`1/B sum_n of_piece(example n, n)`, or `1/B of_piece(batch, 0)` where examples are coupled.

    Args:
        of_piece: `(batch of one, its number) -> tree`.
        problem, params, batch: the point.
        gradients: how many trees like `params` an example holds in memory.
    """
    if not isinstance(batch, Batch):
        raise ConfigError(
            f"The diagonal of a GGN takes a Batch, whose examples it can tell; not a {type(batch).__name__}."
        )
    numbers = torch.arange(size_of(batch), device=first_of(batch.x).device)
    if not problem.separable:
        return tree.scale(1.0 / len(numbers), of_piece(batch, numbers[0]))

    def of_examples(examples: slice) -> Tree:
        part = _with_examples(batch, lambda leaf: leaf[examples])
        of_one = lambda example, n: of_piece(_with_examples(example, lambda leaf: leaf.unsqueeze(0)), n)
        rows = many(of_one, (BATCH_DIMS, 0), at_once=known(problem).offers("vmap"))(part, numbers[examples])
        return tree.map(lambda leaf: leaf.sum(0), rows)

    at_once = max(1, HELD // (gradients * tree.size(params)))
    total = tree.zeros_like(params)
    for start in range(0, len(numbers), at_once):
        total = tree.add(total, of_examples(slice(start, start + at_once)))
    return tree.scale(1.0 / len(numbers), total)


def _with_examples(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch after a change of every tensor that has an axis of examples."""
    of_examples = (batch.x, batch.y, batch.noise, batch.state.carry)
    x, y, noise, carry = pytree.tree_map(change, of_examples)
    return Batch(x, y, noise, ModelState(batch.state.moments, carry))


def _identity(like: Tensors) -> Iterator[Tensors]:
    """The unit vectors of a space of tensors, at most `COLUMNS` at a time, along a new leading axis."""
    sizes = [part.numel() for part in like]
    index = torch.arange(sum(sizes), device=like[0].device)
    for rows in index.split(COLUMNS):
        parts = (rows.unsqueeze(1) == index).to(like[0].dtype).split(sizes, dim=1)
        yield [part.reshape(-1, *leaf.shape) for part, leaf in zip(parts, like, strict=True)]
