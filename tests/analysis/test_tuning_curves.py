"""Expected best after k trials, beside all draws one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis.tuning_curves import tuning_curve, win_probability
from deepobs_func.errors import DataError

TRIALS = st.lists(st.integers(0, 6).map(float), min_size=2, max_size=5)


@settings(max_examples=25)
@given(trials=TRIALS, k=st.integers(1, 4), higher=st.booleans())
def test_with_replacement_it_is_the_mean_over_all_draws(trials: list[float], k: int, higher: bool) -> None:
    best = max if higher else min
    slow = np.mean([best(draw) for draw in itertools.product(trials, repeat=k)])
    assert tuning_curve(trials, [k], higher_is_better=higher).expected[0] == pytest.approx(slow)


@settings(max_examples=25)
@given(trials=TRIALS, higher=st.booleans(), data=st.data())
def test_without_replacement_it_is_the_mean_over_all_subsets(trials: list[float], higher: bool, data) -> None:
    k = data.draw(st.integers(1, len(trials)))
    best = max if higher else min
    slow = np.mean([best(draw) for draw in itertools.combinations(trials, k)])
    found = tuning_curve(trials, [k], higher_is_better=higher, draw="without")
    assert found.expected[0] == pytest.approx(slow)


@settings(max_examples=25)
@given(a=TRIALS, b=TRIALS, k=st.integers(1, 3), higher=st.booleans())
def test_who_wins_at_a_budget(a: list[float], b: list[float], k: int, higher: bool) -> None:
    best = max if higher else min
    sign = 1 if higher else -1
    pairs = itertools.product(itertools.product(a, repeat=k), itertools.product(b, repeat=k))
    outcomes = [np.sign(sign * (best(x) - best(y))) for x, y in pairs]
    found = win_probability(a, b, [k], higher_is_better=higher)
    assert found[0] == pytest.approx(np.mean(outcomes) / 2 + 0.5)
    assert win_probability(b, a, [k], higher_is_better=higher)[0] == pytest.approx(1 - found[0])


def test_the_band_holds_the_curve_and_mirrors() -> None:
    trials = np.random.default_rng(0).normal(size=40)
    found = tuning_curve(trials, [1, 2, 5, 20], higher_is_better=True)
    assert (found.low <= found.median).all()
    assert (found.median <= found.high).all()
    assert math.isinf(found.high[-1])
    mirrored = tuning_curve(-trials, [1, 2, 5, 20], higher_is_better=False)
    np.testing.assert_allclose(mirrored.low, -found.high)
    np.testing.assert_allclose(mirrored.expected, -found.expected)


def test_a_trial_that_diverged_is_the_worst() -> None:
    found = tuning_curve([0.5, math.nan, 0.7], [1, 2, 3], higher_is_better=True, draw="without")
    assert found.expected.tolist() == [-math.inf, pytest.approx((0.5 + 2 * 0.7) / 3), 0.7]
    assert win_probability([math.nan], [0.1], higher_is_better=False).tolist() == [0.0]


@pytest.mark.parametrize(
    ("trials", "budgets", "draw"),
    [([], None, "with"), ([1.0], [0], "with"), ([1.0], [2], "without"), ([1.0], [], "with"), ([1.0], [1], "some")],
)
def test_bad_input_is_told(trials: list[float], budgets: list[int] | None, draw) -> None:
    with pytest.raises(DataError):
        tuning_curve(trials, budgets, higher_is_better=True, draw=draw)
