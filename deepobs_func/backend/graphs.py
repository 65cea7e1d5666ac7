"""CUDA graphs: the kernels of a whole step, recorded once and launched as one.

A step of a small net is a few hundred kernels of some microseconds each, and the processor takes as long to launch
each of them. A recorded graph is launched as one. It reads and writes memory at fixed addresses: its inputs are copied
there, and its results are copied out, so that a step stays a function of values.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

MOST_GRAPHS = 8  # of a function
_LOCK = threading.Lock()  # graphs share their memory, so one at a time is launched and read


class _Graph(NamedTuple):
    """A recorded call: where its inputs are written, and where its results are found after a launch."""

    inputs: list[Tensor]
    results: list[Any]
    structure: Any
    launch: Callable[[], None]


class Graphed:
    """A pure function of trees of tensors, whose kernels are recorded at the first call with tensors of some shapes.

    Args:
        function: it looks at no value, since a recording has none; its results share no memory with its arguments.
        fixed: positions of arguments whose tensors stay where they are, such as a data set; they are not copied.
        capture: records a call; by default a CUDA graph does. See `captured`.
    """

    def __init__(
        self, function: Callable[..., Any], fixed: Collection[int] = (), capture: Callable[..., Any] | None = None
    ) -> None:
        self._function, self._fixed, self._capture = function, frozenset(fixed), capture or captured
        self._graphs: dict[Any, _Graph] = {}

    def __call__(self, *arguments: Any) -> Any:
        leaves, structure = pytree.tree_flatten(arguments)
        fixed = self._fixed_leaves(arguments)
        key = (structure, _settings(), tuple(_kind(leaf, held) for leaf, held in zip(leaves, fixed, strict=True)))
        moved = [leaf for leaf, held in zip(leaves, fixed, strict=True) if isinstance(leaf, Tensor) and not held]
        with _LOCK:
            graph = self._graphs.get(key)
            if graph is None:
                if len(self._graphs) >= MOST_GRAPHS:
                    self._graphs.pop(next(iter(self._graphs)))
                graph = self._graphs[key] = self._recorded(leaves, fixed, structure)
            if moved:
                torch._foreach_copy_(graph.inputs, moved, non_blocking=True)
            graph.launch()
            return pytree.tree_unflatten(_copies(graph.results), graph.structure)

    def _fixed_leaves(self, arguments: tuple[Any, ...]) -> list[bool]:
        counts = [(pytree.tree_structure(argument).num_leaves, place) for place, argument in enumerate(arguments)]
        return [place in self._fixed for count, place in counts for _ in range(count)]

    def _recorded(self, leaves: list[Any], fixed: list[bool], structure: Any) -> _Graph:
        own = [
            leaf.detach().clone() if isinstance(leaf, Tensor) and not held else leaf
            for leaf, held in zip(leaves, fixed, strict=True)
        ]
        arguments = pytree.tree_unflatten(own, structure)
        found, launch = self._capture(lambda: self._function(*arguments))
        results, of_results = pytree.tree_flatten(found)
        inputs = [leaf for leaf, held in zip(own, fixed, strict=True) if isinstance(leaf, Tensor) and not held]
        return _Graph(inputs, results, of_results, launch)


def _kind(leaf: Any, held: bool) -> Any:
    """What a recording depends on."""
    if not isinstance(leaf, Tensor):
        return leaf
    return (leaf.shape, leaf.stride(), leaf.dtype, leaf.device, leaf.data_ptr() if held else None)


def _settings() -> tuple[bool, ...]:
    """What kernels are chosen by besides their arguments."""
    products, convolutions = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    return products, convolutions, torch.are_deterministic_algorithms_enabled()


def _copies(results: list[Any]) -> list[Any]:
    """The results where no later launch writes."""
    tensors = [leaf for leaf in results if isinstance(leaf, Tensor)]
    copies = [torch.empty_like(leaf) for leaf in tensors]
    if tensors:
        torch._foreach_copy_(copies, tensors, non_blocking=True)
    left = iter(copies)
    return [next(left) if isinstance(leaf, Tensor) else leaf for leaf in results]


def captured(call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """Records a call: its results, and what launches it again and writes them anew.

    Raises:
        RuntimeError: the call waits for the device, as when it looks at a value.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        call()  # it compiles, and libraries choose their kernels and take their workspaces
        torch.cuda.synchronize()
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("error")  # a recording that fails half-way would leave torch's allocator in it
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=_pool()):
        results = call()
    return results, graph.replay


@cache
def _pool() -> Any:
    """The memory of all graphs: no two are launched at once, and what one leaves is copied before the next."""
    return torch.cuda.graph_pool_handle()
