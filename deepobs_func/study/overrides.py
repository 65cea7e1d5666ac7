"""What a study says of one problem, and of one optimizer on it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepobs_func.errors import unknown
from deepobs_func.study.axes import LISTING, SETTINGS, Fields, schedule_axis, settings_axis
from deepobs_func.study.entries import Changes, Entry, changes
from deepobs_func.study.places import SpecError, Where


@dataclass(frozen=True)
class Override:
    """What is said of a problem.

    Attributes:
        settings: fields of a `RunConfig`.
        schedules: of the learning rate, instead of the study's and of an optimizer's; None where that is not said.
        optimizers: what is said of an optimizer on this problem, by its label.
        places: where each of these stands.
    """

    settings: Fields = field(default_factory=dict)
    schedules: tuple[Fields, ...] | None = None
    optimizers: Mapping[str, Changes] = field(default_factory=dict)
    places: Mapping[str, Where] = field(default_factory=dict, compare=False, repr=False)

    def plain(self) -> dict[str, Any]:
        """As a study's YAML has it."""
        found = dict(self.settings)
        if self.schedules is not None:
            found["schedules"] = [dict(each) for each in self.schedules]
        return found | {label: each.plain() for label, each in self.optimizers.items()}


def overrides(
    value: Any, problems: Collection[str], optimizers: Sequence[Entry], where: Where = ("overrides",)
) -> dict[str, Override]:
    """What a study says of its problems.

    Args:
        value: a mapping from problems to settings, `schedules`, and what is said of an optimizer by its name.
        problems: those of the study.
        optimizers: those of the study.
        where: its place.

    Raises:
        SpecError: a problem or an optimizer is not in the study, or a key or a value is wrong.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SpecError(where, f"{value!r}: it must be a mapping from problems to what is said of them.")
    found = {}
    for name, each in value.items():
        if name not in problems:
            raise SpecError((*where, str(name)), unknown("problem of this study", str(name), problems))
        found[name] = _override(each, optimizers, (*where, name))
    return found


def _override(value: Any, optimizers: Sequence[Entry], where: Where) -> Override:
    if isinstance(value, Override):
        return value
    if not isinstance(value, Mapping):
        raise SpecError(where, f"{value!r}: it must be a mapping, such as {{epochs: 5}}.")
    paths = {each.label: each.optimizer for each in optimizers}
    of_optimizers = {key: each for key, each in value.items() if key in paths}
    settings = {key: each for key, each in value.items() if key not in paths and key != "schedules"}
    for label, each in of_optimizers.items():
        if isinstance(each, Mapping) and "class" in each:
            raise SpecError((*where, label, "class"), "An optimizer has one class on all problems; leave it out here.")
    pairs = schedule_axis(value["schedules"], (*where, "schedules")) if "schedules" in value else None
    for key in settings:
        if key not in SETTINGS:
            raise SpecError(
                (*where, str(key)),
                unknown("setting or optimizer", str(key), (*paths, *SETTINGS, "schedules"), listing=LISTING),
            )
    return Override(
        settings=settings_axis(settings, where),
        schedules=None if pairs is None else tuple(each for each, _ in pairs),
        optimizers={label: changes(each, paths[label], (*where, label)) for label, each in of_optimizers.items()},
        places={f"schedules.{index}": place for index, (_, place) in enumerate(pairs or ())}
        | {f"settings.{key}": (*where, key) for key in settings},
    )
