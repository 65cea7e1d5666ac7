"""Intervals that hold at every number of seeds at once, so that one may look after each seed and stop at will.

`P(for every n, the true value lies within interval n) >= level`: a confidence sequence. It makes no matter why, or by
what rule, somebody stops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from deepobs_func.errors import ConfigError, option, unknown

Answer = Literal["A", "B", "tie", "undecided"]
EFFECT = 2.0
"""Variance, in squared standard deviations, of the effects that the t-mixture expects: chosen by simulation."""


class Bounds(NamedTuple):
    """An interval after some seeds."""

    low: float
    high: float


def t_mixture(differences: Sequence[float], level: float) -> Bounds:
    """The confidence sequence of the mean of normal differences whose variance is not known.

    For a mean m, `t = sqrt(n) (mean - m) / s`. Under an effect size `(mu - m) / sigma ~ N(0, g)`, the likelihood ratio
    of t is, with `A = 1 + n g`,

    `E_n(m) = A^(-1/2) ((1 + t^2 / (n - 1)) / (1 + t^2 / ((n - 1) A)))^(n / 2)`.

    Under the mean m, whatever the variance, it is a nonnegative martingale that starts at 1, in the filtration of the
    statistics that no scale changes (the right Haar mixture over sigma); by Ville's inequality it ever reaches
    `1 / alpha` with probability alpha at most. The interval has the means at which it is below:
    `mean -+ s sqrt((n - 1) (R - 1) / (n (1 - R / A)))` with `R = (sqrt(A) / alpha)^(2 / n)`; the whole line while
    `R >= A`, which with g = 2 and alpha = 0.05 is up to n = 3.

    Args:
        differences: one a seed, in the order in which they are counted.
        level: such as 0.95.

    Returns:
        The interval after these differences alone; intersected over all numbers of seeds it is still valid.

    Source: Lai, 1976; Wang and Ramdas, *Anytime-valid t-tests and confidence sequences for Gaussian means with unknown
    variance*, 2023 (theorem on the Gaussian mixture); the Bayes factor is that of Gonen et al., 2005.
    """
    size, scale = len(differences), 1.0 + len(differences) * EFFECT
    if size < 2:
        return Bounds(-math.inf, math.inf)
    ratio = (math.sqrt(scale) / (1.0 - level)) ** (2.0 / size)
    if ratio >= scale:
        return Bounds(-math.inf, math.inf)
    mean = math.fsum(differences) / size
    spread = math.sqrt(math.fsum((each - mean) ** 2 for each in differences) / (size - 1))
    half = spread * math.sqrt((size - 1) * (ratio - 1.0) / (size * (1.0 - ratio / scale)))
    return Bounds(mean - half, mean + half)


def sign_mixture(differences: Sequence[float], level: float) -> Bounds:
    """The confidence sequence of the median of differences of any distribution; infinite ones count as they are.

    Of n differences, k lie above a median m. `E_n(m) = 2^n B(k + 1/2, n - k + 1/2) / B(1/2, 1/2)`, the likelihood ratio
    of a coin with Jeffreys' mixture against a fair one, is a martingale of mean 1 if m is the median, so that Ville's
    inequality holds. The interval lies between two order statistics; at alpha = 0.05 it has ends from n = 7 on.

    Args:
        differences, level: as for `t_mixture`.

    Returns:
        The interval after these differences.

    Source: Ville, 1939; Robbins, 1970; Howard and Ramdas, *Bernoulli* 28, 2022 (quantiles).
    """
    size, placed, rank = len(differences), sorted(differences), 0
    while 2 * rank < size and _log_coin(size, rank) >= -math.log(1.0 - level):
        rank += 1  # a median with so few differences above, or below, is excluded
    if rank == 0:
        return Bounds(-math.inf, math.inf)
    return Bounds(placed[rank - 1], placed[-rank])


def _log_coin(size: int, heads: int) -> float:
    """The logarithm of the martingale after so many heads."""
    beta = math.lgamma(heads + 0.5) + math.lgamma(size - heads + 0.5) - math.lgamma(size + 1.0)
    return size * math.log(2.0) + beta - math.log(math.pi)


Sequential = Callable[[Sequence[float], float], Bounds]
TESTS: dict[str, Sequential] = {"t": t_mixture, "sign": sign_mixture}
"""By name: of the mean of normal differences, and of the median of any."""


def find_test(name: str) -> Sequential:
    """The confidence sequence of a name.

    Raises:
        ConfigError: there is none.
    """
    if name not in TESTS:
        raise ConfigError(f"{option('test')} {name}: {unknown('test', name, TESTS)}")
    return TESTS[name]


def running(differences: Sequence[float], level: float, test: Sequential = t_mixture) -> list[Bounds]:
    """The intervals after each seed, each intersected with those before; a list of one for each difference.

    An empty intersection, which the level allows for, stays at its last interval that was not.
    """
    found: list[Bounds] = []
    low, high = -math.inf, math.inf
    for size in range(1, len(differences) + 1):
        each = test(differences[:size], level)
        if max(low, each.low) <= min(high, each.high):
            low, high = max(low, each.low), min(high, each.high)
        found.append(Bounds(low, high))
    return found


def answer_of(bounds: Bounds, delta: float | None) -> Answer:
    """What an interval of `A - B`, positive where A is better, is certain of.

    `"tie"` where it lies within `[-delta, delta]`, also where it excludes 0: the difference is too small to count.
    """
    if delta is not None and -delta <= bounds.low and bounds.high <= delta:
        return "tie"
    if bounds.low > 0:
        return "A"
    return "B" if bounds.high < 0 else "undecided"
