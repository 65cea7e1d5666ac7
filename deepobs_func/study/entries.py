"""The optimizers of a study, as a user writes them and as they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepobs_func import optimizers
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.runner.config import is_path, unknown_optimizer
from deepobs_func.runner.config_types import number
from deepobs_func.study.axes import SETTINGS, Fields, schedule_axis, settings_axis
from deepobs_func.study.import_paths import import_path
from deepobs_func.study.places import SpecError, Where, at
from deepobs_func.study.space_words import space
from deepobs_func.study.spaces import MOST, NAMED, Space

KEYS = ("class", "lr", "samples", "schedules", "settings", "hyperparams")
"""The keys of an optimizer's entry; every other one is a hyperparameter."""


@dataclass(frozen=True)
class Changes:
    """What is said of an optimizer: for the whole study, or for one problem.

    Attributes:
        spaces: of the learning rate, `"lr"`, and of the hyperparameters.
        samples: how often its distributions are drawn from; None where that is not said.
        schedules: of the learning rate, instead of the study's; None where that is not said.
        settings: fields of a `RunConfig`.
        places: where each of these stands.
    """

    spaces: Mapping[str, Space] = field(default_factory=dict)
    samples: int | None = None
    schedules: tuple[Fields, ...] | None = None
    settings: Fields = field(default_factory=dict)
    places: Mapping[str, Where] = field(default_factory=dict, compare=False, repr=False)

    def plain(self) -> dict[str, Any]:
        """As a study's YAML has it."""
        spaces = {name: each.plain() for name, each in self.spaces.items()}
        found: dict[str, Any] = {"lr": spaces.pop("lr")} if "lr" in spaces else {}
        optional = {"hyperparams": spaces, "settings": dict(self.settings), "samples": self.samples}
        if self.schedules is not None:
            found["schedules"] = [dict(each) for each in self.schedules]
        return found | {name: each for name, each in optional.items() if each not in (None, {})}


@dataclass(frozen=True)
class Entry:
    """An optimizer of a study.

    Attributes:
        label: its name in the study.
        optimizer: the name of a functional optimizer, or an import path.
        changes: what is said of it.
        where: its place.
    """

    label: str
    optimizer: str
    changes: Changes
    where: Where = field(default=(), compare=False, repr=False)


def entries(value: Any, where: Where = ("optimizers",)) -> tuple[Entry, ...]:
    """The optimizers of a study.

    Args:
        value: a mapping from names to what is said of each; or a list of names, import paths, classes and functions.
        where: its place.

    Raises:
        SpecError: there is no such optimizer or key, or none at all, or one twice.
    """
    if isinstance(value, tuple) and value and all(isinstance(each, Entry) for each in value):
        return value
    if isinstance(value, Mapping):
        found = [_entry(label, item, (*where, str(label))) for label, item in value.items()]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        found = [_alone(item, (*where, index)) for index, item in enumerate(value)]
    else:
        found = [] if value is None else [_alone(value, where)]
    if not found:
        raise SpecError(where, "It is empty; give one optimizer at least.")
    places: dict[str, Where] = {}
    for each in found:
        if each.label in places:
            raise SpecError(each.where, f"{each.label} is there already, item {places[each.label][-1]}; leave one out.")
        places[each.label] = each.where
    return tuple(found)


def changes(value: Any, optimizer: str, where: Where) -> Changes:
    """What is said of an optimizer.

    Args:
        value: a mapping of `lr`, `samples`, `schedules`, `settings`, `hyperparams`, and of hyperparameters.
        optimizer: its name or import path.
        where: its place.

    Raises:
        SpecError: a key or a value is wrong.
    """
    if value is None or isinstance(value, Changes):
        return value or Changes()
    if not isinstance(value, Mapping):
        raise SpecError(where, f"{value!r}: it must be a mapping, such as {{lr: 0.1}}.")
    given = {key: (each, (*where, str(key))) for key, each in value.items() if key not in KEYS or key == "lr"}
    nested = value.get("hyperparams", {})
    if not isinstance(nested, Mapping):
        raise SpecError((*where, "hyperparams"), f"{nested!r}: it must be a mapping, such as {{momentum: 0.9}}.")
    for key, each in nested.items():
        if key in given:
            raise SpecError((*where, "hyperparams", str(key)), f"{key} stands beside hyperparams too; leave one out.")
        given[key] = (each, (*where, "hyperparams", str(key)))
    places: dict[str, Where] = {key: (*where, key) for key in KEYS}
    schedules: tuple[Fields, ...] | None = None
    if "schedules" in value:
        pairs = schedule_axis(value["schedules"], (*where, "schedules"))
        schedules = tuple(each for each, _ in pairs)
        places |= {f"schedules.{index}": place for index, (_, place) in enumerate(pairs)}
    settings = settings_axis(value.get("settings", {}), (*where, "settings"))
    return Changes(
        spaces={key: _space(key, each, optimizer, place) for key, (each, place) in given.items()},
        samples=_samples(value.get("samples"), (*where, "samples")),
        schedules=schedules,
        settings=settings,
        places=places
        | {key: place for key, (_, place) in given.items()}
        | {f"settings.{key}": (*where, "settings", key) for key in settings},
    )


def rates(value: Any, where: Where = ("lr",)) -> Space:
    """The space of a learning rate.

    Args:
        value: a space, as `study.space_words` reads it, or `published`.
        where: its place.

    Raises:
        SpecError: it is no space, or one of its values is no learning rate.
    """
    with at(where):
        found = space(value, named=NAMED)
        for each in found.extremes():
            optimizers.check_lr(number("lr", each))
    return found


def _entry(label: Any, value: Any, where: Where) -> Entry:
    if not isinstance(label, str) or not label:
        raise SpecError(where, f"{label!r} is no name of an optimizer; give a text.")
    if label in SETTINGS:
        raise SpecError(where, f"{label} is the name of a setting, so no optimizer can have it; give it another one.")
    given = dict(value) if isinstance(value, Mapping) else value
    with at((*where, "class")):
        path = import_path(given.pop("class") if isinstance(given, dict) and "class" in given else label, "optimizer")
    with at(where):
        if not is_path(path) and path not in optimizers.FUNCTIONAL:
            mend = " A name of your own needs a `class`." if path == label else ""
            raise ConfigError(f"{unknown_optimizer(path)}{mend}")
    return Entry(label, path, changes(given, path, where), where)


def _alone(value: Any, where: Where) -> Entry:
    """An optimizer of a list, of which nothing is said."""
    if isinstance(value, Mapping):
        raise SpecError(
            where, f"{dict(value)!r}: in a list it must be a name; a mapping of optimizers says more of each."
        )
    with at(where):
        path = import_path(value, "optimizer")
    label = path if isinstance(value, str) else value.__name__
    return _entry(label, {"class": path}, where)


def _space(key: Any, value: Any, optimizer: str, where: Where) -> Space:
    """The space of a learning rate or of a hyperparameter, whose values are checked as far as that can be done here."""
    row = optimizers.FUNCTIONAL.get(optimizer)
    if row is not None and key != "lr" and key not in row.defaults:
        raise SpecError(where, unknown(f"hyperparameter of {row.name}:", str(key), (*row.defaults, *KEYS)))
    if not isinstance(key, str) or not key:
        raise SpecError(where, f"{key!r} is no name of a hyperparameter; give a text.")
    if key == "lr":
        return rates(value, where)
    with at(where):
        found = space(value)
        if row is not None:
            for each in found.extremes():
                row.hyperparameters[key].kind.checked(key, each)
    return found


def _samples(value: Any, where: Where) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise SpecError(where, f"{value!r}: it must be a whole number from 1 to {MOST}.")
    return value
