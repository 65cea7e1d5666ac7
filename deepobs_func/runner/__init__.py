"""The runner: from a `RunConfig` to a `RunRecord`. `RunConfig` imports no torch; `run` does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy
from deepobs_func.runner.config import RunConfig as RunConfig

if TYPE_CHECKING:
    from deepobs_func.runner.loop import RunInterrupted as RunInterrupted
    from deepobs_func.runner.loop import run as run
    from deepobs_func.runner.step import compiled as compiled
    from deepobs_func.runner.step import make_step as make_step

_PATHS = {
    "run": "deepobs_func.runner.loop:run",
    "RunInterrupted": "deepobs_func.runner.loop:RunInterrupted",
    "compiled": "deepobs_func.runner.step:compiled",
    "make_step": "deepobs_func.runner.step:make_step",
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS, also=["RunConfig"])
