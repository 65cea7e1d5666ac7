"""From a configuration to its optimizer: a name, an import path, or a value."""

from __future__ import annotations

import inspect
import pkgutil
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from deepobs_func import optimizers, random, records
from deepobs_func.errors import ConfigError, UserError, option, unknown
from deepobs_func.imports import cause, load_object
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.clipping import clipped
from deepobs_func.optimizers.counting import counted
from deepobs_func.optimizers.factories import AsGiven, check_rate, constructor_defaults, passes_on
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.torch_optim import from_class, from_factory
from deepobs_func.optimizers.transforms import Transform, clip_by_global_norm, clip_by_value
from deepobs_func.runner.config import RunConfig

NAMED_PARAMETERS = ("named_parameters", "named_params", "named", "parameters", "params")
"""What a factory calls its first argument where that is `[(name, parameter), ...]`."""

_PLAIN = (float, int, str, bool)
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
            parameters to a torch optimizer, or one of the last two `AsGiven`; None for the one that the configuration
            names.
        schedule: the factor of the learning rate by step; None for a constant one.
        shapes: of the parameters.

    Raises:
        ConfigError: there is no such optimizer, or it does not take what the configuration has.
    """
    before = _clipping(config)
    is_as_given, given = isinstance(given, AsGiven), given.make if isinstance(given, AsGiven) else given
    if given is None and config.optimizer in optimizers.FUNCTIONAL:
        make: Any = pkgutil.resolve_name(optimizers.FUNCTIONAL[config.optimizer].make)
        taken = {"before": before} if before and "before" in inspect.signature(make).parameters else {}
        functional = make(config.lr, **config.hyperparams, **taken, schedule=schedule)
        functional = functional if taken else clipped(functional, before)
        code = None if config.optimizer in optimizers.FUNCTIONAL.own else make
        return ChosenOptimizer(counted(functional), config.optimizer, dict(config.hyperparams), [], code)
    path = config.optimizer.replace(":", ".")
    found, name = (load_object(config.optimizer, "optimizer"), None) if given is None else (given, config.optimizer)
    if isinstance(found, Optimizer):
        _check_value(found, config, schedule)
        return ChosenOptimizer(counted(clipped(found, before)), name or path, {}, [], found)
    if not callable(found):
        raise ConfigError(
            f"{option('optimizer')} {config.optimizer}: it is {found!r}; it must be a functional optimizer, a class of "
            "torch.optim.Optimizer, or a function that makes one."
        )
    defaults = factory_defaults(found)
    _check_hyperparams(config, found, defaults)
    hyperparams, as_default = _all_hyperparams(config.hyperparams, {} if is_as_given else defaults)
    made = counted(clipped(_made(found, config, schedule, shapes), before))
    called = records.class_name(found) if isinstance(found, type | types.FunctionType) else path
    return ChosenOptimizer(made, name or called, hyperparams, as_default, found)


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
    """Whether a factory's first argument is the named parameters.

    It is if it has one of their usual names; or if it has no default, is not `lr`, and is not annotated as a number or
    a text.
    """
    first = next(iter(inspect.signature(function).parameters.values()), None)
    if first is None or first.kind not in (first.POSITIONAL_ONLY, first.POSITIONAL_OR_KEYWORD):
        return False
    if first.name in NAMED_PARAMETERS:
        return True
    is_plain = first.annotation in _PLAIN or first.annotation in [plain.__name__ for plain in _PLAIN]
    return first.default is first.empty and first.name != "lr" and not is_plain


def _made(found: Any, config: RunConfig, schedule: Schedule | None, shapes: Shapes) -> Optimizer:
    """What a class or a factory makes; it is tried here, before any data are read."""
    if isinstance(found, type):
        if not issubclass(found, torch.optim.Optimizer):
            raise ConfigError(
                f"{option('optimizer')} {config.optimizer}: it is not a subclass of torch.optim.Optimizer."
            )
        return _tried(from_class(found, config.lr, config.hyperparams, schedule), shapes)
    values, parameters = dict(config.hyperparams), inspect.signature(found).parameters
    if "lr" in parameters or passes_on(found):
        values["lr"] = config.lr
    if not _takes_parameters(found):
        return _functional(_called(found, (), values, config), "lr" in values, config, schedule)

    def make(named: Sequence[tuple[str, nn.Parameter]]) -> Any:
        made = found(named, **values)
        if "lr" not in values and not isinstance(made, Optimizer):
            check_rate(made, config.lr, config.optimizer)
        return made

    with torch.random.fork_rng(devices=[]):
        try:
            made = make(_named(shapes, "meta"))
        except Exception:  # it may need to look at the data of the parameters
            made = _called(make, (_named(shapes, "cpu"),), {}, config)
    if isinstance(made, Optimizer):
        return _functional(made, "lr" in values, config, schedule)
    return _tried(from_factory(make, name=config.optimizer, schedule=schedule), shapes)


def _called(found: Callable[..., Any], args: tuple[Any, ...], values: Mapping[str, Any], config: RunConfig) -> Any:
    """What a function of the user's returns; what it raises is a mistake of the configuration."""
    try:
        return found(*args, **values)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{option('optimizer')} {config.optimizer}: it raised {cause(error)}.") from error


def _named(shapes: Shapes, device: str) -> list[tuple[str, nn.Parameter]]:
    return [(name, nn.Parameter(torch.zeros(shape, device=device))) for name, shape in shapes.items()]


def _tried(optimizer: Optimizer, shapes: Shapes) -> Optimizer:
    """The same, after it was seen that it can be made: of parameters without data or, where it needs some, of zeros."""
    try:
        optimizer.init(dict(_named(shapes, "meta")), random.key(0))
    except Exception:  # whatever a class raises that looks at the data of its parameters
        optimizer.init(dict(_named(shapes, "cpu")), random.key(0))
    except SystemExit as error:
        raise ConfigError(f"{option('optimizer')}: when it is made, it ends the process ({cause(error)}).") from error
    return optimizer


def _functional(made: Any, has_rate: bool, config: RunConfig, schedule: Schedule | None) -> Optimizer:
    if not isinstance(made, Optimizer):
        raise ConfigError(
            f"{option('optimizer')} {config.optimizer} made {made!r}; it must make a functional Optimizer, or, called "
            f"with the named parameters (an argument {NAMED_PARAMETERS[0]!r}), a torch.optim.Optimizer."
        )
    _check_schedule(config, schedule)
    if not has_rate:
        _check_rate(made, config)
    return made


def _check_value(found: Optimizer, config: RunConfig, schedule: Schedule | None) -> None:
    """A functional optimizer as a value has its schedule, hyperparameters and learning rate already."""
    _check_schedule(config, schedule)
    if config.hyperparams:
        name = next(iter(config.hyperparams))
        raise ConfigError(
            f"{option(f'hyperparams.{name}')} {config.hyperparams[name]}: the functional optimizer {config.optimizer} "
            "has its hyperparameters from who made it. Give a function that takes them and makes one."
        )
    _check_rate(found, config)


def _check_schedule(config: RunConfig, schedule: Schedule | None) -> None:
    if schedule is not None:
        raise ConfigError(
            f"The functional optimizer {config.optimizer} has its schedule from who made it; give schedule= there, and "
            "none in the configuration."
        )


def _check_rate(found: Optimizer, config: RunConfig) -> None:
    """Whether the learning rate of the configuration is the optimizer's own, where its state has one."""
    try:
        state = found.init({"parameter": torch.zeros(1)}, random.key(0))
        own = float(state.hyper["lr"])
    except Exception:  # a state of another kind says nothing of a learning rate
        return
    if own != config.lr:
        raise ConfigError(
            f"{option('lr')} {config.lr}: the optimizer {config.optimizer} was made with {own}. Give this one."
        )


def _clipping(config: RunConfig) -> Sequence[Transform]:
    found = []
    if config.clip_value is not None:
        found.append(clip_by_value(config.clip_value))
    if config.clip_norm is not None:
        found.append(clip_by_global_norm(config.clip_norm))
    return tuple(found)


def _check_hyperparams(config: RunConfig, found: Callable[..., Any], allowed: Mapping[str, Any]) -> None:
    if passes_on(found):  # to a class that says itself what it does not take
        return
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
