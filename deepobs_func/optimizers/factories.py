"""What a class or a factory of torch optimizers makes, constructed and checked."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from deepobs_func.errors import ConfigError, option
from deepobs_func.imports import cause, load_object
from deepobs_func.optimizers.gradients import Leaves

Class = type[torch.optim.Optimizer]
Made = Any
"""A `torch.optim.Optimizer`, or lists and tuples of optimizers and `torch.optim.lr_scheduler.LRScheduler`."""
Make = Callable[[list[tuple[str, nn.Parameter]]], Made]
WRAPPED = ("optimizer", "base_optimizer")
"""Constructor arguments that are another optimizer class."""


@dataclass(frozen=True)
class AsGiven:
    """A class or a factory of which a record holds the hyperparameters that are given, and none that it has by default.

    DeepOBS's runner names a run by those that its caller declares.
    """

    make: Any


def load_class(path: str) -> Class:
    """The optimizer class of an import path, e.g. `torch.optim.AdamW` or `my_package.MyOptimizer`.

    Raises:
        ConfigError: the path does not lead to a subclass of `torch.optim.Optimizer`; the message says how far it did.
    """
    found = load_object(path, "optimizer")
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"{path} is not a subclass of torch.optim.Optimizer but {found!r}.")
    return found


def constructor_defaults(cls: Class) -> dict[str, Any]:
    """The hyperparameters that a class takes beside the parameters and the learning rate, with their defaults.

    One that has no default maps to `inspect.Parameter.empty`. The class that a wrapper wraps is one of them.
    """
    first, *others = inspect.signature(cls).parameters.values()
    parameters = [first, *others] if first.name in WRAPPED else others
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: p.default for p in named if p.name not in ("lr", "params")}


def passes_on(function: Callable[..., Any]) -> bool:
    """Whether a class or a function takes any keyword, so that its signature does not name all hyperparameters."""
    return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())


def construct(cls: Any, leaves: Leaves, lr: float, hyperparams: Mapping[str, Any]) -> torch.optim.Optimizer:
    """The instance of a class; a class in the hyperparameters may be an import path.

    Raises:
        ConfigError: the class takes the learning rate among other keywords, and no group has it.
    """
    values: dict[str, Any] = {"lr": lr, **hyperparams}
    values |= {name: load_class(values[name]) for name in WRAPPED if isinstance(values.get(name), str)}
    parameters = inspect.signature(cls).parameters
    first, *others = parameters
    if first in WRAPPED:
        if not isinstance(values.get(first), type):
            raise ConfigError(
                f"{cls.__name__} wraps another optimizer: give its class as the hyperparameter {first!r}, e.g. "
                "torch.optim.SGD, or give a factory that makes both."
            )
        inner = values.pop(first)(leaves.values(), lr=values.pop("lr"))
        return cls(inner, **values)
    if first in ("model", "module"):
        values |= {"params": leaves.values()} if "params" in others else {}
        made = cls(_module_of(leaves), **values)
    else:
        made = cls(leaves.values(), **values)
    if "lr" not in parameters:
        check_rate(made, lr, f"{cls.__module__}.{cls.__qualname__}")
    return made


class UnusedRateError(ConfigError):
    """A learning rate that an optimizer does not use.

    Attributes:
        rates: those that it has.
    """

    def __init__(self, rates: Sequence[float], message: str) -> None:
        self.rates: list[float] = list(rates)
        super().__init__(message)


def check_rate(made: Made, lr: float, called: str) -> None:
    """Makes sure that the learning rate of the configuration is one of those that the optimizers have.

    Optimizers whose groups have no learning rate, since they find their own, are left alone.

    Raises:
        UnusedRateError: it is none of them.
    """
    groups = [group for each in _flat(made) for group in getattr(each, "param_groups", ())]
    rates = dict.fromkeys(group["lr"] for group in groups if "lr" in group)
    if not rates or any(lr == value for group in groups for value in group.values() if isinstance(value, float | int)):
        return
    raise UnusedRateError(
        list(rates),
        f"{option('lr')} {lr}: {called} does not use it; its parameter groups have the learning rates "
        f"{', '.join(map(str, rates))}. Give one of these, or take an argument lr and use it.",
    )


def _module_of(leaves: Leaves) -> nn.Module:
    """A module whose `named_parameters()` are the leaves."""
    root = nn.Module()
    for path, leaf in leaves.items():
        *parents, name = path.split(".")
        owner = root
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        owner.register_parameter(name, leaf)
    return root


def made_by(make: Make, leaves: Leaves, called: str) -> tuple[list[torch.optim.Optimizer], list[LRScheduler]]:
    """The optimizers and schedulers that a factory makes, checked.

    Raises:
        ConfigError: it raised, with its own words and where; or it made something else, or a parameter is in two of
            the optimizers.
    """
    try:
        made = make(list(leaves.items()))
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's constructor raises is the user's to read
        raise ConfigError(f"{called} raised {cause(error)}.") from error
    instances: list[torch.optim.Optimizer] = []
    schedulers: list[LRScheduler] = []
    for each in _flat(made):
        if isinstance(each, torch.optim.Optimizer):
            instances.append(each)
        elif isinstance(each, LRScheduler) and not isinstance(each, ReduceLROnPlateau):
            schedulers.append(each)
        elif isinstance(each, LRScheduler):
            raise ConfigError(
                f"{called} made the scheduler {each!r}; it must be a torch.optim.lr_scheduler.LRScheduler whose "
                "step() needs no metric."
            )
        elif each is not None:
            raise _refused(called, made)
    if not instances:
        raise _refused(called, made)
    _check_parameters(instances, leaves, called)
    return instances, schedulers


def _flat(made: Made) -> Iterator[Any]:
    """What lists and tuples hold."""
    if isinstance(made, list | tuple):
        for each in made:
            yield from _flat(each)
    else:
        yield made


def _refused(called: str, made: Made) -> ConfigError:
    return ConfigError(
        f"{called} made {made!r}; it must be a torch.optim.Optimizer, or that and a scheduler, or a list of several."
    )


def _check_parameters(instances: list[torch.optim.Optimizer], leaves: Leaves, called: str) -> None:
    """Every optimizer works on `.grad`, on parameters of its own."""
    names, owner = {id(leaf): name for name, leaf in leaves.items()}, dict[int, int]()
    for index, instance in enumerate(instances):
        backward = [method for method in dir(type(instance)) if "backward" in method]
        if backward:
            raise ConfigError(
                f"{called} makes its own backward pass ({type(instance).__name__}.{backward[0]}), so that a step is "
                "more than step(). Take a class that works on .grad."
            )
        for leaf in (leaf for group in instance.param_groups for leaf in group["params"]):
            if id(leaf) not in names:
                raise ConfigError(f"{called} optimizes tensors that are not the parameters which it was given.")
            if owner.setdefault(id(leaf), index) != index:
                raise ConfigError(f"{called} gives {names[id(leaf)]!r} to two optimizers; each takes its own.")
