"""Values of several seeds, checked: what every statistic starts with."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepobs_func.errors import DataError, option

LEVEL = 0.95
"""Of an interval, unless another one is asked for."""
SHORT = 0.02
"""By how much the coverage of an interval that is offered may fall short of its level."""
RESAMPLES = 1999
Values = NDArray[np.float64]


def values(given: ArrayLike, name: str = "values") -> Values:
    """Numbers of several seeds, as a vector of float64.

    Args:
        given: the numbers, one a seed; NaN and infinities are kept.
        name: what to call them in a message.

    Returns:
        A copy.

    Raises:
        DataError: there is none, or they are no list of numbers.
    """
    try:
        found = np.array(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name}: {given!r} is no list of numbers.") from error
    if found.ndim != 1 or not found.size:
        raise DataError(f"{name}: its shape is {found.shape}; give a list of at least one number, one a seed.")
    return found


def averages(table: Values) -> Values:
    """The mean over the last axis: summed from the first to the last value, then corrected by the mean of what is left.

    Equal values have exactly that mean, however many they are: rounding tells no two samples apart. The report's
    `Numbers.mean` does the same, bit for bit.

    Args:
        table: `(..., size)`, of at least one value.

    Returns:
        `(...)`; where the sum is not finite, neither is the mean.
    """
    size = table.shape[-1]
    with np.errstate(invalid="ignore", over="ignore"):
        found: Values = np.cumsum(table, axis=-1)[..., -1] / size
        left = np.cumsum(table - found[..., None], axis=-1)[..., -1] / size
    return np.where(np.isfinite(found), found + left, found)


def average(found: ArrayLike) -> float:
    """The mean of some values, by `averages`."""
    return float(averages(np.asarray(found, dtype=np.float64)))


def variance(found: Values) -> float:
    """The variance of a sample, ddof 1, about its `average`: exactly 0 for equal values."""
    return float(((found - average(found)) ** 2).sum()) / (found.size - 1)


def check_level(level: float) -> float:
    """The level of an interval, or of a test's confidence.

    Raises:
        DataError: it is not between 0 and 1.
    """
    if not 0.0 < level < 1.0:
        raise DataError(f"{option('level')} {level}: it must lie between 0 and 1, such as 0.95.")
    return float(level)


def not_finite(found: Values) -> str:
    """Why there is no mean: how many values are not finite; "" where all are."""
    count = int(np.count_nonzero(~np.isfinite(found)))
    return f"{count} of {found.size} values are not finite" if count else ""


def ordered(names: Sequence[Any], kind: str, least: int = 1) -> list[Any]:
    """Names, each once.

    Args:
        names: in their order.
        kind: of what, in a message.
        least: how many there must be.

    Returns:
        The names.

    Raises:
        DataError: there are too few, or one is there twice.
    """
    found = list(names)
    if len(found) < least:
        raise DataError(f"There are {len(found)} {kind}; it takes at least {least}.")
    if len(set(found)) < len(found):
        raise DataError(f"Each of the {kind} may be there once; given: {', '.join(map(str, found))}.")
    return found


@functools.lru_cache(maxsize=32)
def draws(size: int, resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.int64]:
    """Indices of bootstrap samples `(resamples, size)`, the same ones at each call: a report is reproducible."""
    found = np.random.default_rng([seed, size, resamples]).integers(0, size, (resamples, size))
    found.setflags(write=False)
    return found
