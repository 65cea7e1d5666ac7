"""Wilcoxon's signed-rank test, exact also with ties: SciPy then takes a normal approximation, or a second."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deepobs_func.analysis.samples import Values, values


def signed_ranks(differences: ArrayLike) -> float:
    """The p-value of Wilcoxon's two-sided signed-rank test that differences are symmetric about 0.

    Zeros are dropped, ties have the mean of their ranks. The distribution of the sum of the positive ranks over all
    `2^n` signs is counted exactly, rank by rank; p is twice the smaller tail, 1 at most.

    Args:
        differences: of pairs; infinities count as they are.

    Returns:
        The p-value; 1 where all are 0.

    Raises:
        DataError: there is no difference.

    Source: Wilcoxon, 1945; the dropping of zeros is his, too.

    >>> signed_ranks([1.0, 2.0, 3.0, 4.0, 5.0])
    0.0625
    """
    found, doubled = _ranked(differences)
    if not found.size:
        return 1.0
    counts = np.zeros(doubled.sum() + 1)
    counts[0] = 1.0
    for each in doubled:  # half of all signs are positive; probabilities, since counts would overflow
        shifted = np.concatenate([np.zeros(each), counts[: counts.size - each]])
        counts = (counts + shifted) / 2.0
    positive = int(doubled[found > 0].sum())
    tail = min(counts[: positive + 1].sum(), counts[positive:].sum())
    return float(min(1.0, 2.0 * tail))


def signed_rank_sum(differences: ArrayLike) -> float:
    """The sum of the ranks of positive differences, less that of negative ones: which way Wilcoxon's test points.

    Args:
        differences: of pairs; zeros are dropped, ties have the mean of their ranks.

    Returns:
        The sum; 0 where all are 0.

    Raises:
        DataError: there is no difference.

    >>> signed_rank_sum([1.0, 2.0, -3.0])
    0.0
    """
    found, doubled = _ranked(differences)
    return float((np.sign(found) * doubled).sum()) / 2.0


def _ranked(differences: ArrayLike) -> tuple[Values, NDArray[np.int64]]:
    """The differences that are not zero, and twice the rank of each, which is whole also for ties."""
    found = values(differences, "differences")
    found = found[found != 0]
    from scipy.stats import rankdata

    return found, np.rint(2 * rankdata(np.abs(found))).astype(np.int64)
