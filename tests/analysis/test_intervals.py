"""Intervals beside SciPy and closed forms, and what they do with bad values; their coverage: benchmarks/coverage.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepobs_func.analysis import intervals
from deepobs_func.analysis.samples import draws
from deepobs_func.errors import DataError

EXAMPLES = 25
VALUES = st.lists(st.floats(-1e3, 1e3).map(lambda value: round(value, 3)), min_size=2, max_size=25)
SEEDS = [0.91, 0.93, 0.90, 0.95, 0.92, 0.94, 0.89, 0.93]


@settings(max_examples=EXAMPLES)
@given(values=VALUES, level=st.sampled_from([0.8, 0.95, 0.99]))
def test_students_interval_is_scipys(values: list[float], level: float) -> None:
    found = intervals.mean(values, level, assume="normal")
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    low, high = (np.mean(values),) * 2
    if error > 0:
        low, high = stats.t.interval(level, len(values) - 1, np.mean(values), error)
    np.testing.assert_allclose((found.low, found.high), (low, high), atol=1e-8)


@settings(max_examples=EXAMPLES)
@given(values=VALUES)
def test_the_mean_of_any_shape_is_the_wider_one(values: list[float]) -> None:
    student, wide = intervals.mean(values, assume="normal"), intervals.mean(values)
    assert wide.low <= student.low
    assert wide.high >= student.high
    assert wide.estimate == student.estimate


def test_the_studentized_bootstrap_equals_a_slow_one() -> None:
    """Written out sample by sample, from the definition."""
    values = np.array([0.1, 0.2, 0.25, 0.3, 3.0, 0.15])
    ratios = []
    for rows in draws(values.size):
        sample = [values[row] for row in rows]
        spread = np.std(sample, ddof=1)
        if len(set(sample)) > 1:
            ratios.append((np.mean(sample) - values.mean()) / (spread / math.sqrt(values.size)))
    error = values.std(ddof=1) / math.sqrt(values.size - 1)
    high = values.mean() - np.quantile(ratios, 0.025) * error
    assert intervals.mean(values).high == pytest.approx(high, rel=1e-9)


@settings(max_examples=EXAMPLES)
@given(values=st.lists(st.floats(-50, 50), min_size=1, max_size=40), level=st.sampled_from([0.8, 0.9, 0.95]))
def test_the_median_lies_between_order_statistics_that_cover(values: list[float], level: float) -> None:
    found, size = intervals.median(values, level), len(values)
    assert found.estimate == pytest.approx(np.median(values))
    rank = intervals.median_rank(size, level)
    if rank:
        coverage = 1 - 2 * stats.binom.cdf(rank - 1, size, 0.5)
        next_one = 1 - 2 * stats.binom.cdf(rank, size, 0.5)
        assert coverage >= level - 0.02
        assert next_one < level
        assert (found.low, found.high) == (sorted(values)[rank - 1], sorted(values)[-rank])
    else:
        assert 1 - 2 * 0.5**size < level - 0.02
        assert "too few" in found.missing or "one seed" in found.missing


@settings(max_examples=EXAMPLES)
@given(values=st.lists(st.floats(-50, 50), min_size=5, max_size=25))
def test_the_interquartile_mean_is_scipys(values: list[float]) -> None:
    found = intervals.interquartile_mean(values)
    assert found.estimate == pytest.approx(stats.trim_mean(values, 0.25), abs=1e-9)
    cut = len(values) // 4
    error = stats.mstats.trimmed_stde(values, ((cut + 1e-9) / len(values),) * 2)
    half = error * stats.t.ppf(0.975, len(values) - 2 * cut - 1)
    assert found.low <= found.estimate - half + 1e-6
    assert found.high >= found.estimate + half - 1e-6


def test_over_one_problem_is_nearly_that_problem() -> None:
    alone, over = intervals.mean(SEEDS), intervals.over_problems({"mine": SEEDS})
    assert over.estimate == pytest.approx(alone.estimate)
    assert (over.low, over.high) == pytest.approx((alone.low, alone.high), abs=2e-3)
    plain = np.mean([np.mean(SEEDS), np.mean(SEEDS) + 1])
    assert intervals.over_problems({"a": SEEDS, "b": np.add(SEEDS, 1)}).estimate == pytest.approx(plain)


def test_satterthwaite_by_hand() -> None:
    """Two problems: the interval holds Welch's for a sum, which has the same variance and degrees of freedom."""
    a, b = [1.0, 2.0, 4.0, 3.0], [10.0, 30.0, 20.0]
    found = intervals.over_problems({"a": a, "b": b})
    welch = stats.ttest_ind(a, np.negative(b), equal_var=False).confidence_interval(0.95)
    assert found.low <= welch.low / 2 + 1e-9
    assert found.high >= welch.high / 2 - 1e-9


def test_unequal_seeds_weigh_problems_alike() -> None:
    """The weighted interquartile mean equals that of runs copied until every problem has as many."""
    a, b = [1.0, 5.0], [2.0, 3.0, 8.0]
    found = intervals.over_problems({"a": a, "b": b}, statistic="iqm")
    copied = sorted(a * 3 + b * 2)
    assert found.estimate == pytest.approx(np.mean(copied[3:9]))
    equal = intervals.over_problems({"a": a, "b": b[:2]}, statistic="iqm")
    assert equal.estimate == pytest.approx(np.mean(sorted(a + b[:2])[1:3]))


@pytest.mark.parametrize("statistic", [intervals.mean, intervals.median, intervals.interquartile_mean])
def test_one_seed_has_no_interval(statistic) -> None:
    found = statistic([0.5])
    assert (found.estimate, found.is_offered, found.missing) == (0.5, False, "one seed has no spread")
    assert math.isnan(found.low)
    assert str(found) == "0.5 (no interval: one seed has no spread)"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("statistic", [intervals.mean, intervals.interquartile_mean])
def test_what_is_not_finite_leaves_no_interval(statistic, bad: float) -> None:
    found = statistic([0.5, bad, 0.4, 0.3, 0.2])
    assert found.missing == "1 of 5 values are not finite"
    assert not intervals.over_problems({"a": [0.1, bad], "b": [0.1, 0.2]}).is_offered


def test_infinity_is_far_away_for_a_median_and_nan_is_nowhere() -> None:
    found = intervals.median([1.0, 2.0, math.inf, math.inf, math.inf])
    assert (found.estimate, found.low, found.high) == (math.inf, 1.0, math.inf)
    assert math.isnan(intervals.median([1.0, math.nan, 2.0]).estimate)


def test_equal_values_have_a_point() -> None:
    for found in (intervals.mean([0.5] * 5), intervals.interquartile_mean([0.5] * 5), intervals.median([0.5] * 5)):
        assert (found.low, found.high) == (0.5, 0.5)
    assert intervals.over_problems({"a": [1.0, 1.0], "b": [3.0, 3.0]}).low == 2.0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: intervals.mean([]), "at least one number"),
        (lambda: intervals.mean(["a"]), "no list of numbers"),
        (lambda: intervals.mean([[1.0]]), "shape is"),
        (lambda: intervals.mean([1.0, 2.0], level=95), "level"),
        (lambda: intervals.mean([1.0, 2.0], assume="cauchy"), "any or normal"),
        (lambda: intervals.over_problems({}), "no problem"),
        (lambda: intervals.over_problems({"a": [1.0]}, statistic="mode"), "mean or iqm"),
    ],
)
def test_bad_input_is_told(call, said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()
