"""From a configuration to its optimizer: a name, an import path, or a value."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func import optimizers, records
from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.imports import load_object
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.clipping import clipped
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.torch_optim import constructor_defaults, from_class, from_factory
from deepobs_func.optimizers.transforms import Transform, clip_by_global_norm, clip_by_value
from deepobs_func.runner.config import RunConfig

NAMED_PARAMETERS = ("named_parameters", "named_params", "named", "parameters", "params")
"""What a factory calls its first argument where that is `[(name, parameter), ...]`."""

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class ChosenOptimizer:
    """The optimizer of a run, and what stands in its record.

    Attributes:
        optimizer: what steps.
        name: in the record and in the folder.
        hyperparams: all of them, given or by default.
        defaults: the names of those that are as a class or a factory has them by default.
        code: what computes it, where that is neither this package nor torch.optim; else None.
    """

    optimizer: Optimizer
    name: str
    hyperparams: dict[str, Any]
    defaults: list[str]
    code: Any


def choose_optimizer(config: RunConfig, given: Any, schedule: Schedule | None, shapes: Shapes) -> ChosenOptimizer:
    """Makes the optimizer of a run.

    Args:
        config: resolved.
        given: an optimizer of the user's own: a functional one, a class of torch optimizers, or a callable from named
            parameters to a torch optimizer; None for the one that the configuration names.
        schedule: the factor of the learning rate by step; None for a constant one.
        shapes: of the parameters.

    Raises:
        ConfigError: there is no such optimizer, or it does not take what the configuration has.
    """
    before = _clipping(config)
    if given is None and config.optimizer in optimizers.FUNCTIONAL:
        make: Any = pkgutil.resolve_name(optimizers.FUNCTIONAL[config.optimizer].make)
        own = {"before": before} if before and "before" in inspect.signature(make).parameters else {}
        functional = make(config.lr, **config.hyperparams, **own, schedule=schedule)
        functional = functional if own else clipped(functional, before)
        return ChosenOptimizer(functional, config.optimizer, dict(config.hyperparams), [], None)
    found, name = (load_object(config.optimizer, "optimizer"), None) if given is None else (given, config.optimizer)
    if isinstance(found, Optimizer):
        _check_value(config, schedule)
        return ChosenOptimizer(clipped(found, before), name or config.optimizer, dict(config.hyperparams), [], found)
    if not callable(found):
        raise ConfigError(
            f"{option('optimizer')} {config.optimizer}: it is {found!r}; it must be a functional optimizer, a class of "
            "torch.optim.Optimizer, or a function that makes one."
        )
    defaults = factory_defaults(found)
    _check_hyperparams(config, defaults)
    hyperparams, as_default = _all_hyperparams(config.hyperparams, defaults)
    made = _made(found, config, schedule, shapes)
    return ChosenOptimizer(clipped(made, before), name or records.class_name(found), hyperparams, as_default, found)


def factory_defaults(found: Callable[..., Any]) -> dict[str, Any]:
    """The hyperparameters that a class or a factory takes besides the parameters and the learning rate, with defaults.

    One that has no default maps to `inspect.Parameter.empty`.
    """
    if isinstance(found, type):
        return constructor_defaults(found)
    parameters = list(inspect.signature(found).parameters.values())
    rest = parameters[1:] if _takes_parameters(found) else parameters
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {p.name: p.default for p in rest if p.kind in kinds and p.name != "lr"}


def _takes_parameters(function: Callable[..., Any]) -> bool:
    """Whether a factory's first argument is the named parameters."""
    first = next(iter(inspect.signature(function).parameters), None)
    return first in NAMED_PARAMETERS


def _made(found: Any, config: RunConfig, schedule: Schedule | None, shapes: Shapes) -> Optimizer:
    """What a class or a factory makes."""
    if isinstance(found, type):
        if not issubclass(found, torch.optim.Optimizer):
            raise ConfigError(f"{option('optimizer')} {config.optimizer}: it is no subclass of torch.optim.Optimizer.")
        return from_class(found, config.lr, config.hyperparams, schedule)
    values = dict(config.hyperparams)
    if "lr" in inspect.signature(found).parameters:
        values["lr"] = config.lr
    if not _takes_parameters(found):
        return _functional(found(**values), config, schedule)
    tried = _tried(found, values, shapes)
    if isinstance(tried, Optimizer):
        return _functional(tried, config, schedule)
    return from_factory(lambda named: found(named, **values), name=config.optimizer, schedule=schedule)


def _tried(found: Callable[..., Any], values: Mapping[str, Any], shapes: Shapes) -> Any:
    """What a factory makes of parameters without data, to see of which kind it is; None where it needs data."""

    def leaf(shape: torch.Size) -> Tensor:
        return nn.Parameter(torch.empty(shape, device="meta"))

    try:
        return found([(name, leaf(shape)) for name, shape in shapes.items()], **values)
    except Exception:  # with data it may do; what it raises then is told
        return None


def _functional(made: Any, config: RunConfig, schedule: Schedule | None) -> Optimizer:
    if not isinstance(made, Optimizer):
        raise ConfigError(
            f"{option('optimizer')} {config.optimizer} made {made!r}; it must make a functional Optimizer, or, called "
            f"with the named parameters (an argument {NAMED_PARAMETERS[0]!r}), a torch.optim.Optimizer."
        )
    _check_value(config, schedule)
    return made


def _check_value(config: RunConfig, schedule: Schedule | None) -> None:
    if schedule is not None:
        raise ConfigError(
            f"The functional optimizer {config.optimizer} has its schedule from who made it; give schedule= there, and "
            "none in the configuration."
        )


def _clipping(config: RunConfig) -> Sequence[Transform]:
    found = []
    if config.clip_value is not None:
        found.append(clip_by_value(config.clip_value))
    if config.clip_norm is not None:
        found.append(clip_by_global_norm(config.clip_norm))
    return tuple(found)


def _check_hyperparams(config: RunConfig, allowed: Mapping[str, Any]) -> None:
    for name in config.hyperparams:
        if name not in allowed:
            raise ConfigError(unknown(f"hyperparameter of {config.optimizer}:", name, allowed))


def _all_hyperparams(given: Mapping[str, Any], allowed: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """All hyperparameters, given or by default, and the names of those that are as by default."""
    defaults = {name: value for name, value in allowed.items() if value is not inspect.Parameter.empty}
    found = {**defaults, **given}
    as_default = {name: value for name, value in defaults.items() if _is_same(found[name], value)}
    return found | as_default, sorted(as_default)


def _is_same(value: Any, default: Any) -> bool:
    """Whether a value is the default, as JSON would have both: 0 is 0.0, a list is a tuple, True is not 1."""
    if isinstance(value, list | tuple) and isinstance(default, list | tuple):
        return len(value) == len(default) and all(map(_is_same, value, default))
    if isinstance(value, bool) or isinstance(default, bool):
        return value is default
    return value is default or (isinstance(value, int | float | str) and value == default)
