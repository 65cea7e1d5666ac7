"""What a hyperparameter may be: a number in a range, a whole number, one of some names. Imports no torch."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from deepobs_func.errors import ConfigError, unknown


class Kind(Protocol):
    """What a hyperparameter may be."""

    def checked(self, name: str, value: Any) -> Any:
        """The value, converted to its kind.

        Raises:
            ConfigError: it is of another kind, or out of its range.
        """


@dataclass(frozen=True)
class Range:
    """A number from `low`, or above it if `above`, up to, but without, `high`; with it, if `closed`."""

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False
    above: bool = False

    def __contains__(self, value: float) -> bool:
        is_high_enough = self.low < value if self.above else self.low <= value
        return is_high_enough and (value < self.high or (self.closed and value == self.high))

    def __str__(self) -> str:
        if self == Range():
            return "any number"
        least = f"{'above' if self.above else 'at least'} {self.low:g}"
        if not math.isfinite(self.high):
            return least
        return f"{least} and {'at most' if self.closed else 'below'} {self.high:g}"

    def checked(self, name: str, value: Any) -> float:
        """The value as a float.

        Raises:
            ConfigError: it is not a finite number, or out of the range; the message has the name of the hyperparameter.
        """
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be a finite number.")
        if float(value) not in self:
            raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be {self}.")
        return float(value)


@dataclass(frozen=True)
class Whole:
    """A whole number from `low`."""

    low: int = 1

    def __str__(self) -> str:
        return f"a whole number from {self.low}"

    def checked(self, name: str, value: Any) -> int:
        """The value as an int.

        Raises:
            ConfigError: it is not a whole number, or below `low`; the message has the name of the hyperparameter.
        """
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < self.low:
            raise ConfigError(f"The hyperparameter {name} is {value!r}; it must be {self}.")
        return int(value)


@dataclass(frozen=True)
class OneOf:
    """One of some names; None among them where there is no default, and a problem may need none."""

    values: tuple[str | None, ...]

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"

    def checked(self, name: str, value: Any) -> str | None:
        """The value as it is.

        Raises:
            ConfigError: it is none of the names; the message has the name of the hyperparameter.
        """
        if value not in self.values:
            raise ConfigError(unknown(f"choice for the hyperparameter {name}:", str(value), map(str, self.values)))
        return value


@dataclass(frozen=True)
class OrNone:
    """Of some kind, or None."""

    kind: Kind

    def __str__(self) -> str:
        return f"{self.kind}, or None"

    def checked(self, name: str, value: Any) -> Any:
        """The value as the kind has it, or None.

        Raises:
            ConfigError: it is neither.
        """
        return None if value is None else self.kind.checked(name, value)


ANY, FRACTION, POSITIVE, SHARE = Range(), Range(0.0, 1.0), Range(0.0), Range(0.0, 1.0, closed=True)
"""Any finite number; from 0 to below 1; from 0; from 0 to 1."""


class Search(NamedTuple):
    """Where tuning looks for a number, unless the user says otherwise.

    Attributes:
        low, high: the ends.
        word: the distribution, one of `study.spaces.WORDS`.
    """

    low: float
    high: float
    word: str = "loguniform"


class Hyperparameter(NamedTuple):
    """A hyperparameter of an optimizer.

    Attributes:
        default: its value where none is given.
        kind: what it may be.
        search: where tuning looks for it; None where tuning leaves it at its default.
    """

    default: float | int | str | None
    kind: Kind = ANY
    search: Search | None = None
