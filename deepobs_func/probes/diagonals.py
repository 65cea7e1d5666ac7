"""The diagonal of the GGN, exact and by Monte-Carlo, example by example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.func import vjp, vmap
from torch.utils import _pytree as pytree

from deepobs_func import random, tree
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.errors import ConfigError
from deepobs_func.probes.contract import Problem, Subject, checked_ggn
from deepobs_func.probes.curvature import criterion_hessian
from deepobs_func.probes.fisher import checked_sampler, sampled
from deepobs_func.probes.jacobians import Tensors, TensorsOf
from deepobs_func.tree import Tree

CHUNK = 32  # outputs at a time; as many gradients are held in memory, twice


def ggn_diagonal(subject: Subject, params: Params, batch: Any) -> Tree:
    """`diag(1/B sum_n J_n^T H_n J_n) = 1/B sum_n sum_c (J_n^T e_c) * (J_n^T H_n e_c)`, exactly.

    Args:
        subject: a Problem with a GGN.
        params, batch: the point.

    Returns:
        A tree like `params`. Where examples are coupled, c runs over the outputs of the whole batch at once.

    Raises:
        ConfigError: there is no GGN, or the batch is no `Batch`.
    """
    problem = checked_ggn(subject, "diagonal")
    pieces = _pieces(problem, batch)
    total = tree.zeros_like(params)
    for piece in pieces:
        total = tree.add(total, _diagonal_of(problem, params, piece))
    return tree.scale(1.0 / len(pieces), total)


def sampled_ggn_diagonal(subject: Subject, params: Params, batch: Any, key: random.Key) -> Tree:
    """`1/B sum_n (J_n^T s_n)^2` for one draw of each `s_n` with `E[s_n s_n^T] = H_n`; see `ggn_diagonal`."""
    problem = checked_sampler(subject, "diagonal")
    total = tree.zeros_like(params)
    for index, piece in enumerate(_pieces(problem, batch)):
        total = tree.add(total, _sampled_diagonal_of(problem, params, piece, random.fold_in(key, index)))
    return tree.scale(1.0 / batch.x.shape[0], total)


def _diagonal_of(problem: Problem, params: Params, piece: Batch) -> Tree:
    """The diagonal of the GGN of one piece of the batch, `1/B` of that piece included."""
    outputs = TensorsOf(lambda p: problem.outputs(p, piece))
    tensors, pull = vjp(outputs, params)[:2]
    hessian = criterion_hessian(problem, piece, outputs, tensors)
    total = tree.zeros_like(params)
    for columns in _identity(tensors):
        plain, weighted = vmap(pull)(columns)[0], vmap(lambda column: pull(hessian(column))[0])(columns)
        total = tree.add(total, tree.map(lambda a, b: (a * b).sum(0), plain, weighted))
    return total


def _sampled_diagonal_of(problem: Problem, params: Params, piece: Batch, key: random.Key) -> Tree:
    outputs = TensorsOf(lambda p: problem.outputs(p, piece))
    tensors, pull = vjp(outputs, params)[:2]
    return tree.map(torch.square, pull(sampled(problem, outputs.rebuilt(tensors), piece, key))[0])


def _pieces(problem: Problem, batch: Any) -> list[Batch]:
    """The batch example by example, or whole where they are coupled."""
    if not isinstance(batch, Batch):
        raise ConfigError(
            f"The diagonal of a GGN takes a Batch, whose examples it can tell; not a {type(batch).__name__}."
        )
    return [_example(batch, n) for n in range(batch.x.shape[0])] if problem.separable else [batch]


def _example(batch: Batch, n: int) -> Batch:
    """Example n as a batch of one."""
    of_examples = (batch.x, batch.y, batch.noise, batch.state.carry)
    x, y, noise, carry = pytree.tree_map(lambda leaf: leaf[n : n + 1], of_examples)
    return Batch(x, y, noise, ModelState(batch.state.moments, carry))


def _identity(like: Tensors) -> Iterator[Tensors]:
    """The unit vectors of a space of tensors, at most `CHUNK` at a time, along a new leading axis."""
    sizes = [part.numel() for part in like]
    for start in range(0, sum(sizes), CHUNK):
        rows = torch.arange(start, min(start + CHUNK, sum(sizes)), device=like[0].device)
        index = torch.arange(sum(sizes), device=like[0].device)
        flat = (rows.unsqueeze(1) == index).to(like[0].dtype)
        parts = flat.split(sizes, dim=1)
        yield [part.reshape(-1, *leaf.shape) for part, leaf in zip(parts, like, strict=True)]
