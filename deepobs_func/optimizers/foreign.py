"""Any `torch.optim.Optimizer` class behind the interface of the functional ones.

The class owns leaf tensors and changes them in place, so its step stands outside the compiled part; the gradient is
the oracle's. The parameters that a step returns are those leaves: the next step changes them. Random numbers that the
class draws come from a generator state of its own, seeded from the run's key.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.optimizers.base import Optimizer, Oracle
from deepobs_func.optimizers.schedules import Schedule

Class = type[torch.optim.Optimizer]


def load_class(path: str) -> Class:
    """The optimizer class of an import path, e.g. `torch.optim.AdamW` or `my_package.MyOptimizer`.

    Raises:
        ConfigError: the path does not lead to a subclass of `torch.optim.Optimizer`; the message says how far it did.
    """
    module_path, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_path)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"The optimizer {path!r} cannot be imported: {_cause(error)}. Give package.module.Class, importable from "
            "the current folder or installed."
        ) from error
    if not hasattr(module, name):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise ConfigError(unknown(f"class in {module_path}:", name, classes))
    found = getattr(module, name)
    if not (isinstance(found, type) and issubclass(found, torch.optim.Optimizer)):
        raise ConfigError(f"{path} is not a subclass of torch.optim.Optimizer but {found!r}.")
    return found


def constructor_defaults(cls: Class) -> dict[str, Any]:
    """The hyperparameters that a class takes beside the parameters and the learning rate, with their defaults.

    One that has no default maps to `inspect.Parameter.empty`.
    """
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    named = (p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
    return {p.name: p.default for p in named if p.name != "lr"}


@dataclass
class ForeignState:
    """The state of a foreign optimizer.

    Attributes:
        instance: the class's instance.
        leaves: the parameters that it owns.
        generator: the states of the generators that it draws from.
        step: the steps made.
        factor: the factor of the learning rate in force.
    """

    instance: torch.optim.Optimizer
    leaves: dict[str, nn.Parameter]
    generator: list[Tensor]
    step: int = 0
    factor: float = 1.0


def from_class(cls: Class, lr: float, hyperparams: Mapping[str, Any], schedule: Schedule | None = None) -> Optimizer:
    """Makes an optimizer of a class.

    Args:
        cls: called as `cls(parameters, lr=lr, **hyperparams)`.
        lr: the base learning rate.
        hyperparams: the other arguments.
        schedule: the factor of the learning rate by step.

    Raises:
        ConfigError: (from `init`) the constructor raised; the message has its own words and where.
    """

    def init(params: Params, key: random.Key) -> ForeignState:
        leaves = {name: nn.Parameter(tensor) for name, tensor in _copy(params).items()}
        words = random.bits(random.fold_in(key, random.OPTIMIZER), 2).tolist()
        with torch.random.fork_rng(_devices(params)):
            torch.manual_seed(words[0] << 31 | words[1] >> 1)
            instance = _construct(cls, leaves, lr, hyperparams)
            generator = _generator_state(params)
        return ForeignState(instance, leaves, generator)

    def update(oracle: Oracle, state: ForeignState, params: Params) -> tuple[Params, ForeignState]:
        if schedule is not None:
            _schedule(state, float(schedule(torch.tensor(state.step))))
        with torch.random.fork_rng(_devices(params)):
            _set_generator_state(params, state.generator)
            _step(state, oracle)
            state.generator = _generator_state(params)
        state.step += 1
        return {name: leaf.detach() for name, leaf in state.leaves.items()}, state

    return Optimizer(init, update, compiles=False)


def _schedule(state: ForeignState, factor: float) -> None:
    """Scales the learning rates where the factor changes; a class that moves its own is left alone otherwise."""
    if factor == state.factor:
        return
    for group in state.instance.param_groups:
        if "lr" not in group:
            raise ConfigError(f"{type(state.instance).__name__} keeps no 'lr' in its groups, so it takes no schedule.")
        group["lr"] *= factor / state.factor
    state.factor = factor


def _step(state: ForeignState, oracle: Oracle) -> None:
    """One step, with gradients in place and a closure at hand for classes that evaluate more than once (L-BFGS)."""
    point, here = _copy(state.leaves), oracle

    def closure() -> Tensor:
        nonlocal point, here
        # Compared by value: what a class does through `.data`, the version counter does not see.
        if any(not torch.equal(leaf, point[name]) for name, leaf in state.leaves.items()):
            point = _copy(state.leaves)
            here = oracle.at(point)
        for name, leaf in state.leaves.items():
            leaf.grad = _laid_out(here.grad()[name], state.instance).clone()
        return here.value().detach().clone()

    closure()
    if "closure" in inspect.signature(type(state.instance).step).parameters:
        state.instance.step(closure)  # type: ignore[arg-type]  # torch's classes return the tensor as it is
    else:
        state.instance.step()


def _laid_out(grad: Tensor, instance: torch.optim.Optimizer) -> Tensor:
    """A sparse gradient for the one class that takes no other; a dense one for the rest, of which few take any."""
    return grad if isinstance(instance, torch.optim.SparseAdam) else grad.to_dense()


def _copy(leaves: Mapping[str, Tensor]) -> Params:
    return {name: leaf.detach().clone() for name, leaf in leaves.items()}


def _devices(params: Params) -> list[torch.device]:
    return [tensor.device for tensor in list(params.values())[:1] if tensor.device.type == "cuda"]


def _generator_state(params: Params) -> list[Tensor]:
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in _devices(params))]


def _set_generator_state(params: Params, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    for device, state in zip(_devices(params), states[1:], strict=True):
        torch.cuda.set_rng_state(state, device)


def _construct(
    cls: Class, leaves: dict[str, nn.Parameter], lr: float, hyperparams: Mapping[str, Any]
) -> torch.optim.Optimizer:
    try:
        return cls(leaves.values(), lr=lr, **hyperparams)  # type: ignore[call-arg]
    except Exception as error:  # whatever a user's constructor raises is the user's to read
        given = ", ".join(f"{name}={value!r}" for name, value in {"lr": lr, **hyperparams}.items())
        raise ConfigError(f"{cls.__module__}.{cls.__qualname__}({given}) raised {_cause(error)}.") from error


def _cause(error: Exception) -> str:
    """An error's own words, and where it was raised."""
    frames = traceback.extract_tb(sys.exc_info()[2])
    return f"{type(error).__name__}: {error} ({frames[-1].filename}:{frames[-1].lineno})"
