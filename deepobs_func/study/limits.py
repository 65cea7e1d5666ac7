"""The budget of a study."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from deepobs_func.errors import unknown
from deepobs_func.study.places import SpecError


@dataclass(frozen=True)
class Limits:
    """The budget of a study. None for no limit.

    Attributes:
        runs: the most runs of the whole study; a spec that has more is refused.
        trials: the most settings of an optimizer on a problem, seeds not counted; a spec that has more is refused, and
            a tuner stops there.
        max_seconds: of training, of each run; it is then stopped.
        gradients: the most gradient evaluations of each run; it is then stopped.
        cost: the most gradient equivalents of each run, all calls of the oracle counted (`records.GRADIENTS`); it is
            then stopped. Both are looked at after each epoch.

    >>> Limits(trials=36).trials
    36
    """

    runs: int | None = None
    trials: int | None = None
    max_seconds: float | None = None
    gradients: int | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        for name in ("runs", "trials", "gradients"):
            value = getattr(self, name)
            if value is not None and (not _is_whole(value) or value < 1):
                raise SpecError((name,), f"{value!r}: it must be a whole number from 1.")
        for name in ("max_seconds", "cost"):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise SpecError((name,), f"{value!r}: it must be a positive, finite number.")

    def plain(self) -> dict[str, Any]:
        """Those that there are."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in found.items() if value is not None}


def limits(value: Any) -> Limits:
    """The budget of a study.

    Args:
        value: `Limits`, a mapping of its fields, or None for no limit.

    Raises:
        SpecError: a key or a value is wrong.
    """
    if value is None or isinstance(value, Limits):
        return value or Limits()
    names = [f.name for f in fields(Limits)]
    if not isinstance(value, Mapping):
        raise SpecError(("budget",), f"{value!r}: it must be a mapping of {', '.join(names)}.")
    for name in value:
        if name not in names:
            raise SpecError(("budget", str(name)), unknown("key of a budget", str(name), names))
    try:
        return Limits(**value)
    except SpecError as error:
        raise SpecError(("budget", *error.where), error.reason) from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
