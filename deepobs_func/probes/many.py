"""A function of one example or vector, for many: by `vmap`, or in a loop where an operation has no rule for that."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils import _pytree as pytree


def many(function: Callable[..., Any], in_dims: Any = 0, *, at_once: bool = True) -> Callable[..., Any]:
    """`torch.func.vmap(function, in_dims)`, or the same in a Python loop.

    Args:
        function: of trees of tensors.
        in_dims: as in `vmap`: one for all arguments, or a tuple with one for each.
        at_once: by `vmap`; else one after the other.
    """
    if at_once:
        return vmap(function, in_dims)

    def loop(*arguments: Any) -> Any:
        dims = in_dims if isinstance(in_dims, tuple) else (in_dims,) * len(arguments)
        size = next(leaf.shape[dim] for leaf, dim in leaves(arguments, dims) if dim is not None)
        results = []
        for n in range(size):
            select = functools.partial(_select, n)
            results.append(function(*(mapped(select, part, dim) for part, dim in zip(arguments, dims, strict=True))))
        return pytree.tree_map(lambda *parts: torch.stack(parts), *results)

    return loop


def _select(n: int, leaf: Tensor, dim: int) -> Tensor:
    return leaf.select(dim, n)


def leaves(batch: Any, dims: Any) -> list[tuple[Tensor, int | None]]:
    """The tensors of a batch with their example axes."""
    if dims is None or isinstance(dims, int):
        return [(leaf, dims) for leaf in pytree.tree_leaves(batch)]
    parts = batch.items() if isinstance(batch, dict) else enumerate(batch)
    return [pair for key, part in parts for pair in leaves(part, dims[key])]


def mapped(function: Callable[[Tensor, int], Tensor], batch: Any, dims: Any) -> Any:
    """The batch with a function of `(tensor, example axis)` applied to whatever has one."""
    if dims is None:
        return batch
    if isinstance(dims, int):
        return pytree.tree_map(lambda leaf: function(leaf, dims), batch)
    if isinstance(batch, dict):
        return {key: mapped(function, part, dims[key]) for key, part in batch.items()}
    parts = [mapped(function, part, dim) for part, dim in zip(batch, dims, strict=True)]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)


def sliced(batch: Any, dims: Any, piece: slice) -> Any:
    """Some of the examples of a batch."""
    return mapped(lambda leaf, dim: leaf.movedim(dim, 0)[piece].movedim(0, dim), batch, dims)
