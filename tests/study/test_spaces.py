"""Spaces of hyperparameters: grids exact at their ends, inverse distribution functions monotone and within bounds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.errors import ConfigError
from deepobs_func.records import float2str
from deepobs_func.study import spaces
from deepobs_func.study.spaces import (
    PUBLISHED,
    Choice,
    IntUniform,
    LinearGrid,
    LogGrid,
    LogUniform,
    OneMinusLogUniform,
    Space,
    Uniform,
    Values,
)

FINITE = st.floats(-1e6, 1e6)
POSITIVE = st.floats(1e-12, 1e12)
UNIT = st.floats(0.0, 1.0, exclude_max=True)


def pair(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(numbers, min_size=2, max_size=2, unique=True).map(sorted)


ORDERED = st.one_of(
    pair(FINITE).map(lambda ends: Uniform(*ends)),
    pair(POSITIVE).map(lambda ends: LogUniform(*ends)),
    pair(st.floats(-10.0, 0.99999)).map(lambda ends: OneMinusLogUniform(*ends)),
    pair(st.integers(-(10**9), 10**9)).map(lambda ends: IntUniform(*ends)),
    st.builds(lambda ends, num: LinearGrid(*ends, num), pair(FINITE), st.integers(2, 50)),
    st.builds(lambda ends, num: LogGrid(*ends, num), pair(POSITIVE), st.integers(2, 50)),
)


@given(ORDERED, UNIT, UNIT)
def test_the_inverse_is_monotone_and_within_the_ends(space: Any, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert space.low <= space.at(low) <= space.at(high) <= space.high
    assert space.at(0.0) == pytest.approx(space.low, rel=1e-9, abs=1e-9)


@given(ORDERED)
def test_a_point_outside_the_unit_interval_is_refused(space: Space) -> None:
    for u in (-1e-9, 1.0, math.nan):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            space.at(u)


@given(pair(POSITIVE), st.integers(2, 200))
def test_a_log_grid_has_its_ends_exactly_and_equal_ratios(ends: list[float], num: int) -> None:
    grid = LogGrid(*ends, num).grid()
    assert len(grid) == num
    assert (grid[0], grid[-1]) == tuple(ends)
    logs = np.log(grid)
    np.testing.assert_allclose(np.diff(logs), (logs[-1] - logs[0]) / (num - 1), rtol=1e-6, atol=1e-12)


@given(pair(FINITE), st.integers(2, 200))
def test_a_linear_grid_has_its_ends_exactly_and_equal_distances(ends: list[float], num: int) -> None:
    grid = LinearGrid(*ends, num).grid()
    assert (len(grid), grid[0], grid[-1]) == (num, *ends)
    np.testing.assert_allclose(np.diff(grid), (ends[1] - ends[0]) / (num - 1), rtol=1e-6, atol=1e-9)


def test_the_published_rates_are_those_of_the_published_folders() -> None:
    rates = [10 ** (-5 + 0.2 * k) for k in range(36)]
    assert PUBLISHED.grid() == rates == LogGrid(1e-5, 1e2, 36).grid()
    assert [float2str(rate) for rate in rates[:3]] == ["1.e-05", "1.5848931925e-05", "2.5118864315e-05"]
    assert float2str(rates[23]) == "3.9810717055e-01"


@given(st.integers(-5, 5), st.integers(1, 9), UNIT)
def test_whole_numbers_and_choices_are_equally_likely(low: int, width: int, u: float) -> None:
    """The share of the unit interval on which a value comes is one over how many there are."""
    space = IntUniform(low, low + width)
    assert space.at(u) == low + math.floor(u * (width + 1))
    assert Choice(tuple(space.grid())).at(u) == space.at(u) == Values(tuple(space.grid())).at(u)


@given(UNIT)
def test_uniform_and_log_uniform_are_their_formulas(u: float) -> None:
    assert Uniform(-1.0, 3.0).at(u) == pytest.approx(-1 + 4 * u)
    assert LogUniform(1e-4, 1e-1).at(u) == pytest.approx(10 ** (-4 + 3 * u))
    assert 1 - OneMinusLogUniform(0.9, 0.999).at(u) == pytest.approx(10 ** (-1 - 2 * u))


@given(ORDERED)
def test_a_finite_space_lists_what_the_inverse_gives(space: Space) -> None:
    if space.finite and space.count() <= 50:
        assert {space.at((k + 0.5) / space.count()) for k in range(int(space.count()))} == set(space.grid())


def test_what_has_no_end_has_no_grid() -> None:
    for space in (Uniform(0.0, 1.0), LogUniform(0.1, 1.0), OneMinusLogUniform(0.1, 0.9)):
        assert (space.finite, space.count(), space.extremes()) == (False, math.inf, [space.low, space.high])
        with pytest.raises(ConfigError, match="has no end of values; draw `samples`"):
            space.grid()
    with pytest.raises(ConfigError, match="int: \\[0, 1000000000000\\] has 1000000000001 values, more than the 10000"):
        IntUniform(0, 10**12).grid()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Values(()), "It is empty; give one value at least."),
        (lambda: Choice(()), "It is empty; give one value at least."),
        (lambda: Values((0.1, 1, 0.1)), "0.1 is there twice, items 0 and 2; leave one out."),
        (lambda: LinearGrid(1.0, 0.0, 3), "linear: 1.0 must be below 0.0."),
        (lambda: LogGrid(0.0, 1.0, 3), "log: 0.0 must be positive."),
        (lambda: LogGrid(0.1, 1.0, 1), "log: 1 values; it must be a whole number from 2 to 10000."),
        (lambda: LogGrid(0.1, 1.0, 2.5), "log: 2.5 values; it must be a whole number from 2 to 10000."),
        (lambda: LogGrid(0.1, 1.0, 10**9), "log: 1000000000 values; it must be a whole number from 2 to 10000."),
        (lambda: Uniform(0.5, 0.5), "uniform: 0.5 must be below 0.5."),
        (lambda: Uniform("0", 1.0), "uniform: '0' must be a finite number."),
        (lambda: Uniform(0.0, math.inf), "uniform: inf must be a finite number."),
        (lambda: Uniform(False, 1.0), "uniform: False must be a finite number."),
        (lambda: LogUniform(-1.0, 1.0), "loguniform: -1.0 must be positive."),
        (lambda: OneMinusLogUniform(0.9, 1.0), "one_minus_loguniform: 1.0 must be below 1."),
        (lambda: IntUniform(1, 2.5), "int: 2.5 must be a whole number."),
        (lambda: Uniform(0.0, 1.0, samples=0), "samples 0: it must be a whole number from 1 to 10000."),
        (lambda: Choice((1, 2), samples=True), "samples True: it must be a whole number from 1 to 10000."),
    ],
)
def test_what_is_no_space_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make()
    assert str(caught.value) == words


def test_every_kind_is_documented_and_has_a_word_of_its_own() -> None:
    kinds = [
        value
        for value in vars(spaces).values()
        if isinstance(value, type) and issubclass(value, Space) and hasattr(value, "word")
    ]
    assert len({kind.word for kind in kinds}) == len(kinds) == 8
