"""The oracle of a batch that is never looked at as a whole: in pieces, one after the other, or shared by processes.

What is a mean over the batch is the mean over its pieces: value, gradient, products. What is of single examples is put
together. A piece needs the memory of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random, tree
from deepobs_func.backend import ranks as ranks_of
from deepobs_func.backend.ranks import ALONE, Ranks
from deepobs_func.base import BATCH_DIMS, Batch, ModelState, Params, map_inputs, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.probes import per_example
from deepobs_func.probes.fisher import Kind
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.probes.many import sliced
from deepobs_func.probes.outer import Statistic
from deepobs_func.probes.outer_products import LayerGradients
from deepobs_func.problems.oracle import Oracle, Value, ValueAndGrad
from deepobs_func.problems.problem import Problem
from deepobs_func.tree import Tree


class Parts(NamedTuple):
    """How a batch is cut.

    Attributes:
        size: the examples of a piece at most; 0 for one piece.
        ranks: the processes, each of which has a shard of the batch, and cuts that into pieces.
    """

    size: int = 0
    ranks: Ranks = ALONE

    @property
    def is_whole(self) -> bool:
        """Whether nothing is cut."""
        return not self.size and self.ranks.size == 1


WHOLE = Parts()


def check_pieces(problem: Problem, what: str) -> None:
    """Refuses a problem whose examples are coupled, so that the loss of a batch is no mean of its pieces'.

    Args:
        problem: which.
        what: the option that asks for pieces.

    Raises:
        ConfigError: they are.
    """
    if not problem.separable:
        why = (
            "batch norm takes mean and variance of the whole batch"
            if problem.normalizes
            else "the loss of an example depends on the other examples of its batch"
        )
        raise ConfigError(
            f"{what}: {problem.name} cannot be trained in pieces of a batch, since {why}. Take a smaller batch size, "
            "or a net with group norm, such as cifar10_resnet18_gn."
        )


def piece_of(batch: Batch, piece: slice) -> Batch:
    """Some examples of a batch, with their noise and their recurrent state; moments are of all."""
    x, y, noise, state = batch
    cut = lambda tensors: {name: leaf[piece] for name, leaf in tensors.items()}
    return Batch(
        map_inputs(lambda each: each[piece], x), y[piece], cut(noise), ModelState(state.moments, cut(state.carry))
    )


def slices(examples: int, size: int) -> list[slice]:
    """Pieces of at most so many examples; one piece of all for 0."""
    size = size or examples
    return [slice(start, min(start + size, examples)) for start in range(0, examples, size)]


def in_parts(problem: Problem, value_and_grad: ValueAndGrad, parts: Parts) -> ValueAndGrad:
    """The same function of a batch that is cut; moving moments of batch norm become the mean of those of the parts.

    Args:
        problem: whose objective it is.
        value_and_grad: of a piece, compiled or not.
        parts: how it is cut.
    """

    def whole(params: Params, batch: Batch, scale: Tensor | None = None) -> Value:
        found: Value | None = None
        carries, moments = [], list[Tree]()
        for piece, share in _pieces(batch, parts.size):
            value = value_and_grad(params, piece) if scale is None else value_and_grad(params, piece, scale=scale)
            carries.append(value.state.carry)
            if problem.normalizes:
                moments.append(tree.scale(share, value.state.moments) if share != 1 else value.state.moments)
            found = _scaled(value, share) if found is None else _added(found, value, share)
        assert found is not None, "a batch has an example"
        answer = (found.objective, found.grads, found.metrics)
        objective, grads, metrics = parts.ranks.mean(answer, owned=True)  # this function alone has the gradient
        carry = {name: torch.cat([each[name] for each in carries]) for name in carries[0]}
        after = parts.ranks.mean(_total(moments)) if problem.normalizes else found.state.moments
        return Value(objective, grads, metrics, ModelState(after, carry))

    return whole


def _pieces(batch: Batch, size: int) -> Iterable[tuple[Batch, float]]:
    """Each piece with its share of the examples."""
    examples = size_of(batch)
    for piece in slices(examples, size):
        yield piece_of(batch, piece) if size else batch, (piece.stop - piece.start) / examples


def _scaled(value: Value, share: float) -> Value:
    if share == 1:
        return value
    objective, grads, metrics = pytree.tree_map(lambda leaf: share * leaf, tuple(value[:3]))
    return Value(objective, grads, metrics, value.state)


def _added(total: Value, value: Value, share: float) -> Value:
    """The sum; the gradients of the total, which nobody else has, change in place."""
    if value.grads and not any(grad.is_sparse for grad in value.grads.values()):
        torch._foreach_add_([*total.grads.values()], [value.grads[name] for name in total.grads], alpha=share)
        grads = total.grads
    else:
        grads = tree.map(lambda a, b: a + share * b, total.grads, value.grads)
    objective, metrics = pytree.tree_map(
        lambda a, b: a + share * b, (total.objective, total.metrics), (value.objective, value.metrics)
    )
    return Value(objective, grads, metrics, total.state)


class PiecewiseOracle(Oracle):
    """The oracle of a batch that is cut; its answers are those of the whole batch, rounding aside.

    Args:
        problem: whose objective it is.
        value_and_grad: as `in_parts` makes it.
        params: the point.
        batch: the batch, or this process's shard of it.
        parts: how it is cut.
    """

    def __init__(
        self, problem: Problem, value_and_grad: ValueAndGrad, params: Params, batch: Batch, parts: Parts
    ) -> None:
        super().__init__(problem, value_and_grad, params, batch)
        self._parts = parts

    def at(self, params: Params) -> Oracle:
        return PiecewiseOracle(self._problem, self._value_and_grad, params, self._batch, self._parts)

    def loss_at(self, params: Params) -> Tensor:
        ranks = self._parts.ranks
        with_graph = torch.is_grad_enabled() and any(leaf.requires_grad for leaf in params.values())
        if with_graph and ranks.size > 1:
            params = ranks_of.shared(params)
        loss = self._local_mean(lambda problem, piece: problem.objective(params, piece))
        return ranks_of.mean_of(loss, ranks) if with_graph and ranks.size > 1 else ranks.mean(loss)

    def hvp(self, v: Tree) -> Tree:
        return self._mean(lambda oracle: oracle.hvp(v))

    def ggnvp(self, v: Tree) -> Tree:
        return self._mean(lambda oracle: oracle.ggnvp(v))

    def make_hvp(self) -> LinearMap:
        """The map of `hvp`. Nothing is kept between products, so that a piece needs the memory of a piece."""
        return LinearMap(self.hvp, self._params, at_once=lambda: False)

    def make_ggnvp(self) -> LinearMap:
        """The map of `ggnvp`; nothing is kept between products."""
        return LinearMap(self.ggnvp, self._params, at_once=lambda: False)

    def per_example_grads(self, *, bn: str | None = None) -> Params:
        """The gradient of each example's loss, of all processes' examples."""
        found = self.statistics(["grads"], bn=bn).grads
        assert found is not None, "it was asked for"
        return found

    def statistics(self, wanted: Statistic | Iterable[Statistic], *, bn: str | None = None) -> per_example.Statistics:
        """Statistics of the per-example gradients of the whole batch; the Gram matrix costs a pass for each two pieces.

        Raises:
            ConfigError: as in `Oracle.per_example_grads`; or `bn="coupled"` of a batch that processes share.
        """
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        ranks = self._parts.ranks
        if bn == "coupled" and not self._problem.separable and ranks.size > 1:
            raise ConfigError(
                'bn="coupled" looks at all examples of a batch at once, which processes share. Take "frozen" or "eval".'
            )
        asked = [name for name in names if name != "gram"]
        if "scatter" in asked and "grad" not in asked:
            asked.append("grad")
        found = [
            (per_example.statistics(self._problem, self._params, piece, asked, bn=bn), size_of(piece))
            for piece, _ in _pieces(self._batch, self._parts.size)
        ]
        values = _joined(found, asked, ranks)
        if "gram" in names:
            values["gram"] = self._gram(bn)
        return per_example.Statistics(**{name: values[name] for name in ("losses", *names)})

    def layer_gradients(self, kind: Kind, *, key: random.Key | None = None, bn: str | None = None) -> LayerGradients:
        """Refused: they are of all examples at once.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "Gradients by layers (kfac, ekfac) are taken of all examples at once, and this batch is in pieces. Train "
            "in one process and without micro_batch, or give a curvature_batch of at most micro_batch."
        )

    def gradient_factors(self) -> LayerGradients | None:
        """None: the gradient is a sum over pieces."""
        return None

    def part(self, size: int | None) -> Oracle:
        """The oracle of the first examples, in pieces as large as before; of one piece where that is enough.

        Raises:
            ConfigError: the batch has fewer, or processes share it: its first examples are those of one process.
        """
        if size is None:
            return self
        if self._parts.ranks.size > 1:
            raise ConfigError(
                f"curvature_batch={size} is of the first examples of a batch, which belong to one of "
                f"{self._parts.ranks.size} processes. Leave it out, or train in one process."
            )
        part = super().part(size)
        if size <= self._parts.size:
            return part
        batch = sliced(self._batch, BATCH_DIMS, slice(0, size))
        return PiecewiseOracle(self._problem, self._value_and_grad, self._params, batch, self._parts)

    def _gram(self, bn: str | None) -> Tensor:
        """Block by block, from the gradients of two pieces at a time; every process computes all of it."""
        ranks, batch = self._parts.ranks, self._batch
        if ranks.size > 1:
            moments = batch.state.moments
            whole: Batch = pytree.tree_map(ranks.gathered, batch._replace(state=ModelState({}, batch.state.carry)))
            batch = whole._replace(state=ModelState(moments, whole.state.carry))
        pieces = slices(size_of(batch), self._parts.size or size_of(self._batch))
        gram = self._params[next(iter(self._params))].new_zeros(size_of(batch), size_of(batch))
        for i, one in enumerate(pieces):
            for other in pieces[i + 1 :] or ([one] if len(pieces) == 1 else []):
                both = [one] if other is one else [one, other]
                rows = torch.cat([torch.arange(each.start, each.stop, device=gram.device) for each in both])
                pair = _rows_of(batch, rows)
                gram[rows.unsqueeze(1), rows] = per_example.gram(self._problem, self._params, pair, bn=bn)
        return gram

    def _local_mean(self, question: Callable[[Problem, Batch], Tensor]) -> Tensor:
        terms = [share * question(self._problem, piece) for piece, share in _pieces(self._batch, self._parts.size)]
        return torch.stack(terms).sum()

    def _mean(self, question: Callable[[Oracle], Tree]) -> Tree:
        """The mean over pieces and processes of an answer that is a mean over a batch."""
        total: Tree | None = None
        for piece, share in _pieces(self._batch, self._parts.size):
            found = question(Oracle(self._problem, self._value_and_grad, self._params, piece))
            found = {name: share * leaf for name, leaf in found.items()} if share != 1 else found
            total = found if total is None else tree.add(total, found)
        assert total is not None, "a batch has an example"
        return self._parts.ranks.mean(total)


def _rows_of(batch: Batch, rows: Tensor) -> Batch:
    x, y, noise, state = batch
    chosen = lambda tensors: {name: leaf[rows] for name, leaf in tensors.items()}
    inputs = map_inputs(lambda each: each[rows], x)
    return Batch(inputs, y[rows], chosen(noise), ModelState(state.moments, chosen(state.carry)))


def _joined(
    found: Sequence[tuple[per_example.Statistics, int]], names: Sequence[Statistic], ranks: Ranks
) -> dict[str, Any]:
    """Statistics of the whole batch from those of its pieces, and those of all processes' from theirs."""
    parts, sizes = [each for each, _ in found], [size for _, size in found]
    values: dict[str, Any] = {"losses": ranks.gathered(torch.cat([part.losses for part in parts]))}
    for name in names:
        of_pieces: list[Any] = [getattr(part, name) for part in parts]
        if name == "sq_norms":
            values[name] = ranks.gathered(torch.cat(of_pieces))
        elif name == "grads":
            values[name] = {key: ranks.gathered(torch.cat([each[key] for each in of_pieces])) for key in of_pieces[0]}
        elif name in ("grad", "sum_of_squares"):
            values[name] = ranks.sum(_total(of_pieces))
    if "scatter" in names:
        examples = sum(sizes) * ranks.size
        mean = tree.scale(1.0 / examples, values["grad"])
        spread = [_around(part.scatter or {}, part.grad or {}, mean, size) for part, size in found]
        values["scatter"] = ranks.sum(_total(spread))
    return values


def _around(scatter: Tree, grad: Tree, mean: Tree, size: int) -> Tree:
    """The scatter of a piece around the mean of all: around its own, and the distance of both for each example."""
    return tree.map(lambda own, g, m: own + size * (g / size - m).square(), scatter, grad, mean)


def _total(trees: Sequence[Tree]) -> Tree:
    total, *rest = trees
    for each in rest:
        total = tree.add(total, each)
    return total
