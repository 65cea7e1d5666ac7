"""The tests behind the verdicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

LEVEL = 0.05


@dataclass(frozen=True)
class Sample:
    """A sample, summarised: its mean, its standard deviation (ddof 1) and its size."""

    mean: float
    sd: float
    size: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Sample:
        """The summary of some values; without at least two, all finite, there is no deviation: it is NaN."""
        spread = len(values) > 1 and all(math.isfinite(value) for value in values)
        return cls(mean(values), stdev(values) if spread else math.nan, len(values))


def welch(a: Sample, b: Sample) -> float:
    """The p-value of Welch's two-sided t-test that two means are equal, the variances not assumed so.

    `t = (mean_a - mean_b) / sqrt(sd_a^2 / n_a + sd_b^2 / n_b)`. NaN where a sample has one value or a mean is not
    finite; then there is no verdict. Two samples without spread are equal (1) or not (0).

    Source: Welch, 1947; computed by SciPy.
    """
    if not all(math.isfinite(value) for value in (a.mean, a.sd, b.mean, b.sd)):
        return math.nan
    if a.sd == b.sd == 0:
        return 1.0 if a.mean == b.mean else 0.0
    from scipy.stats import ttest_ind_from_stats

    return float(ttest_ind_from_stats(a.mean, a.sd, a.size, b.mean, b.sd, b.size, equal_var=False).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment of several p-values, in their order: compared with the level, they keep the family-wise error.

    The i-th smallest of m is multiplied by `m - i` (i from 0), made monotone and capped at 1. NaN stays NaN and is
    not counted.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    ranked = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    adjusted, highest = [math.nan] * len(p_values), 0.0
    for rank, (p, index) in enumerate(ranked):
        highest = max(highest, min(1.0, p * (len(ranked) - rank)))
        adjusted[index] = highest
    return adjusted
