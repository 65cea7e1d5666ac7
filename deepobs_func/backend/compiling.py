"""Compiled functions: one graph for fixed shapes, with few guards."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from deepobs_func.backend.kernels import current
from deepobs_func.backend.matmul_pass import Products

F = TypeVar("F", bound=Callable[..., Any])

# torch counts recompilations by code object, and two problems that go through the same lines are none of each other.
_ISOLATED = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}


def compiled(function: F, problem: Any = None, *, onednn: bool | None = None) -> F:
    """Compiles a function to one graph for fixed shapes, with a recompilation count of its own where torch can.

    What it closes over is taken to stay as it is, and is not checked again at every call: 50 microseconds, a third of a
    short step.

    Args:
        function: pure, of trees of tensors.
        problem: whose step it is; then some products of matrices become smaller (`backend/matmul_pass.py`). With batch
            norm, sums that are read more than once are stored: the residual stream of WRN-16-4 is otherwise computed
            anew from all its addends, which are kept for it (1.1 times the memory, 1.03 the time).
        onednn: whether large products of the problem's step go to oneDNN; by default as the kernels in force have it.

    Returns:
        The compiled function; it is compiled at its first call.

    >>> from deepobs_func import problems
    >>> problem = problems.get("quadratic_deep")
    >>> loss = compiled(problem.loss, problem)
    """
    options: dict[str, Any] = {"guard_filter_fn": functools.partial(_of_arguments, function)}
    if problem is not None:
        options["post_grad_custom_post_pass"] = Products(onednn=current().onednn if onednn is None else onednn)
    if problem is not None and not problem.separable:
        options["realize_reads_threshold"] = 1
    return torch.compile(function, fullgraph=True, dynamic=False, options=options, **_ISOLATED)  # type: ignore[call-overload]


def _of_arguments(function: Callable[..., Any], guards: Sequence[Any]) -> list[bool]:
    """Which of torch's guards are kept: not those of other local and global names than the function's arguments."""
    arguments = set(inspect.signature(function).parameters)

    def kept(name: str) -> bool:  # e.g. "carry.params['w']" or "L['carry'].params['w']"; torch's own state has none
        root = re.split(r"\W+", name.removeprefix("L['"), maxsplit=1)[0]
        return root in arguments or not name

    return [kept(guard.name) for guard in guards]
