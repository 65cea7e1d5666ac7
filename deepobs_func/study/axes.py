"""The axes of a study, as a user writes them and as they are kept: problems, schedules, seeds, settings."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from deepobs_func import problems
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.runner.config import SCHEDULES, RunConfig, is_path, typed
from deepobs_func.study.import_paths import import_path
from deepobs_func.study.places import SpecError, Where, at, reason_of

FIRST_SEED = 42  # of the published protocol, which reruns the best setting on 43 to 51
SETS: Mapping[str, tuple[str, ...]] = {
    "small": ("quadratic_deep", "mnist_vae", "fmnist_2c2d", "cifar10_3c3d"),
    "large": ("fmnist_vae", "cifar100_allcnnc", "svhn_wrn164", "tolstoi_char_rnn"),
}
"""DeepOBS's sets of problems, on all of which runs are published."""

_AXES = ("problem", "optimizer", "lr", "hyperparams", "seed", "output_dir")
SETTINGS = tuple(f.name for f in fields(RunConfig) if f.name not in _AXES)
"""The fields of a `RunConfig` that may be set for all runs, for a problem or for an optimizer."""
LISTING = "docs/studies.md"
"""Where all keys are listed."""
SCHEDULE_FIELDS = ("schedule", "warm_up", "decay_factor", "lr_sched_epochs", "lr_sched_factors")
"""Those that make a learning-rate schedule."""
CONSTANT = "constant"
"""The name of no schedule."""

Fields = Mapping[str, Any]
"""Values of fields of a `RunConfig`."""


def problem_sets() -> dict[str, tuple[str, ...]]:
    """Sets of problems by name: `small`, `large`, `deepobs` (its 26), `modern` (ours), `all`, one for each data set."""
    by_data: dict[str, tuple[str, ...]] = {}
    for spec in problems.REGISTRY.values():
        by_data[spec.dataset] = (*by_data.get(spec.dataset, ()), spec.name)
    return by_data | dict(SETS) | dict(problems.SETS) | {"all": tuple(problems.names())}


def problem_axis(value: Any, where: Where = ("problems",)) -> dict[str, Where]:
    """The problems of a study.

    Args:
        value: names, names of sets, import paths, functions that make problems; or one of these.
        where: its place.

    Returns:
        Names and import paths, in order, each with its place.

    Raises:
        SpecError: there is no such problem, none at all, or one twice.
    """
    sets, found = problem_sets(), dict[str, Where]()
    for place, item in _items(value, where, "problem"):
        with at(place):
            path = import_path(item, "problem")
            names = sets.get(path, (path,))
        for name in names:
            with at(place):
                _check_problem(name, sets)
            if name in found:
                raise SpecError(place, f"{name} is there already ({_listed(found[name], value)}); leave one out.")
            found[name] = place
    return found


def _check_problem(name: str, sets: Iterable[str]) -> None:
    if not is_path(name) and name not in problems.REGISTRY:
        known = [*problems.names(), *sets]
        raise ConfigError(unknown("problem or set", name, known, listing="deepobs list"))


def _listed(place: Where, value: Any) -> str:
    index = place[-1]
    return f"as {value[index]!r}, item {index}" if isinstance(index, int) else "by a set"


def schedule_axis(value: Any, where: Where = ("schedules",)) -> tuple[tuple[Fields, Where], ...]:
    """The learning-rate schedules of a study.

    Args:
        value: names, or mappings of the fields of a `RunConfig` that make a schedule; or one of these.
        where: its place.

    Returns:
        The fields of each, and its place.

    Raises:
        SpecError: there is no such schedule or field, or none at all, or one twice.
    """
    found: list[tuple[Fields, Where]] = []
    for place, item in _items(value, where, "schedule"):
        given = {"schedule": item} if isinstance(item, str) else item
        if not isinstance(given, Mapping) or not given:
            raise SpecError(
                place, f"{item!r} is no schedule; give a name, or a mapping of {', '.join(SCHEDULE_FIELDS)}."
            )
        for key in given:
            if key not in SCHEDULE_FIELDS:
                raise SpecError((*place, key), unknown("key of a schedule", str(key), SCHEDULE_FIELDS))
        made = dict(given)
        name = made.get("schedule")
        if name is not None and name not in (CONSTANT, *SCHEDULES):
            raise SpecError(place, unknown("schedule", str(name), (CONSTANT, *SCHEDULES)))
        made["schedule"] = None if name == CONSTANT else name
        made = _typed(made, place)
        for other, earlier in found:
            if other == made:
                raise SpecError(place, f"It is the same schedule as item {earlier[-1]}; leave one out.")
        found.append((made, place))
    return tuple(found)


def seed_axis(value: Any, where: Where = ("seeds",)) -> tuple[int, ...]:
    """The seeds of a study.

    Args:
        value: a number n, for 42 to 42 + n - 1, as in the published protocol; or a list.
        where: its place.

    Raises:
        SpecError: they are no whole numbers from 0, none at all, or one is there twice.
    """
    if is_whole(value):
        if not 1 <= value <= 100_000:
            raise SpecError(where, f"{value}: it must be how many seeds there are, from 1, or a list of them.")
        return tuple(range(FIRST_SEED, FIRST_SEED + int(value)))
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence | range):
        raise SpecError(where, f"{value!r}: it must be a whole number, how many, or a list of seeds.")
    if not value:
        raise SpecError(where, "It is empty; give one seed at least.")
    found: list[int] = []
    for index, seed in enumerate(value):
        if not is_whole(seed) or not 0 <= seed < 2**64:
            raise SpecError((*where, index), f"{seed!r}: a seed is a whole number from 0 to 2**64 - 1.")
        if seed in found:
            raise SpecError((*where, index), f"{seed} is there already, item {found.index(seed)}; leave one out.")
        found.append(int(seed))
    return tuple(found)


def settings_axis(value: Any, where: Where) -> dict[str, Any]:
    """Fields of a `RunConfig` that are set.

    Raises:
        SpecError: it is no mapping, or has a key that is no such field.
    """
    if not isinstance(value, Mapping):
        raise SpecError(where, f"{value!r}: it must be a mapping of settings, such as {{'epochs': 5}}.")
    for key in value:
        if key not in SETTINGS:
            raise SpecError((*where, str(key)), unknown("setting", str(key), SETTINGS, listing=LISTING))
    return _typed(value, where)


def _typed(value: Fields, where: Where) -> dict[str, Any]:
    """Fields of a `RunConfig`, whose types are checked here, also of one that another one replaces everywhere."""
    found: dict[str, Any] = {key: tuple(each) if isinstance(each, list) else each for key, each in value.items()}
    try:
        typed(RunConfig("any", "any", 1.0, **found))
    except ConfigError as error:
        place = (*where, error.field or "")
        raise SpecError(place, reason_of(error, place)) from error
    return found


def _items(value: Any, where: Where, kind: str) -> list[tuple[Where, Any]]:
    """The items of a list, with their places; a single one stands alone."""
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        if value is None:
            raise SpecError(where, f"It is empty; give one {kind} at least.")
        return [(where, value)]
    if not value:
        raise SpecError(where, f"It is empty; give one {kind} at least.")
    return [((*where, index), item) for index, item in enumerate(value)]


def whole(value: Any, where: Where, least: int) -> int:
    """A whole number.

    Raises:
        SpecError: it is none, or below the least.
    """
    if not is_whole(value) or value < least:
        raise SpecError(where, f"{value!r}: it must be a whole number from {least}.")
    return int(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; True and False are none."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
