"""The runner: from a `RunConfig` to a `RunRecord`. `RunConfig` imports no torch; the rest does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy
from deepobs_func.runner.config import RunConfig as RunConfig

if TYPE_CHECKING:
    from deepobs_func.backend.compiling import compiled as compiled
    from deepobs_func.runner.execution import Execution as Execution
    from deepobs_func.runner.loop import Run as Run
    from deepobs_func.runner.loop import RunInterrupted as RunInterrupted
    from deepobs_func.runner.loop import run as run
    from deepobs_func.runner.plan import make_plan as make_plan
    from deepobs_func.runner.population.members import Member as Member
    from deepobs_func.runner.population.members import Population as Population
    from deepobs_func.runner.population.members import PopulationInterrupted as PopulationInterrupted
    from deepobs_func.runner.population.members import structure as structure
    from deepobs_func.runner.population.running import run_members as run_members
    from deepobs_func.runner.population.running import run_population as run_population
    from deepobs_func.runner.runtime import Entrant as Entrant
    from deepobs_func.runner.runtime import estimate_runtime as estimate_runtime
    from deepobs_func.runner.step import make_step as make_step
    from deepobs_func.runner.training import Training as Training
    from deepobs_func.runner.training import TrainState as TrainState

_ROOMS = {
    "execution": ("Execution",),
    "loop": ("Run", "RunInterrupted", "run"),
    "plan": ("make_plan",),
    "population.members": ("Member", "Population", "PopulationInterrupted", "structure"),
    "population.running": ("run_members", "run_population"),
    "runtime": ("Entrant", "estimate_runtime"),
    "step": ("make_step",),
    "training": ("TrainState", "Training"),
}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names} | {
    "compiled": "deepobs_func.backend.compiling:compiled"
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS, also=["RunConfig"])
