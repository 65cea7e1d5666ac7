"""Test problems for optimizers as pure functions: DeepOBS on `torch.func`.

    from deepobs_func import RunConfig, problems, probes, run

Nothing here imports torch before it is used.
"""

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func import analysis as analysis
    from deepobs_func import base as base
    from deepobs_func import compat as compat
    from deepobs_func import datasets as datasets
    from deepobs_func import errors as errors
    from deepobs_func import optimizers as optimizers
    from deepobs_func import probes as probes
    from deepobs_func import problems as problems
    from deepobs_func import random as random
    from deepobs_func import records as records
    from deepobs_func import runner as runner
    from deepobs_func import study as study
    from deepobs_func import tree as tree
    from deepobs_func.runner.callbacks import Stop as Stop
    from deepobs_func.runner.config import RunConfig as RunConfig
    from deepobs_func.runner.loop import run as run
    from deepobs_func.runner.population.running import run_population as run_population
    from deepobs_func.runner.probing import probe_run as probe_run
    from deepobs_func.runner.resuming import load as load
    from deepobs_func.runner.training import Training as Training
    from deepobs_func.study.spec import Study as Study

__version__ = "0.1.0"

_ROOMS = (
    *("analysis", "base", "compat", "datasets", "errors", "optimizers", "probes", "problems", "random", "records"),
    *("runner", "study", "tree"),
)
_NAMES = {
    "RunConfig": "runner.config",
    "Stop": "runner.callbacks",
    "Study": "study.spec",
    "Training": "runner.training",
    "load": "runner.resuming",
    "probe_run": "runner.probing",
    "run": "runner.loop",
    "run_population": "runner.population.running",
}
_PATHS = {room: f"{__name__}.{room}" for room in _ROOMS} | {
    name: f"{__name__}.{module}:{name}" for name, module in _NAMES.items()
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS, also=["__version__"])
