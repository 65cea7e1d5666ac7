"""The vocabulary of the whole package.

A test problem is a pure function `loss(params, batch) -> (B,)`. This file names what goes in and what comes out;
everything else (gradients, curvature, the training step) is built from these values and `torch.func`.

Shapes, in every docstring: `B` batch, `C H W` image, `T` time, `V` vocabulary, `P` all parameters, `K` vectors,
`M` population members.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils import _pytree as pytree

Params = dict[str, Tensor]
"""Trainable parameters, keyed by dotted module names, in the order in which DeepOBS 1.1.2 creates its variables."""


Inputs = Any
"""What a net is called with: a tensor, or several of them, in a tuple (arguments in order) or a dict (by keyword).

Each has a leading axis of examples. (An alias of `Any`: nothing is gained by checks at each use.)
"""

Leaf = TypeVar("Leaf")


class ModelState(NamedTuple):
    """What a model remembers that is not differentiated.

    Attributes:
        moments: batch-norm statistics and constants such as the Hessian of `quadratic_deep`; no batch axis; they
            persist over a run.
        carry: recurrent state, leading axis `B`; zeroed at the start of every pass over the data. Empty means zeros.
    """

    moments: dict[str, Tensor]
    carry: dict[str, Tensor]


class Batch(NamedTuple):
    """A mini-batch: all that a loss needs besides the parameters.

    Attributes:
        x: inputs, leading axis `B`: a tensor, or a tuple or dict of tensors where the net takes several.
        y: targets, leading axis `B`; `(B, 0)` where there are none.
        noise: keep-masks of dropout and other draws by layer name, each with a leading `B`. A missing entry is
            neutral: nothing dropped, epsilon 0.
        state: the model's state before this batch.
    """

    x: Inputs
    y: Tensor
    noise: dict[str, Tensor]
    state: ModelState

    @classmethod
    def of(
        cls,
        x: Inputs,
        y: Tensor | None = None,
        noise: dict[str, Tensor] | None = None,
        state: ModelState | None = None,
    ) -> Batch:
        """A batch with what is left out filled in.

        Args:
            x: inputs, leading axis `B`; several in a tuple or a dict.
            y: targets; by default none, `(B, 0)`.
            noise: by default none.
            state: by default an empty one.

        Returns:
            The batch.

        >>> import torch
        >>> Batch.of(torch.zeros(4, 2)).y.shape
        torch.Size([4, 0])
        """
        if y is None:
            first = first_of(x)
            y = first.new_empty((first.shape[0], 0))
        return cls(x, y, dict(noise or {}), state or ModelState({}, {}))


def first_of(x: Inputs) -> Any:
    """The first of several inputs, or the only one."""
    if isinstance(x, dict):
        return next(iter(x.values()))
    return x[0] if isinstance(x, tuple) else x


def size_of(batch: Batch) -> int:
    """The number of examples, B; a function, since Dynamo 2.9 traces no property of a named tuple.

    >>> import torch
    >>> size_of(Batch((torch.zeros(3, 2), torch.zeros(3)), torch.zeros(3), {}, ModelState({}, {})))
    3
    """
    size: int = first_of(batch.x).shape[0]
    return size


def map_inputs(function: Callable[[Any], Leaf], x: Inputs) -> Any:
    """Applies a function to each of several inputs x, which stay a tuple or a dict, or to the only one.

    >>> map_inputs(len, {"ids": [1, 2], "mask": [0]}), map_inputs(len, "ab")
    ({'ids': 2, 'mask': 1}, 2)
    """
    if isinstance(x, dict):
        return {name: function(each) for name, each in x.items()}
    return tuple([function(each) for each in x]) if isinstance(x, tuple) else function(x)


def inputs_by_name(x: Inputs) -> dict[str, Any]:
    """Several inputs by their name or place, for messages; the only one under the empty name."""
    if isinstance(x, dict):
        return dict(x)
    return {str(place): each for place, each in enumerate(x)} if isinstance(x, tuple) else {"": x}


def arguments_of(x: Inputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as the positional and the keyword arguments of the net."""
    if isinstance(x, dict):
        return (), x
    return (x, {}) if isinstance(x, tuple) else ((x,), {})


class Evaluation(NamedTuple):
    """The test-phase result for each example.

    Attributes:
        losses: `(B,)`, without the penalty.
        correct: `(B,)` in `[0, 1]`, or None where the problem has no accuracy. A fraction where an example holds
            several predictions (a sequence).
    """

    losses: Float[Tensor, " B"]
    correct: Float[Tensor, " B"] | Bool[Tensor, " B"] | None


class Outer:
    """Per-example gradients of one parameter as sums of outer products: `grads[b] = rows[b] columns[b]^T`.

    Args:
        rows: `(B, m, T)`.
        columns: `(B, n, T)`; `m n` is the size of the parameter, flattened in this order.
    """

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        self.rows: Tensor = rows
        self._columns = columns

    @property
    def columns(self) -> Tensor:
        """`(B, n, T)`."""
        return self._columns

    @property
    def sizes(self) -> tuple[int, int, int]:
        """`m, n, T`."""
        return self.rows.shape[1], self._columns.shape[1], self.rows.shape[2]

    @property
    def columns_made(self) -> int:
        """How many numbers of each example are computed where `columns` are asked for; 0 where they are held."""
        return 0

    @property
    def columns_for_product(self) -> int:
        """How many of these `product` computes."""
        return 0

    def product(self) -> Tensor:
        """The gradients, `(B, m, n)`."""
        return self.rows @ self.columns.mT


BATCH_DIMS = Batch(0, 0, 0, ModelState(None, 0))  # type: ignore[arg-type]
"""The example axes of every `Batch`, as `torch.func.vmap` takes them in `in_dims`."""


def one_example(loss: Callable[[Params, Batch], Tensor]) -> Callable[[Params, Batch], Tensor]:
    """Turns a loss of a batch into the loss of one example, ready for `vmap`.

    Formula: `one_example(loss)(params, batch[n]) = loss(params, batch[n : n + 1])[0]`.

    Args:
        loss: `(params, batch) -> (B,)`.

    Returns:
        `(params, example) -> ()`, where `example` is a `Batch` without its example axes, as `vmap` hands it over with
        `in_dims=(None, BATCH_DIMS)`.
    """

    def unsqueeze(tree: Any) -> Any:
        return pytree.tree_map(lambda leaf: leaf.unsqueeze(0), tree)

    def loss_of_one(params: Params, example: Batch) -> Tensor:
        x, y, noise, carry = unsqueeze((example.x, example.y, example.noise, example.state.carry))
        return loss(params, Batch(x, y, noise, ModelState(example.state.moments, carry)))[0]

    return loss_of_one
