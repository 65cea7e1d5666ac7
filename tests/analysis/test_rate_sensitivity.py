"""The region of good learning rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis.rate_sensitivity import rate_sensitivity
from deepobs_func.errors import DataError

RATES = 10 ** np.linspace(-5, 2, 36)


def test_a_parabola_over_the_logarithm_has_its_width() -> None:
    losses = (np.log10(RATES) + 1.5) ** 2
    found = rate_sensitivity(RATES, losses, higher_is_better=False, target=1.0)
    assert found.width == pytest.approx(2.0, abs=0.05)
    assert (math.log10(found.low), math.log10(found.high)) == pytest.approx((-2.5, -0.5), abs=0.03)
    assert found.share == pytest.approx(2 / 7, abs=0.01)
    assert (found.low_is_open, found.high_is_open) == (False, False)


@settings(max_examples=25)
@given(order=st.permutations(range(8)), tolerance=st.floats(0.1, 20))
def test_the_order_does_not_matter_and_a_mirror_is_the_same(order: list[int], tolerance: float) -> None:
    rates, losses = RATES[:8], np.array([9.0, 4.0, 3.0, 1.0, 2.0, math.nan, 5.0, 1.5])
    found = rate_sensitivity(rates, losses, higher_is_better=False, tolerance=tolerance)
    mixed = rate_sensitivity(rates[order], -losses[order], higher_is_better=True, tolerance=tolerance)
    assert (mixed.low, mixed.high, mixed.width) == pytest.approx((found.low, found.high, found.width))
    assert found.high <= rates[4] * (1 + 1e-9)  # the next one diverged


def test_a_region_at_the_end_of_the_grid_is_open() -> None:
    found = rate_sensitivity([0.1, 0.01, 1.0], [0.5, 0.2, 0.9], higher_is_better=True, tolerance=0.2)
    assert (found.best_rate, found.high_is_open, found.low_is_open) == (pytest.approx(1.0), True, False)
    assert found.low == pytest.approx(0.1**0.5)
    alone = rate_sensitivity([0.1], [0.5], higher_is_better=True, tolerance=0.2)
    assert (alone.width, alone.share) == (0.0, 0.0)


def test_nobody_reaches_the_target_or_all_diverge() -> None:
    found = rate_sensitivity([0.1, 1.0], [0.5, 0.6], higher_is_better=True, target=0.9)
    assert (found.width, found.best) == (0.0, 0.6)
    assert math.isnan(found.low)
    lost = rate_sensitivity([0.1, 1.0], [math.nan, math.inf], higher_is_better=False, tolerance=0.1)
    assert (lost.width, math.isnan(lost.best)) == (0.0, True)


@pytest.mark.parametrize(
    ("rates", "values", "options"),
    [
        ([], [], {"target": 1.0}),
        ([0.0], [1.0], {"target": 1.0}),
        ([0.1, 0.1], [1.0, 2.0], {"target": 1.0}),
        ([0.1], [1.0, 2.0], {"target": 1.0}),
        ([0.1], [1.0], {}),
        ([0.1], [1.0], {"target": 1.0, "tolerance": 1.0}),
        ([0.1], [1.0], {"tolerance": 0.0}),
    ],
)
def test_bad_input_is_told(rates: list[float], values: list[float], options: dict[str, float]) -> None:
    with pytest.raises(DataError):
        rate_sensitivity(rates, values, higher_is_better=True, **options)
