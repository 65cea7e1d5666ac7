"""The pass that is under way: layers of a user's module are called by its own code, which knows of none."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from deepobs_func.nets.layers import Pass
from deepobs_func.probes.formulas import called


class _InForce(threading.local):
    """Each thread has its own."""

    p: Pass | None = None


_in_force = _InForce()


class _UnderWay(TorchFunctionMode):
    """Holds a pass on torch's stack of modes, and changes no function.

    In a branch of `torch.cond` the compiler refuses to set what is outside of it, but not to put a mode on the stack.
    """

    def __init__(self, p: Pass) -> None:
        super().__init__()
        self.p = p

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return called(func, args, kwargs or {})


def current() -> Pass:
    """The pass that is under way; where a layer is called by itself, one without noise."""
    p = _on_the_stack() if torch.compiler.is_compiling() else _in_force.p
    return Pass(True, {}, {}) if p is None else p


def _on_the_stack() -> Pass | None:
    """That of the innermost mode that holds one."""
    for index in range(torch._C._len_torch_function_stack() - 1, -1, -1):
        mode = torch._C._get_function_stack_at(index)
        if isinstance(mode, _UnderWay):
            return mode.p
    return None


class passing:  # noqa: N801  # a context manager, named as one reads it
    """Within it, a pass is under way."""

    def __init__(self, p: Pass) -> None:
        self._p = p

    def __enter__(self) -> None:
        self._before = _in_force.p
        _in_force.p = self._p

    def __exit__(self, *exception: object) -> None:
        _in_force.p = self._before


def under_way(p: Pass) -> passing | _UnderWay:
    """A context within which a pass is under way: by the stack where the compiler looks on, else by the thread."""
    return _UnderWay(p) if torch.compiler.is_compiling() else passing(p)
