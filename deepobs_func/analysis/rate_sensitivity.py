"""How much an optimizer minds its learning rate: the region of good rates, and its width."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.samples import Values, values
from deepobs_func.errors import DataError, option


@dataclass(frozen=True)
class RateSensitivity:
    """The learning rates that are good enough.

    Attributes:
        best_rate, best: the best rate of the grid, and its value.
        bound: the value from which on a rate is good.
        low, high: the ends of the good region around the best rate; NaN where there is none.
        width: of the region, in decades: `log10(high / low)`.
        share: of the searched range, on the logarithmic axis.
        low_is_open, high_is_open: whether the region reaches an end of the grid, so that it may be wider.
    """

    best_rate: float
    best: float
    bound: float
    low: float
    high: float
    width: float
    share: float
    low_is_open: bool
    high_is_open: bool


def rate_sensitivity(
    rates: ArrayLike,
    given: ArrayLike,
    *,
    higher_is_better: bool,
    tolerance: float | None = None,
    target: float | None = None,
) -> RateSensitivity:
    """The region of rates around the best one whose value is within a tolerance of the best, or reaches a target.

    Between two rates of the grid, the value is interpolated linearly over `log(rate)`; where one of them diverged (NaN
    or infinite), the region ends at the other one.

    Args:
        rates: learning rates, positive, each once.
        given: the value at each rate; NaN for one that diverged. Means over seeds, or those of one seed.
        higher_is_better: as of accuracies.
        tolerance: how far from the best a value may be, in units of the metric; positive.
        target: instead, the value that must be reached.

    Returns:
        The region. One that no rate is in has a width of 0, and NaN as ends.

    Raises:
        DataError: there is no rate, rates are not positive or there twice, the numbers differ, or both of, or neither
            of, `tolerance` and `target` are given.

    >>> found = rate_sensitivity([0.001, 0.01, 0.1, 1.0], [0.5, 0.9, 0.8, 0.1], higher_is_better=True, tolerance=0.1)
    >>> round(found.low, 5), round(found.high, 5), round(found.width, 2)
    (0.00562, 0.1, 1.25)
    """
    axis, order = _axis(rates)
    found = values(given, "values")
    if found.size != axis.size:
        raise DataError(f"There are {axis.size} rates and {found.size} values; give as many of each.")
    if (tolerance is None) == (target is None):
        raise DataError(f"Give {option('tolerance')} or {option('target')}, one of them.")
    if tolerance is not None and not tolerance > 0:
        raise DataError(f"{option('tolerance')} {tolerance}: it must be positive, in units of the metric.")
    sign = 1.0 if higher_is_better else -1.0
    curve = np.where(np.isfinite(found[order]), sign * found[order], -math.inf)
    top = int(curve.argmax())
    best, rate = (sign * float(curve[top]), float(10 ** axis[top])) if np.isfinite(curve[top]) else (math.nan, math.nan)
    bound = target if target is not None else best - sign * (tolerance or 0.0)
    if math.isnan(best) or curve[top] < sign * bound:
        return RateSensitivity(rate, best, bound, math.nan, math.nan, 0.0, 0.0, False, False)
    low, low_is_open = _end(axis, curve, top, sign * bound, -1)
    high, high_is_open = _end(axis, curve, top, sign * bound, 1)
    whole = float(axis[-1] - axis[0])
    share = (high - low) / whole if whole > 0 else 0.0
    return RateSensitivity(rate, best, bound, 10**low, 10**high, high - low, share, low_is_open, high_is_open)


def _axis(rates: ArrayLike) -> tuple[Values, np.ndarray[tuple[int, ...], np.dtype[np.int64]]]:
    """The logarithms of the rates, sorted, and their order."""
    found = values(rates, "rates")
    if not (np.isfinite(found).all() and (found > 0).all() and np.unique(found).size == found.size):
        raise DataError("A learning rate is not positive, or there twice; average over seeds first.")
    order = np.argsort(found)
    return np.log10(found[order]), order


def _end(axis: Values, curve: Values, top: int, bound: float, step: int) -> tuple[float, bool]:
    """Where the curve falls below the bound on one side of its top, and whether it never does."""
    here = top
    while 0 <= here + step < axis.size:
        there = here + step
        if curve[there] < bound:
            if math.isinf(curve[there]):
                return float(axis[here]), False
            part = (curve[here] - bound) / (curve[here] - curve[there])
            return float(axis[here] + part * (axis[there] - axis[here])), False
        here = there
    return float(axis[here]), True
