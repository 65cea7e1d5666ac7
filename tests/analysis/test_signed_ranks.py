"""Wilcoxon's test beside SciPy where that is exact, and beside all signs one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepobs_func.analysis.signed_ranks import signed_ranks
from deepobs_func.errors import DataError


@settings(max_examples=25)
@given(values=st.lists(st.floats(-10, 10).filter(bool), min_size=1, max_size=30, unique_by=abs))
def test_without_ties_it_is_scipys(values: list[float]) -> None:
    assert signed_ranks(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)


@settings(max_examples=25)
@given(values=st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_with_ties_it_counts_all_signs(values: list[int]) -> None:
    kept = [value for value in values if value]
    if not kept:
        assert signed_ranks(values) == 1.0
        return
    ranks = stats.rankdata(np.abs(kept))
    sums = [sum(itertools.compress(ranks, signs)) for signs in itertools.product((0, 1), repeat=len(kept))]
    found = sum(ranks[np.array(kept) > 0])
    low, high = (np.mean([side(each, found) for each in sums]) for side in (np.less_equal, np.greater_equal))
    assert signed_ranks(values) == pytest.approx(min(1.0, 2 * min(low, high)))


def test_infinity_is_the_largest() -> None:
    assert signed_ranks([1.0, 2.0, -math.inf]) == signed_ranks([1.0, 2.0, -3.0])
    with pytest.raises(DataError, match="differences"):
        signed_ranks([])
