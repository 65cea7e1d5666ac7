"""What tuning searches: the spaces of an optimizer's row, or the user's, and the run at a point of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from deepobs_func import optimizers
from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.imports import load_object
from deepobs_func.optimizers.hyperparameters import Search
from deepobs_func.optimizers.spec import OptimizerSpec
from deepobs_func.runner.config import RunConfig, is_path, unknown_optimizer
from deepobs_func.study.budgets import Budget
from deepobs_func.study.samplers import Spaces
from deepobs_func.study.space_words import space
from deepobs_func.study.spaces import Space, Values

FIELDS = ("lr", "schedule", "warm_up", "decay_factor", "batch_size", "weight_decay", "clip_norm", "clip_value")
"""What of a configuration can be searched, beside the optimizer's own hyperparameters, which come first."""
CONSTANT = "constant"
"""A learning rate without a schedule, among those that are searched."""
_OWN = "opt"  # before the name of a hyperparameter that is also one of the configuration's


def spaces_for(
    optimizer: str, optimizers_of_all: Sequence[str], budget: Budget, given: Mapping[str, Space | Any]
) -> dict[str, Space]:
    """The spaces of one optimizer, in a fixed order.

    Args:
        optimizer: a name or an import path.
        optimizers_of_all: those that are tuned together, whose names may stand before a key of `given`.
        budget: which says what is searched by default.
        given: by name, what the user gives instead or on top: `"lr"`, `"momentum"`, `"adam.beta1"`,
            `"opt.weight_decay"`.

    Returns:
        By name: a field of `FIELDS`, or `hyperparams.NAME`. A hyperparameter that this optimizer lacks is left out.

    Raises:
        ConfigError: a name is of none of the optimizers, or a space is empty or none.
    """
    row = row_of(optimizer)
    found: dict[str, Space] = {}
    if budget.rates:
        found["lr"] = Values(budget.rates)
    elif budget.searched in ("lr", "all"):
        found["lr"] = _space(row.lr_search)
    if budget.searched == "all":
        own = {name: each.search for name, each in row.hyperparameters.items()}
        found |= {f"hyperparams.{name}": _space(search) for name, search in own.items() if search is not None}
    if budget.schedules != (CONSTANT,):
        found["schedule"] = Values(budget.schedules)
    for name, value in given.items():
        keys = {each: _key(name, each, optimizers_of_all) for each in optimizers_of_all}
        if not any(keys.values()):
            raise ConfigError(f"{option('search')} {name}: {_unknown(name, optimizers_of_all)}")
        key = keys[optimizer]
        if key is not None:
            found[key] = _given(name, value)
    return found


def point(base: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """The run at a point of the search space.

    Args:
        base: what is not searched.
        values: by the names of `spaces_for`.
    """
    prefix = "hyperparams."
    own = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    fields = {name: value for name, value in values.items() if not name.startswith(prefix)}
    if fields.get("schedule") == CONSTANT:
        fields["schedule"] = None
        fields.pop("decay_factor", None)  # of the schedules beside it
    return replace(base, **fields, hyperparams={**base.hyperparams, **own})


def corners(spaces: Spaces) -> list[dict[str, Any]]:
    """Points that have every end of every range and every value of every list, to find out whether they can be run."""
    first = {name: each.at(0.0) for name, each in spaces.items()}
    return [first, *({**first, name: value} for name, each in spaces.items() for value in each.extremes())]


def default_lr(optimizer: str) -> float | None:
    """The learning rate that an optimizer has by default: its row's, or that of a class's constructor."""
    if not is_path(optimizer):
        return row_of(optimizer).lr
    found = load_object(optimizer, "optimizer")
    parameters = inspect.signature(found).parameters if callable(found) else {}
    value = parameters["lr"].default if "lr" in parameters else inspect.Parameter.empty
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def row_of(optimizer: str) -> OptimizerSpec:
    """The row of an optimizer; for an import path one that has the hyperparameters, and no ranges but the rate's.

    Raises:
        ConfigError: there is no such optimizer.
    """
    if optimizer in optimizers.FUNCTIONAL:
        return optimizers.FUNCTIONAL[optimizer]
    if not is_path(optimizer):
        raise ConfigError(f"{option('optimizer')} {optimizer}: {unknown_optimizer(optimizer)}")
    return OptimizerSpec(optimizer, optimizer, "")


def _hyperparameters(optimizer: str) -> tuple[set[str], bool]:
    """The names that an optimizer takes, and whether it takes any other, too."""
    if not is_path(optimizer):
        return set(row_of(optimizer).hyperparameters), False
    from deepobs_func.optimizers.factories import passes_on
    from deepobs_func.runner.optimizing import factory_defaults

    found: Callable[..., Any] = load_object(optimizer, "optimizer")
    return (set(factory_defaults(found)), passes_on(found)) if callable(found) else (set(), False)


def _key(name: str, optimizer: str, optimizers_of_all: Sequence[str]) -> str | None:
    """The name of a space for an optimizer; None where it is not for it."""
    before, _, last = name.rpartition(".")
    if before not in ("", _OWN, *optimizers_of_all) or (before in optimizers_of_all and before != optimizer):
        return None
    own, takes_any = _hyperparameters(optimizer)
    if last in own or (takes_any and before == _OWN):
        return f"hyperparams.{last}"
    return last if last in FIELDS and before != _OWN else None


def _unknown(name: str, optimizers_of_all: Sequence[str]) -> str:
    names = {each for optimizer in optimizers_of_all for each in _hyperparameters(optimizer)[0]}
    return unknown(f"hyperparameter of {' or '.join(optimizers_of_all)}:", name, [*FIELDS, *sorted(names)])


def _given(name: str, value: Any) -> Space:
    try:
        return space(value)
    except ConfigError as error:
        raise ConfigError(f"{option('search')} {name}: {error.told(option)}") from error


def _space(search: Search) -> Space:
    return space({search.word: [search.low, search.high]})
