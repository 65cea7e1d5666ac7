"""A symmetric linear map on trees, which every derived quantity takes, and its mean over a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from deepobs_func import tree
from deepobs_func.base import Batch, Params, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.probes.contract import count_vectors
from deepobs_func.probes.many import many
from deepobs_func.tree import Tree


# No `__eq__`, `__hash__` and `__repr__` of its fields: Dynamo of torch 2.9 to 2.11 calls them before there are any.
@dataclass(frozen=True, eq=False, repr=False)
class LinearMap:
    """A symmetric matrix `(P, P)` that is known by its products.

    Attributes:
        product: `v -> A v` for one vector, tree in and tree out.
        like: a tree with the shapes, dtypes and device of the vectors.
        at_once: whether products with several vectors go through `vmap` (called only when there are several); else they
            are computed one after the other.

    >>> import torch
    >>> from deepobs_func import tree
    >>> double = LinearMap(lambda v: tree.scale(2.0, v), {"a": torch.zeros(2)})
    >>> import torch
    >>> double({"a": torch.tensor([1.0, 2.0])})
    {'a': tensor([2., 4.])}
    """

    product: Callable[[Tree], Tree]
    like: Params
    at_once: Callable[[], bool] = lambda: True

    def __call__(self, v: Tree) -> Tree:
        """`A v`, or `A v_1 ... A v_K` at once.

        Args:
            v: a tree like the parameters, or K of them with one leading axis on every leaf.

        Returns:
            A tree like `v`.

        Raises:
            ConfigError: `v` does not match the parameters.
        """
        count = count_vectors(self.like, v)
        v = {name: v[name] for name in self.like}
        return self.product(v) if count is None else many(self.product, at_once=self.at_once())(v)

    @property
    def size(self) -> int:
        """The number of rows, P."""
        return tree.size(self.like)

    def flat(self, vector: Tensor) -> Tensor:
        """`A v` of vectors `(P,)`, in the order of the tree."""
        return tree.flatten(self.product(tree.unflatten(vector, self.like)))

    def columns(self, matrix: Tensor) -> Tensor:
        """`A V` of a matrix of columns `(P, K)`."""
        return many(self.flat, at_once=self.at_once())(matrix.mT).mT


def examples(batch: Any) -> int:
    """The number of examples of a `Batch`.

    Raises:
        ConfigError: it is something else, whose examples cannot be counted.
    """
    if not isinstance(batch, Batch):
        raise ConfigError(
            f"The examples of a {type(batch).__name__} cannot be counted; pass count=, a function that does."
        )
    return size_of(batch)


def over(
    product: Callable[[Any, Tree], Tree],
    params: Params,
    batches: Iterable[Any],
    *,
    count: Callable[[Any], int] = examples,
) -> LinearMap:
    """The mean of a curvature product over all examples of a data set, one batch at a time.

    Formula: `A v = sum_i B_i A_i v / sum_i B_i`, over the batches i of `B_i` examples.

    Args:
        product: `(batch, v) -> A_i v`.
        params: a tree like the vectors.
        batches: an iterable that can be iterated again, such as a list.
        count: `batch -> B_i`.

    Returns:
        A map that goes through the batches at each product and keeps nothing between them.

    Raises:
        ConfigError: the batches are an iterator, which gives them only once; a single `Batch`; or none at all.

    >>> from deepobs_func import probes, problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> batches = [problem.fake_batch(size) for size in (8, 8, 3)]
    >>> hessian = probes.over(lambda batch, v: probes.hvp(problem, params, batch, v), params, batches)
    >>> hessian(params)["dense.0.weight"].shape
    torch.Size([10, 784])
    """
    if isinstance(batches, Batch):
        raise ConfigError("This is a single Batch; pass a list of batches, [batch].")
    if iter(batches) is batches:
        raise ConfigError(
            f"The batches are a {type(batches).__name__}, which gives them only once, and every product goes through "
            "all of them. Pass a list, or an object whose iter() starts anew."
        )

    def mean_product(v: Tree) -> Tree:
        total, examples = tree.zeros_like(params), 0
        for batch in batches:
            size = count(batch)
            total = tree.add(total, tree.scale(float(size), product(batch, v)))
            examples += size
        if examples == 0:
            raise ConfigError("There is no example in the batches; a mean over them needs at least one.")
        return tree.scale(1.0 / examples, total)

    return LinearMap(mean_product, params)
