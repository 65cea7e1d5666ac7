"""DeepOBS's runners over `deepobs_func.run`: `StandardRunner(torch.optim.SGD, hyperparams).run(...)`."""

from deepobs_func.compat.runners import runner_utils as runner_utils
from deepobs_func.compat.runners.runner import LearningRateScheduleRunner as LearningRateScheduleRunner
from deepobs_func.compat.runners.runner import PTRunner as PTRunner
from deepobs_func.compat.runners.runner import StandardRunner as StandardRunner

__all__ = ["LearningRateScheduleRunner", "PTRunner", "StandardRunner", "runner_utils"]
