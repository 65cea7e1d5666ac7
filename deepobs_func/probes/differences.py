"""Finite differences, with which every way to a derivative is compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from deepobs_func import tree
from deepobs_func.probes.jacobians import Tensors
from deepobs_func.tree import Tree

STEPS = {torch.float64: (1e-6, 1e-7, 1e-8), torch.float32: (1e-2, 3e-3, 1e-3)}  # of the differences, one by one
TOLERANCES = {torch.float64: 1e-4, torch.float32: 5e-2}  # relative; what torch gets wrong is off by percents


class Differences:
    """Finite differences of a function along a direction, for ever smaller steps.

    A step across a kink, as of a ReLU, spoils a difference; the chance shrinks with the step. What the function
    detaches is held at its value in the middle, as its derivatives take it.

    Args:
        function: of a tree, to a list of tensors.
        point, direction: trees.
    """

    def __init__(self, function: Callable[[Tree], Tensors], point: Tree, direction: Tree) -> None:
        self._function, self._point, self._direction = function, point, direction
        self._held = _Held()
        dtype = next(iter(point.values())).dtype
        self._steps = STEPS.get(dtype, STEPS[torch.float32])
        self.tolerance: float = TOLERANCES.get(dtype, 5e-2)
        self._found: list[Tensors] = []

    def __iter__(self) -> Iterator[Tensors]:
        for index, step in enumerate(self._steps):
            if index == len(self._found):
                self._found.append(self._at(step))
            yield self._found[index]

    def _at(self, step: float) -> Tensors:
        if not self._held.values:
            with self._held.remembering():
                self._function(self._point)
        ends = []
        for side in (step, -step):
            with self._held.replaying():
                ends.append(self._function(tree.add(self._point, tree.scale(side, self._direction))))
        return [(ahead - behind).detach() / (2 * step) for ahead, behind in zip(*ends, strict=True)]


class _Held(TorchFunctionMode):
    """Remembers what is detached while gradients are recorded, and returns the same at another point."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self._next: int | None = None

    @contextmanager
    def remembering(self) -> Iterator[None]:
        self.values, self._next = [], None
        with self:
            yield

    @contextmanager
    def replaying(self) -> Iterator[None]:
        self._next = 0
        with self:
            yield

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func not in _DETACHING or not torch.is_grad_enabled() or not args[0].requires_grad:
            return found
        if self._next is None:
            self.values.append(found)
        elif self._next < len(self.values):
            found = self.values[self._next]
            self._next += 1
        return found


_DETACHING = (Tensor.detach, Tensor.data.__get__)  # type: ignore[attr-defined]  # a property of C


def gradient(function: Callable[[Tree], Tensor], point: Tree) -> Tensors:
    """The gradient of a 0-d function by `torch.autograd`, with which everything else is compared."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in point.items()}
    with torch.enable_grad():
        value = function(leaves)
        if not value.requires_grad:
            return [torch.zeros_like(leaf) for leaf in leaves.values()]
        grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return [grad.detach().to_dense() if grad.layout != torch.strided else grad.detach() for grad in grads]


def nodes(value: Tensor) -> set[str]:
    """The names of the operations that a value is differentiated through, as autograd has them."""
    found: set[str] = set()
    seen, waiting = set(), [value.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            found.add(f"{node.name()}, padding" if _pads(node) else node.name())
            waiting += [following for following, _ in node.next_functions]
    return found


def _pads(node: Any) -> bool:
    """Whether an embedding has a row that gets no gradient, which torch's forward mode does not know."""
    return 0 <= getattr(node, "_saved_padding_idx", -1) < 2**63


def fault(way: Callable[[], Tensors], references: Iterable[Tensors], tolerance: float | None = None) -> str | None:
    """What is wrong with a result that should equal one of the references, the last of which is worst."""
    if tolerance is None:
        assert isinstance(references, Differences)
        tolerance = references.tolerance
    try:
        found = way()
    except Exception as error:  # what a user's code raises, under any transform
        return raised(error)
    distances = []
    for reference in references:
        if not all(bool(part.isfinite().all()) for part in reference):
            return None  # nothing to compare with: the loss itself is not finite or not smooth there
        distances.append(relative_distance(found, reference))
        if distances[-1] <= tolerance:
            return None
    return f"is {100 * min(distances):.2g} % off finite differences"


def raised(error: Exception) -> str:
    """What a function raised, in words and in one line."""
    text = str(error).strip() or "no message"
    return f"raises {type(error).__name__}: {text.splitlines()[0][:200].rstrip('.')}"


def relative_distance(found: Tensors, right: Tensors) -> float:
    """The largest relative distance of a tensor from what it should be; small tensors count by 1e-3 of the whole."""
    whole = torch.stack([part.norm() for part in right]).norm().item()
    worst = 0.0
    for a, b in zip(found, right, strict=True):
        scale = max(b.norm().item(), 1e-3 * whole)
        distance = (a.detach() - b).norm().item()
        worst = max(worst, distance / scale if scale else distance * 1e6)
    return worst if worst == worst else float("inf")  # NaN is as far as can be
