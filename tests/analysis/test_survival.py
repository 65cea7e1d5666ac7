"""Time to a target beside SciPy, lifelines' formulas written out, and planted times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepobs_func.analysis import survival
from deepobs_func.errors import DataError

EXAMPLES = 25
TIMES = st.lists(st.tuples(st.integers(0, 20).map(float), st.booleans()), min_size=1, max_size=20)


def product_limit(times: list[float], reached: list[bool], at: float) -> float:
    """Kaplan and Meier's definition."""
    remaining = 1.0
    for time in sorted({t for t, flag in zip(times, reached, strict=True) if flag and t <= at}):
        at_risk = sum(t >= time for t in times)
        remaining *= 1 - sum(t == time and flag for t, flag in zip(times, reached, strict=True)) / at_risk
    return remaining


@settings(max_examples=EXAMPLES)
@given(runs=TIMES, at=st.floats(0, 25))
def test_kaplan_meier_is_the_product(runs: list[tuple[float, bool]], at: float) -> None:
    times, reached = map(list, zip(*runs, strict=True))
    assert survival.kaplan_meier(times, reached).after(at) == pytest.approx(
        product_limit(times, reached, at), abs=1e-12
    )


@settings(max_examples=EXAMPLES)
@given(runs=TIMES)
def test_the_area_is_that_of_the_steps(runs: list[tuple[float, bool]]) -> None:
    times, reached = map(list, zip(*runs, strict=True))
    grid = np.arange(0, max(times), 0.5)
    slow = sum(0.5 * product_limit(times, reached, at) for at in grid)
    assert survival.kaplan_meier(times, reached).restricted_mean() == pytest.approx(slow)


def test_without_censoring_it_is_the_mean_and_the_median() -> None:
    times = [3.0, 1.0, 7.0, 5.0, 2.0]
    curve = survival.kaplan_meier(times, [True] * 5)
    assert curve.median == 3.0
    assert curve.restricted_mean() == pytest.approx(np.mean(times))


def test_nobody_reaches_the_target() -> None:
    curve = survival.kaplan_meier([10.0, 10.0], [False, False])
    assert (curve.median, curve.reached, curve.size, curve.after(10.0)) == (math.inf, 0, 2, 1.0)
    assert curve.restricted_mean() == 10.0
    found = survival.median_time([10.0] * 5, [False] * 5)
    assert (found.estimate, found.low, found.high) == (math.inf, 10.0, math.inf)
    assert survival.log_rank([10.0], [False], [10.0, 9.0], [False, False]) == 1.0


def test_the_end_of_the_budget_censors() -> None:
    times, reached = [4.0, 6.0, 8.0, 10.0, 10.0], [True, True, True, False, False]
    found = survival.median_time(times, reached)
    assert (found.estimate, found.low, found.high, found.size) == (8.0, 4.0, math.inf, 5)
    early = survival.median_time([4.0, 6.0, 8.0, 5.0, 10.0], reached)
    assert not early.is_offered
    assert "ended early" in early.missing


@settings(max_examples=EXAMPLES)
@given(runs=TIMES, budget=st.integers(0, 25))
def test_the_median_is_one_wherever_runs_are_censored(runs: list[tuple[float, bool]], budget: int) -> None:
    """Early or at the end of a budget, it is Kaplan and Meier's, and inside of its interval."""
    times, reached = map(list, zip(*runs, strict=True))
    at_the_end = [min(time, budget) for time in times], [time <= budget for time in times]
    for given_times, flags in ((times, reached), at_the_end):
        found = survival.median_time(given_times, flags)
        assert found.estimate == survival.kaplan_meier(given_times, flags).median
        assert not found.is_offered or found.low <= found.estimate <= found.high


def test_of_an_even_number_it_is_the_lower_of_the_middle_two() -> None:
    assert survival.median_time([1.0, 2.0, 3.0, 4.0], [True] * 4).estimate == 2.0
    assert survival.median_time([2.0] * 5 + [9.0] * 5, [True] * 5 + [False] * 5).estimate == 2.0


def test_the_share_is_binomial() -> None:
    times, reached = [4.0, 6.0, 8.0, 10.0, 10.0], [True, True, True, False, False]
    found = survival.share_reached(times, reached, 7.0)
    exact = stats.binomtest(2, 5).proportion_ci(0.95, "exact")
    assert (found.estimate, found.low, found.high) == pytest.approx((0.4, exact.low, exact.high))
    assert not survival.share_reached([4.0, 3.0], [True, False], 5.0).is_offered


@settings(max_examples=EXAMPLES)
@given(a=TIMES, b=TIMES)
def test_log_rank_is_observed_minus_expected(a: list[tuple[float, bool]], b: list[tuple[float, bool]]) -> None:
    """Mantel's statistic, written out."""
    observed = expected = variance = 0.0
    both = a + b
    for time in sorted({t for t, flag in both if flag}):
        n, n_a = sum(t >= time for t, _ in both), sum(t >= time for t, _ in a)
        d, d_a = sum(t == time and f for t, f in both), sum(t == time and f for t, f in a)
        observed, expected = observed + d_a, expected + d * n_a / n
        variance += d * (n_a / n) * (1 - n_a / n) * (n - d) / (n - 1) if n > 1 else 0.0
    p = 1.0 if variance < 1e-12 else 2 * stats.norm.sf(abs(observed - expected) / math.sqrt(variance))
    found = survival.log_rank(*zip(*a, strict=True), *zip(*b, strict=True))
    assert found == pytest.approx(p, abs=1e-9)


def test_a_planted_winner_is_faster() -> None:
    generator = np.random.default_rng(0)
    fast, slow = generator.exponential(2.0, 15), generator.exponential(20.0, 15)
    budget = 15.0
    given = [part for x in (fast, slow) for part in (np.minimum(x, budget), x <= budget)]
    assert survival.log_rank(*given) < 0.01
    assert survival.kaplan_meier(*given[:2]).median < survival.kaplan_meier(*given[2:]).median


def test_when_a_curve_reaches() -> None:
    assert survival.first_reached([math.nan, 0.2, 0.1], 0.2, higher_is_better=False) == (1.0, True)
    assert survival.first_reached([0.5], 0.6, higher_is_better=True, clock=[0.0]) == (0.0, False)
    with pytest.raises(DataError, match="entries"):
        survival.first_reached([0.5], 0.6, higher_is_better=True, clock=[0.0, 1.0])


@pytest.mark.parametrize(
    ("times", "reached", "said"),
    [
        ([], [], "at least one"),
        ([1.0], [True, False], "flags"),
        ([-1.0], [True], "negative"),
        ([math.inf], [True], "finite"),
    ],
)
def test_bad_times_are_told(times: list[float], reached: list[bool], said: str) -> None:
    with pytest.raises(DataError, match=said):
        survival.kaplan_meier(times, reached)
