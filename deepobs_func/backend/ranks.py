"""The processes that train one net together, each on a shard of every batch, and what they tell each other.

Every process makes the same calls in the same order. Shards are of one size, so that a mean over the batch is the mean
over the processes.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

T = TypeVar("T")
LARGE = 2**20  # bytes of a tensor from which on a message of its own costs less than a copy


class Ranks:
    """One process among several; `ALONE` is one by itself.

    Attributes:
        rank: the number of this one, from 0.
        size: how many there are.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank: int = rank
        self.size: int = size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ranks) and (self.rank, self.size) == (other.rank, other.size)

    def __hash__(self) -> int:
        return hash((self.rank, self.size))

    def __repr__(self) -> str:
        return f"Ranks({self.rank}, {self.size})"

    def sum(self, tree: T) -> T:
        """The sum over the processes of each floating-point tensor of a tree, in one message for each type.

        Args:
            tree: of tensors of the same shapes everywhere; what is no floating-point tensor stays as it is. A sparse
                one, such as the gradient of an embedding, becomes dense: each process has other rows of it.
        """
        return tree if self.size == 1 else self._reduced(tree, 1)

    def _reduced(self, tree: T, divisor: int, owned: bool = False) -> T:
        leaves, structure = pytree.tree_flatten(tree)
        places: dict[Any, list[int]] = {}
        whole: dict[int, Tensor] = {}  # by the place of their memory
        for place, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                leaf = leaves[place] = _dense(leaf)
                if owned and leaf.nbytes >= LARGE and leaf.is_contiguous() and leaf.data_ptr() not in whole:
                    whole[leaf.data_ptr()] = leaf
                else:
                    places.setdefault((leaf.dtype, leaf.device), []).append(place)
        for of_type in places.values():
            flat = torch.cat([leaves[place].detach().flatten() for place in of_type])
            dist.all_reduce(flat)
            if divisor > 1:
                flat /= divisor
            for place, part in zip(of_type, flat.split([leaves[place].numel() for place in of_type]), strict=True):
                leaves[place] = part.view(leaves[place].shape)
        for leaf in whole.values():  # after the copies of others that share their memory
            dist.all_reduce(leaf.detach())
            if divisor > 1:
                leaf.detach().div_(divisor)
        return pytree.tree_unflatten(leaves, structure)

    def mean(self, tree: T, *, owned: bool = False) -> T:
        """The mean over the processes of each floating-point tensor of a tree.

        Args:
            tree: as of `sum`.
            owned: whether nobody else has its tensors, so that large ones may change in place, without a copy.
        """
        return tree if self.size == 1 else self._reduced(tree, self.size, owned)

    def gathered(self, shard: Tensor, axis: int = 0) -> Tensor:
        """The shards of all processes, one after the other along an axis; the same everywhere."""
        if self.size == 1:
            return shard
        shard = shard.detach()
        of_bits = shard.to(torch.uint8) if shard.dtype == torch.bool else shard  # which nccl and gloo both know
        parts = [torch.empty_like(of_bits, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, of_bits.contiguous())
        return torch.cat(parts, axis).to(shard.dtype)

    def shard(self, whole: Tensor, axis: int = 0) -> Tensor:
        """The part of this process of a tensor, along an axis that the number of processes divides."""
        if self.size == 1:
            return whole
        size = whole.shape[axis] // self.size
        return whole.narrow(axis, self.rank * size, size)

    def shards(self, tree: T, axis: int = 0) -> T:
        """The same of each tensor of a tree."""
        if self.size == 1:
            return tree
        return pytree.tree_map(lambda leaf: self.shard(leaf, axis) if isinstance(leaf, Tensor) else leaf, tree)

    def from_first(self, value: T) -> T:
        """What process 0 has, everywhere: any object that can be pickled."""
        if self.size == 1:
            return value
        box: list[Any] = [value if self.rank == 0 else None]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def by_first(self, function: Callable[[], T]) -> T:
        """What a function returns in process 0, which alone calls it; what it raises there is raised everywhere.

        Args:
            function: without arguments; it returns what can be pickled.
        """
        if self.size == 1:
            return function()
        value: T | None = None
        mine: Exception | None = None
        if self.rank == 0:
            try:
                value = function()
            except Exception as raised:  # the others would wait for process 0
                mine = raised
        value, theirs = self.from_first((value, _sendable(mine)))
        if mine is not None or theirs is not None:
            raise mine or theirs  # type: ignore[misc]  # one of them is there
        return value  # type: ignore[return-value]

    def all(self, value: T) -> Sequence[T]:
        """What each process has, in their order."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found


def _dense(leaf: Tensor) -> Tensor:
    return leaf if leaf.layout is torch.strided else leaf.to_dense()


def _sendable(error: Exception | None) -> Exception | None:
    """An exception that can be pickled and read again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # what a class of exceptions raises where it is made of other arguments than its message
        return RuntimeError(f"Process 0 raised {type(error).__name__}: {error}")
    return error


ALONE = Ranks()


def current() -> Ranks:
    """Those of the default process group; `ALONE` where there is none."""
    if not (dist.is_available() and dist.is_initialized()):
        return ALONE
    return Ranks(dist.get_rank(), dist.get_world_size())


def _total(x: Tensor) -> Tensor:
    """The sum over the processes, a new tensor."""
    total = _dense(x.detach()).clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


class Summed(torch.autograd.Function):
    """The sum over the processes of a tensor that all of them go on with, each towards a loss of its own.

    `ranks` processes have `x_r`, and each gets `sum_q x_q`. Its gradient is the sum of theirs, and so is its tangent,
    so that every way of differentiating goes through it.
    """

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _total(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: it is linear."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return Summed.apply(g)

    @staticmethod
    def jvp(ctx: Any, t: Tensor) -> Tensor:
        return Summed.apply(t)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], x: Tensor) -> tuple[Tensor, Any]:
        return Summed.apply(x), in_dims[0]


class _Shared(torch.autograd.Function):
    """Tensors that are the same everywhere, of each of which a process uses a copy: their gradients are summed."""

    @staticmethod
    def forward(*leaves: Tensor) -> tuple[Tensor, ...]:
        return tuple([leaf.view_as(leaf) for leaf in leaves])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Nothing is kept: it is linear."""

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple([_Whole.apply(grad) for grad in grads])


class _Whole(torch.autograd.Function):
    """The sum over the processes as a value that is the same everywhere: its gradient, too, is the same everywhere."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _total(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Nothing is kept: it is linear."""

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return _Shared.apply(g)[0]


def shared(params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters for a loss of this process's shard, where its mean, by `mean_of`, is differentiated with a graph."""
    return dict(zip(params, _Shared.apply(*params.values()), strict=True))


def mean_of(loss: Tensor, ranks: Ranks) -> Tensor:
    """The mean of what each process has, of parameters that went through `shared`; it has derivatives of any order."""
    return _Whole.apply(loss) / ranks.size
