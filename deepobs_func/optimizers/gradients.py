"""The gradients and closures that a `torch.optim.Optimizer` works on, from the oracle of a step."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func.base import Params
from deepobs_func.optimizers.base import Oracle

Leaves = dict[str, nn.Parameter]


class Closure:
    """What a class calls to have value and gradients at wherever it has put the leaves.

    Args:
        leaves: the parameters, which the class owns.
        point: where they are, as tensors that nobody changes.
        oracle: of that point.
        graph: whether the gradients keep their graph, for classes that differentiate them.
        sparse: whether a gradient holds only its rows that are not zero.
    """

    def __init__(self, leaves: Leaves, point: Params, oracle: Oracle, *, graph: bool, sparse: bool) -> None:
        self._leaves, self._point, self._oracle = leaves, point, oracle
        self._graph, self._sparse = graph, sparse

    def __call__(self) -> Tensor:
        """Sets `.grad` of every leaf, and returns the objective there, 0-d."""
        # Compared by value: what a class does through `.data`, the version counter does not see.
        if any(not torch.equal(leaf, self._point[name]) for name, leaf in self._leaves.items()):
            self._point = copied(self._leaves)
            self._oracle = self._oracle.at(self._point)
        if self._graph:
            self._differentiate()
        else:
            self.set(self._oracle.grad())
        return self._oracle.value().detach().clone()

    def set(self, grads: Params) -> None:
        """Gives each leaf a gradient of its own, which the class may change."""
        for name, leaf in self._leaves.items():
            grad = grads[name].detach().clone()
            leaf.grad = self._laid_out(grad)

    def _laid_out(self, grad: Tensor) -> Tensor:
        """Sparse for the one class that takes no other; dense for the rest, of which few take any."""
        if self._sparse and grad.ndim:
            return grad if grad.is_sparse else grad.to_sparse(1)
        return grad.to_dense()

    def _differentiate(self) -> None:
        """As `loss.backward(create_graph=True)`."""
        leaves = list(self._leaves.values())
        with torch.enable_grad():
            value = self._oracle.loss_at(dict(self._leaves))
            grads = torch.autograd.grad(value, leaves, create_graph=True, allow_unused=True, materialize_grads=True)
        for leaf, grad in zip(leaves, grads, strict=True):
            leaf.grad = grad.clone()  # no view, so that a class may call `detach_`


def copied(leaves: Mapping[str, Tensor]) -> Params:
    """Tensors of their own."""
    return {name: leaf.detach().clone() for name, leaf in leaves.items()}


def takes_closure(instance: torch.optim.Optimizer) -> bool:
    """Whether its `step` has a parameter for a closure."""
    return "closure" in inspect.signature(type(instance).step).parameters


def differentiates(instance: torch.optim.Optimizer) -> bool:
    """Whether a class, or one that it wraps, takes derivatives of its gradients, which then need a graph.

    It is read off the code: `torch.autograd.grad` in `step`, or in what that calls of its own class or module.
    """
    wrapped = (held for held in vars(instance).values() if isinstance(held, torch.optim.Optimizer))
    return any(_calls_autograd(type(each)) for each in (instance, *wrapped))


def _calls_autograd(cls: type) -> bool:
    return any({"autograd", "grad"} <= set(code.co_names) for code in _reached(cls))


def _reached(cls: type) -> Iterator[types.CodeType]:
    """The code of `step` and of the functions of its class and modules that it names, and so on."""
    waiting: list[Callable[..., Any]] = [cls.step]  # type: ignore[attr-defined]
    seen: set[types.CodeType] = set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        code = getattr(function, "__code__", None)
        if code is None or code in seen or function.__module__.split(".")[0] == "torch":
            continue
        seen.add(code)
        yield code
        inner = [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
        yield from inner
        for name in {name for each in (code, *inner) for name in each.co_names}:
            found = inspect.getattr_static(cls, name, None) or function.__globals__.get(name)
            found = getattr(found, "__func__", found)  # of a class method or a static one
            if isinstance(found, types.FunctionType):
                waiting.append(found)
