"""Means of what probes find over several batches, with their standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from deepobs_func.errors import ConfigError, option
from deepobs_func.probes.catalog import LAYER, row_of

Mean = tuple[Any, Any]
"""A value, or nested lists of them, and its standard error in the same form; None where there is none."""


def check_means(names: Sequence[str], batches: int) -> None:
    """Checks that there is a mean over several batches.

    Raises:
        ConfigError: a quantity has none, entry by entry.
    """
    for name in names:
        if batches > 1 and not row_of(name).averages:
            raise ConfigError(
                f"{option('quantities')} {name}: each batch has a grid of its own, so that there is no mean over "
                f"{option('batches')} {batches}. Leave {option('batches')} out, or take {option('over')} train, the "
                "Hessian of the mean loss over as many batches."
            )


def with_parts(names: Sequence[str]) -> tuple[str, ...]:
    """The names, and those of which ratios among them are made."""
    return tuple(dict.fromkeys([*names, *(part for name in names for part in _parts(name))]))


def mean_of(name: str, each: Sequence[Mapping[str, Any]]) -> Mean:
    """The mean of a quantity over batches; of a ratio, the ratio of the means.

    Args:
        name: of the quantity.
        each: of every batch, the value by name, with those that `with_parts` adds where there are several.
    """
    parts = _parts(name)
    if len(each) == 1 or not parts:
        return mean([values[name] for values in each])
    above, below = ([values[part] for values in each] for part in parts)
    return ratio_of_means(above, below)


def _parts(name: str) -> tuple[str, ...]:
    """The names of what a quantity is the ratio of; none where it is no ratio of estimates."""
    end = LAYER if name.endswith(LAYER) else ""
    return tuple(part + end for part in row_of(name).ratio_of)


def mean(values: Sequence[Any]) -> Mean:
    """The mean over batches and its standard error, entry by entry; of one batch its value, as it is.

    >>> mean([1.0, 3.0])
    (2.0, 1.0)
    """
    if len(values) == 1:
        return values[0], None
    if isinstance(values[0], list):
        pairs = [mean(entries) for entries in zip(*values, strict=True)]
        return [value for value, _ in pairs], [error for _, error in pairs]
    found = math.fsum(values) / len(values) if all(map(math.isfinite, values)) else sum(values) / len(values)
    return found, _error([value - found for value in values])


def ratio_of_means(above: Sequence[Any], below: Sequence[Any]) -> Mean:
    """`mean a / mean b` with the error of the ratio estimator, entry by entry; infinite where mean b is not positive.

    A mean of ratios is biased, and infinite as soon as one b is not positive. Formula of the error, of N batches:
    `sqrt(sum_n (a_n - r b_n)^2 / (N (N - 1))) / mean b`.

    Source: W. G. Cochran, "Sampling techniques", 3rd ed. 1977, section 6.4.

    >>> ratio_of_means([2.0, 4.0], [1.0, 2.0])
    (2.0, 0.0)
    """
    if isinstance(above[0], list):
        columns = zip(zip(*above, strict=True), zip(*below, strict=True), strict=True)
        pairs = [ratio_of_means(a, b) for a, b in columns]
        return [value for value, _ in pairs], [error for _, error in pairs]
    over = mean(below)[0]
    if not over > 0:
        return math.inf, math.nan
    ratio = mean(above)[0] / over
    return ratio, _error([a - ratio * b for a, b in zip(above, below, strict=True)]) / over


def _error(residuals: Sequence[float]) -> float:
    """The standard error of a mean, of what single values differ from it."""
    squares, count = sum(residual**2 for residual in residuals), len(residuals)
    return math.sqrt(squares / (count - 1) / count) if math.isfinite(squares) else math.nan
