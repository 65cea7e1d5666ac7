"""Compiled functions: one graph for fixed shapes, with few guards."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch.torch_version import TorchVersion

from deepobs_func.backend.eager import is_traced
from deepobs_func.backend.kernels import current
from deepobs_func.backend.matmul_pass import Products, Zeros

P = ParamSpec("P")
R = TypeVar("R")
ATTEMPTS = 3
MOST_GRAPHS = 8  # of a function: torch's own limit of recompilations

# torch counts recompilations by code object, and two problems that go through the same lines are none of each other.
_ISOLATED = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}


def compiled(
    function: Callable[P, R], problem: Any = None, *, onednn: bool | None = None, ahead: bool = True
) -> Callable[P, R]:
    """Compiles a function to one graph for fixed shapes, with a recompilation count of its own where torch can.

    What it closes over is taken to stay as it is, and is not checked again at every call: 50 microseconds, a third of a
    short step.

    Args:
        function: pure, of trees of tensors.
        problem: whose step it is; then some products of matrices become smaller (`backend/matmul_pass.py`; products
            with zeros are left out in any case). With batch or group norm, sums that are read more than once are
            stored: the residual stream is otherwise computed anew from all its addends, which are kept for it (of
            WRN-16-4 1.1 times the memory, 1.03 the time; of cifar10_resnet18_gn 1.09 the time).
        onednn: whether large products of the problem's step go to oneDNN; by default as the kernels in force have it.
        ahead: whether, from torch 2.13 on, it is compiled ahead of its calls: each takes 12 microseconds less, and the
            first one 1 to 3 seconds more where torch has the code in its cache.

    Returns:
        The compiled function; it is compiled at its first call.

    >>> from deepobs_func import problems
    >>> problem = problems.get("quadratic_deep")
    >>> loss = compiled(problem.loss, problem)
    """
    options: dict[str, Any] = {"guard_filter_fn": functools.partial(_of_arguments, function)}
    replaced = Zeros() if problem is None else Products(onednn=current().onednn if onednn is None else onednn)
    options["post_grad_custom_post_pass"] = replaced
    if problem is not None and (not problem.separable or _has_group_norm(problem)):
        options["realize_reads_threshold"] = 1
    return _Compiled(function, options, ahead)


def _has_group_norm(problem: Any) -> bool:
    """Whether its net has this package's group norm or torch's."""
    return any(type(layer).__name__ == "GroupNorm" for layer in problem.net.modules())


class _Compiled:
    """A function with a graph for each kind of arguments.

    torch's own way into a compiled function takes 22 microseconds, half of a step of `quadratic_deep`; into one that is
    compiled ahead of its calls, 10. That is experimental in torch: a function for which it fails goes torch's own way
    from then on.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any], ahead: bool) -> None:
        functools.update_wrapper(self, function, updated=())
        compile: Any = torch.compile  # whose overloads do not know all options
        self._compiled = compile(function, fullgraph=True, dynamic=False, options=options, **_ISOLATED)
        self._ahead = ahead and TorchVersion(torch.__version__) >= "2.13"  # the releases on which it was tried
        self._graphs: list[Any] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if is_traced():
            return self._compiled(*args, **kwargs)
        graph = self._graph_for(args, kwargs)
        if graph is None and self._ahead and len(self._graphs) < MOST_GRAPHS:
            try:
                graph = self._compiled_ahead(args, kwargs)
            except Exception:
                if self._graphs and torch._dynamo.config.error_on_recompile:
                    raise
                result = self._compiled(*args, **kwargs)  # a mistake of the function's is raised here, as torch says it
                self._ahead = False
                return result
        return self._compiled(*args, **kwargs) if graph is None else graph(*args, **kwargs)

    def _graph_for(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The graph that was made for such arguments, if there is one."""
        return next((graph for graph in self._graphs if graph.guard_check(*args, **kwargs)), None)

    def _compiled_ahead(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Makes a graph for these arguments; one at a time in a process, as torch does."""
        from torch._dynamo.convert_frame import compile_lock  # here, since it takes seconds
        from torch._dynamo.exc import RecompileError

        with compile_lock:
            graph = self._graph_for(args, kwargs)  # of another thread, which was faster
            if graph is None:
                if self._graphs and torch._dynamo.config.error_on_recompile:
                    raise RecompileError("There is a graph for other arguments, and error_on_recompile is set.")
                graph = self._traced(args, kwargs)
                graph.disable_guard_check()  # it is made before each call
                self._graphs.append(graph)
        return graph

    def _traced(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        from torch._dynamo.exc import RestartAnalysis

        for _ in range(ATTEMPTS - 1):
            try:
                return self._compiled.aot_compile((args, kwargs))
            except RestartAnalysis:  # torch has noted what to do otherwise; a call would begin anew by itself
                continue
        return self._compiled.aot_compile((args, kwargs))


def _of_arguments(function: Callable[..., Any], guards: Sequence[Any]) -> list[bool]:
    """Which of torch's guards are kept: not those of other local and global names than the function's arguments."""
    arguments = set(inspect.signature(function).parameters)

    def kept(name: str) -> bool:  # e.g. "carry.params['w']" or "L['carry'].params['w']"; torch's own state has none
        root = re.split(r"\W+", name.removeprefix("L['"), maxsplit=1)[0]
        return (root in arguments and not name.endswith(".__class__")) or not name

    return [kept(guard.name) for guard in guards]
