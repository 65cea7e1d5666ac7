"""Which quantities a run tracks: those asked for by name, and what of a preset is defined for it."""

from __future__ import annotations

import torch

from deepobs_func.errors import ConfigError, option
from deepobs_func.probes.catalog import PRESETS, chosen, row_of
from deepobs_func.probes.kernel import flat_outputs
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.config import RunConfig, undefined
from deepobs_func.runner.optimizing import ChosenOptimizer


def tracked_names(config: RunConfig, problem: Problem, optimizer: ChosenOptimizer) -> tuple[str, ...]:
    """The names of the quantities.

    Raises:
        ConfigError: one that was asked for by name is not defined for this run; or batch norm couples the examples and
            no choice was made.
    """
    asked = set(chosen(name for name in config.track if name not in PRESETS))
    names = []
    for name in chosen(config.track):
        reason = _undefined(name, config, problem, optimizer)
        if reason and name in asked:
            raise ConfigError(f"{option('track')} {name}: {reason}")
        if not reason:
            names.append(name)
    per_example = [name for name in names if row_of(name).per_example]
    if per_example and not problem.separable and config.track_bn is None:
        raise ConfigError(
            f"{option('track')} {per_example[0]}: {problem.name} couples the examples of a batch through batch norm. "
            f"Say what its per-example gradients mean with {option('track_bn')} coupled, frozen or eval."
        )
    return tuple(names)


def _undefined(name: str, config: RunConfig, problem: Problem, optimizer: ChosenOptimizer) -> str:
    """Why a quantity is not defined for a run; "" where it is."""
    row = row_of(name)
    if row.plain_sgd and not _is_plain_sgd(config, optimizer):
        what = f"{config.optimizer} with clipped gradients" if _clips(config) else config.optimizer
        return f"it is derived for SGD without momentum, not for {what}; noise_scale is for any optimizer."
    if row.ggn and problem.measure.sample is None:
        return f"{problem.name} has no GGN; tic_trace takes the Hessian's trace instead."
    size = sum(shape.numel() for shape in problem.shapes.values())
    if row.most_parameters is not None and size > row.most_parameters:
        return f"it is for nets of at most {row.most_parameters} parameters; {problem.name} has {size}."
    if row.most_outputs is not None and (count := _outputs(config, problem)) > row.most_outputs:
        return f"a batch of {config.batch_size} has {count} outputs of {problem.name}, more than {row.most_outputs}."
    return undefined(row, config)


def _outputs(config: RunConfig, problem: Problem) -> int:
    """How many numbers the net puts out for a batch."""
    params, state = problem.init()
    batch = problem.fake_batch(2)._replace(state=state)
    with torch.no_grad():
        each = flat_outputs(problem.outputs(params, batch), 2).shape[1]
    return each * (config.batch_size or problem.batch_size)


def _clips(config: RunConfig) -> bool:
    return config.clip_norm is not None or config.clip_value is not None


def _is_plain_sgd(config: RunConfig, optimizer: ChosenOptimizer) -> bool:
    """Whether the update is `-lr g`: by the class itself, whatever path leads to it. A subclass may do anything."""
    if _clips(config):
        return False
    if optimizer.code is None:
        return config.optimizer in ("sgd", "sgd_cabs")
    changed = any(config.hyperparams.get(name) for name in ("momentum", "maximize"))
    return optimizer.code is torch.optim.SGD and not changed
