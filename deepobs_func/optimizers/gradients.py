"""The gradients and closures that a `torch.optim.Optimizer` works on, from the oracle of a step."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func.base import Params
from deepobs_func.optimizers.base import Oracle

Leaves = dict[str, nn.Parameter]


class Asked:
    """The oracle of a step, wherever the leaves are, and how often it is called.

    Args:
        oracle: of the point of the step.
        point: where that is, as tensors that nobody changes.
        calls: by kind, to be added to.
    """

    def __init__(self, oracle: Oracle, point: Params, calls: dict[str, int]) -> None:
        self.oracle: Oracle = oracle
        self.point: Params = point
        self.calls: dict[str, int] = calls
        self._is_differentiated = False

    def move(self, leaves: Leaves) -> None:
        """Goes to where the leaves are."""
        self.point = copied(leaves)
        self.oracle, self._is_differentiated = self.oracle.at(self.point), False

    def grad(self) -> Params:
        """The gradient, which is computed once at each point."""
        self.calls["gradients"] += not self._is_differentiated
        self._is_differentiated = True
        return self.oracle.grad()


class Closure:
    """What a class calls to have value and gradients at wherever it has put the leaves.

    Args:
        leaves: all parameters.
        own: those of the class, which it moves; the others count as where they are when it does.
        asked: the oracle.
        graph: whether the gradients keep their graph, for classes that differentiate them.
        sparse: whether a gradient holds only its rows that are not zero.
    """

    def __init__(self, leaves: Leaves, own: Leaves, asked: Asked, *, graph: bool, sparse: bool) -> None:
        self.graph = graph
        self._leaves, self._own, self._asked, self._sparse = leaves, own, asked, sparse
        self._passes = dict.fromkeys(own, 0)  # backward, through each gradient
        self._graph: tuple[Tensor, Params] | None = None  # value and gradients where the leaves are

    def __call__(self) -> Tensor:
        """Sets `.grad` of every leaf of its own, and returns the objective there, 0-d."""
        # Compared by value: what a class does through `.data`, the version counter does not see.
        if any(not torch.equal(leaf, self._asked.point[name]) for name, leaf in self._own.items()):
            self._asked.move(self._leaves)
            self._graph = None
        if self.graph:
            return self._differentiate()
        self.set(self._asked.grad())
        return self._asked.oracle.value().detach().clone()

    def end(self) -> None:
        """Counts the products: backward passes through the gradient, of those parameters that had most of them."""
        self._asked.calls["products"] += max(self._passes.values(), default=0)

    def set(self, grads: Params) -> None:
        """Gives each leaf a gradient of its own, which the class may change."""
        for name, leaf in self._own.items():
            grad = grads[name].detach().clone()
            leaf.grad = self._laid_out(grad)

    def _laid_out(self, grad: Tensor) -> Tensor:
        """Sparse for the one class that takes no other; dense for the rest, of which few take any."""
        if self._sparse and grad.ndim:
            return grad if grad.is_sparse else grad.to_sparse(1)
        return grad.to_dense()

    def _differentiate(self) -> Tensor:
        """As `loss.backward(create_graph=True)`. A transform of the gradient changes its values, not its graph."""
        if self._graph is None or any(self._passes.values()):  # a pass through a graph frees it
            self._graph = self._make_graph()
        value, grads = self._graph
        changed = getattr(self._asked.oracle, "changed", None)
        values = changed({name: grad.detach() for name, grad in grads.items()}) if changed else {}
        for name, leaf in self._own.items():
            leaf.grad = grads[name].clone()  # no view, so that a class may call `detach_`
            if leaf.grad.requires_grad:
                leaf.grad.register_hook(functools.partial(self._passed, name))
            if values:
                with torch.no_grad():
                    leaf.grad.copy_(values[name])
        return value.detach().clone()

    def _make_graph(self) -> tuple[Tensor, Params]:
        """The objective where the leaves are, and its gradients with their graph."""
        point = dict[str, Tensor](self._leaves)
        if len(self._own) < len(point):
            point |= {name: self._asked.point[name] for name in point if name not in self._own}
        with torch.enable_grad():
            value = self._asked.oracle.loss_at(point)
            own = list(self._own.values())
            grads = torch.autograd.grad(value, own, create_graph=True, allow_unused=True, materialize_grads=True)
        self._asked.calls["gradients"] += 1
        return value, dict(zip(self._own, grads, strict=True))

    def _passed(self, name: str, grad: Tensor) -> None:
        self._passes[name] += 1


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
        names = {name for each in (code, *inner) for name in each.co_names}
        for name in names:
            known = [inspect.getattr_static(cls, name, None) or function.__globals__.get(name)]
            if "super" in names:  # any of those that it hides may be meant
                known += [vars(base).get(name) for base in cls.__mro__]
            found = [getattr(each, "__func__", each) for each in known]  # of a class method or a static one
            waiting += [each for each in found if isinstance(each, types.FunctionType)]
