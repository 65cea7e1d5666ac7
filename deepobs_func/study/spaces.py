"""What a hyperparameter may take in a study: values, grids and distributions. Imports no torch.

Each is a frozen value. `grid()` lists a finite one. `at(u)` is the inverse of its distribution function, by which
points of [0, 1), random or of a sequence, become values.
"""

from __future__ import annotations

import math
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from deepobs_func.errors import ConfigError

MOST = 10_000
"""Values of a grid, and samples of a distribution."""


@dataclass(frozen=True)
class Space(ABC):
    """What a hyperparameter may take.

    Attributes:
        finite: whether `grid()` lists all of it.
        drawn: whether a sweep draws from it, and does not go through it.
    """

    word: ClassVar[str]
    finite: ClassVar[bool] = True
    drawn: ClassVar[bool] = False

    @abstractmethod
    def at(self, u: float) -> Any:
        """The value at a point of the unit interval: uniform points make values of the distribution.

        Args:
            u: in [0, 1).

        Returns:
            The value. Of ordered values, a larger `u` never has a smaller one.

        Raises:
            ValueError: `u` is not in [0, 1).
        """

    def grid(self) -> list[Any]:
        """All its values, in order.

        Raises:
            ConfigError: there is no end of them.
        """
        raise ConfigError(f"{self} has no end of values; draw `samples` of them, or give a list or a grid.")

    def count(self) -> float:
        """How many values it has; infinity where there is no end of them."""
        return len(self.grid()) if self.finite else math.inf

    def extremes(self) -> list[Any]:
        """Values among which a wrong one is, if any is wrong: all of some, both ends of an interval."""
        return self.grid()

    @abstractmethod
    def plain(self) -> dict[str, Any]:
        """As a study's YAML has it: its kind, and what belongs to it."""

    def __str__(self) -> str:
        ((word, what), *_) = self.plain().items()
        return f"{word}: {what}"


@dataclass(frozen=True)
class Values(Space):
    """Some values, each once in a sweep.

    Attributes:
        values: at least one.

    >>> Values((0.1, 0.01)).grid(), Values((0.1, 0.01)).at(0.5)
    ([0.1, 0.01], 0.01)
    """

    values: tuple[Any, ...]
    word: ClassVar[str] = "values"

    def __post_init__(self) -> None:
        if not self.values:
            raise ConfigError("It is empty; give one value at least.")
        shown = [repr(value) for value in self.values]
        for index, each in enumerate(shown):
            if shown.index(each) < index:
                raise ConfigError(f"{each} is there twice, items {shown.index(each)} and {index}; leave one out.")

    def at(self, u: float) -> Any:
        return self.values[_index(u, len(self.values))]

    def grid(self) -> list[Any]:
        return list(self.values)

    def plain(self) -> dict[str, Any]:
        return {self.word: [*self.values]}


@dataclass(frozen=True)
class LinearGrid(Space):
    """`num` values from `low` to `high`, both exactly, at equal distances.

    Attributes:
        low, high: the ends.
        num: how many values, at least 2.

    >>> LinearGrid(0.0, 1.0, 5).grid()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    low: float
    high: float
    num: int
    word: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        _check_ends(self.word, self.low, self.high)
        _check_count(self.word, self.num)

    def at(self, u: float) -> float:
        return self.grid()[_index(u, self.num)]

    def grid(self) -> list[float]:
        step = (self.high - self.low) / (self.num - 1)
        return [self.low, *(self.low + step * k for k in range(1, self.num - 1)), self.high]

    def plain(self) -> dict[str, Any]:
        return {self.word: [self.low, self.high, self.num]}


@dataclass(frozen=True)
class LogGrid(Space):
    """`num` values from `low` to `high`, both exactly, at equal ratios.

    Attributes:
        low, high: the ends.
        num: how many values, at least 2.

    >>> LogGrid(1e-5, 1e2, 36).grid()[:3] == [10 ** (-5 + 0.2 * k) for k in range(3)]
    True
    """

    low: float
    high: float
    num: int
    word: ClassVar[str] = "log"

    def __post_init__(self) -> None:
        _check_positive(self.word, self.low)
        _check_ends(self.word, self.low, self.high)
        _check_count(self.word, self.num)

    def at(self, u: float) -> float:
        return self.grid()[_index(u, self.num)]

    def grid(self) -> list[float]:
        start, end = math.log10(self.low), math.log10(self.high)
        step = (end - start) / (self.num - 1)
        return [self.low, *(10 ** (start + step * k) for k in range(1, self.num - 1)), self.high]

    def plain(self) -> dict[str, Any]:
        return {self.word: [self.low, self.high, self.num]}


class Drawn(Space):
    """A distribution.

    Attributes:
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.
    """

    samples: int | None
    drawn: ClassVar[bool] = True

    def _check_samples(self) -> None:
        if self.samples is not None and (not _is_whole(self.samples) or not 1 <= self.samples <= MOST):
            raise ConfigError(f"samples {self.samples!r}: it must be a whole number from 1 to {MOST}.")

    def _with_samples(self, plain: dict[str, Any]) -> dict[str, Any]:
        return plain if self.samples is None else plain | {"samples": self.samples}


@dataclass(frozen=True)
class Between(Drawn):
    """A distribution of numbers between two ends.

    Attributes:
        low, high: the ends.
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.
    """

    low: float
    high: float
    samples: int | None = None

    def __post_init__(self) -> None:
        self._check_samples()
        _check_ends(self.word, self.low, self.high)

    def extremes(self) -> list[float]:
        return [self.low, self.high]

    def plain(self) -> dict[str, Any]:
        return self._with_samples({self.word: [self.low, self.high]})

    def _clipped(self, value: float) -> float:
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Uniform(Between):
    """A number between `low` and `high`, each equally likely.

    Attributes:
        low, high: the ends.
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.

    >>> Uniform(0.0, 2.0).at(0.25)
    0.5
    """

    word: ClassVar[str] = "uniform"
    finite: ClassVar[bool] = False

    def at(self, u: float) -> float:
        return self._clipped(self.low + _unit(u) * (self.high - self.low))


@dataclass(frozen=True)
class LogUniform(Between):
    """A positive number between `low` and `high` whose logarithm is uniform.

    Attributes:
        low, high: the ends.
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.

    >>> round(LogUniform(1e-4, 1e-2).at(0.5), 6)
    0.001
    """

    word: ClassVar[str] = "loguniform"
    finite: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_positive(self.word, self.low)
        super().__post_init__()

    def at(self, u: float) -> float:
        start, end = math.log(self.low), math.log(self.high)
        return self._clipped(math.exp(start + _unit(u) * (end - start)))


@dataclass(frozen=True)
class OneMinusLogUniform(Between):
    """A number below 1 whose distance from 1 is log-uniform, as for momentum and the betas of Adam.

    Attributes:
        low, high: the ends.
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.

    >>> round(OneMinusLogUniform(0.9, 0.999).at(0.5), 6)
    0.99
    """

    word: ClassVar[str] = "one_minus_loguniform"
    finite: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.high < 1:
            raise ConfigError(f"{self.word}: {self.high!r} must be below 1.")

    def at(self, u: float) -> float:
        start, end = math.log1p(-self.low), math.log1p(-self.high)
        return self._clipped(-math.expm1(start + _unit(u) * (end - start)))


@dataclass(frozen=True)
class IntUniform(Between):
    """A whole number from `low` to `high`, both included, each equally likely.

    Attributes:
        low, high: the ends.
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.

    >>> IntUniform(1, 3).grid(), IntUniform(1, 3).at(0.99)
    ([1, 2, 3], 3)
    """

    low: int
    high: int
    word: ClassVar[str] = "int"

    def __post_init__(self) -> None:
        for end in (self.low, self.high):
            if not _is_whole(end):
                raise ConfigError(f"{self.word}: {end!r} must be a whole number.")
        super().__post_init__()

    def at(self, u: float) -> int:
        return self.low + _index(u, self.high - self.low + 1)

    def count(self) -> float:
        return self.high - self.low + 1

    def grid(self) -> list[int]:
        if self.count() > MOST:
            raise ConfigError(f"{self} has {self.count()} values, more than the {MOST} of a grid.")
        return list(range(self.low, self.high + 1))


@dataclass(frozen=True)
class Choice(Drawn):
    """One of some values, each equally likely.

    Attributes:
        values: at least one.
        samples: how many values a sweep draws; None leaves it to the optimizer's entry, or to a tuner.

    >>> Choice(("coupled", "frozen")).at(0.5)
    'frozen'
    """

    values: tuple[Any, ...]
    samples: int | None = None
    word: ClassVar[str] = "choice"

    def __post_init__(self) -> None:
        self._check_samples()
        if not self.values:
            raise ConfigError("It is empty; give one value at least.")

    def at(self, u: float) -> Any:
        return self.values[_index(u, len(self.values))]

    def grid(self) -> list[Any]:
        return list(self.values)

    def plain(self) -> dict[str, Any]:
        return self._with_samples({self.word: [*self.values]})


PUBLISHED = Values(tuple(10 ** (-5 + 0.2 * k) for k in range(36)))
"""The 36 learning rates of the published baselines, from 1e-5 to 100, as their folders are named."""
NAMED: Mapping[str, Space] = {"published": PUBLISHED}
"""Sets of learning rates by name."""


def _unit(u: float) -> float:
    if not 0 <= u < 1:
        raise ValueError(f"A point of the unit interval is at least 0 and below 1, not {u}.")
    return u


def _index(u: float, count: int) -> int:
    return min(int(_unit(u) * count), count - 1)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _check_ends(word: str, low: Any, high: Any) -> None:
    for end in (low, high):
        if isinstance(end, bool) or not isinstance(end, numbers.Real) or not math.isfinite(end):
            raise ConfigError(f"{word}: {end!r} must be a finite number.")
    if not low < high:
        raise ConfigError(f"{word}: {low!r} must be below {high!r}.")


def _check_positive(word: str, low: Any) -> None:
    if isinstance(low, int | float) and not low > 0:
        raise ConfigError(f"{word}: {low!r} must be positive.")


def _check_count(word: str, count: Any) -> None:
    if not _is_whole(count) or not 2 <= count <= MOST:
        raise ConfigError(f"{word}: {count!r} values; it must be a whole number from 2 to {MOST}.")
