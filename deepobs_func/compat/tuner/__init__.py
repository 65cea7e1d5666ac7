"""DeepOBS 1.2's tuners: `GridSearch`, `RandomSearch`, `GP`; `deepobs tune` tunes fairly, over many optimizers."""

from deepobs_func.compat.tuner import tuner_utils as tuner_utils
from deepobs_func.compat.tuner.searches import GP as GP
from deepobs_func.compat.tuner.searches import GridSearch as GridSearch
from deepobs_func.compat.tuner.searches import RandomSearch as RandomSearch
from deepobs_func.compat.tuner.tuner_utils import rerun_setting as rerun_setting

__all__ = ["GP", "GridSearch", "RandomSearch", "rerun_setting", "tuner_utils"]
