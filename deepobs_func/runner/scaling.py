"""Which runs have a loss scale, and which cannot have one."""

from __future__ import annotations

from deepobs_func import optimizers
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.scaling import refusal, scaled
from deepobs_func.runner.config import RunConfig


def under_precision(config: RunConfig, optimizer: Optimizer) -> Optimizer:
    """The optimizer as the precision of a run needs it: under loss scaling by `fp16`, else as it is.

    Args:
        config: resolved.
        optimizer: of the run.

    Raises:
        ConfigError: it is a class of torch's, which changes the parameters itself; or it is known to ask for curvature
            or per-example gradients, or quantities are tracked, which would underflow.
    """
    if config.precision != "fp16":
        return optimizer
    asked = f"{option('precision')} fp16"
    if not optimizer.compiles:
        raise ConfigError(
            f"{asked}: {config.optimizer} changes the parameters itself, so that a step whose gradient is not finite "
            "cannot be left out. Take one of the functional optimizers (`deepobs list`), or bf16."
        )
    spec = optimizers.FUNCTIONAL.get(config.optimizer)
    if optimizer.by_layers or (spec is not None and not spec.gradient_only):
        raise ConfigError(refusal(config.optimizer).replace("precision fp16", asked, 1))
    if config.track:
        raise ConfigError(
            f"{asked}: what {option('track')} computes has no loss scale and would underflow. Track a run in bf16 or "
            "float32."
        )
    return scaled(optimizer)
