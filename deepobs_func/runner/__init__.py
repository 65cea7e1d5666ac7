"""The runner: from a `RunConfig` to a `RunRecord`. `RunConfig` imports no torch; `run` does."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from deepobs_func.runner.config import RunConfig

if TYPE_CHECKING:
    from deepobs_func.runner.loop import RunInterrupted as RunInterrupted
    from deepobs_func.runner.loop import run as run
    from deepobs_func.runner.step import compiled as compiled
    from deepobs_func.runner.step import make_step as make_step

__all__ = ["RunConfig", "RunInterrupted", "compiled", "make_step", "run"]

_LAZY = {
    "run": "deepobs_func.runner.loop:run",
    "RunInterrupted": "deepobs_func.runner.loop:RunInterrupted",
    "compiled": "deepobs_func.runner.step:compiled",
    "make_step": "deepobs_func.runner.step:make_step",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return pkgutil.resolve_name(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
