"""Confidence sequences: closed form beside the martingale, and simulated ties (all of them: benchmarks/coverage.py)."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepobs_func.errors import ConfigError
from deepobs_func.study.sequential import EFFECT, TESTS, Bounds, answer_of, find_test, running, sign_mixture, t_mixture

VALUES = st.lists(st.floats(-5, 5).map(lambda value: round(value, 3)), min_size=4, max_size=20)


def evidence(differences: list[float], mean: float) -> float:
    """The ratio of the densities of t, by SciPy: under effects `N(0, g)`, t is a scaled Student's t."""
    size = len(differences)
    t = math.sqrt(size) * (np.mean(differences) - mean) / np.std(differences, ddof=1)
    scale = math.sqrt(1 + size * EFFECT)
    return float(stats.t.pdf(t / scale, size - 1) / scale / stats.t.pdf(t, size - 1))


@settings(max_examples=25)
@given(differences=VALUES, level=st.sampled_from([0.8, 0.9, 0.95]))
def test_the_ends_are_where_the_martingale_reaches_one_over_alpha(differences: list[float], level: float) -> None:
    bounds = t_mixture(differences, level)
    if np.std(differences) < 1e-3 or math.isinf(bounds.low):
        return
    for end in bounds:
        assert evidence(differences, end) == pytest.approx(1 / (1 - level), rel=1e-6)
    assert evidence(differences, np.mean(differences)) < 1 / (1 - level)


def test_the_likelihood_ratio_is_that_of_drawn_effects() -> None:
    """The density of t under a random effect, by integrating the noncentral t."""
    differences, size = [0.4, -0.1, 0.9, 0.3, 0.5], 5
    t = math.sqrt(size) * np.mean(differences) / np.std(differences, ddof=1)
    effects = stats.norm(0, math.sqrt(EFFECT)).ppf((np.arange(4000) + 0.5) / 4000)
    mixture = np.nanmean(stats.nct.pdf(t, size - 1, math.sqrt(size) * effects))
    assert mixture / stats.t.pdf(t, size - 1) == pytest.approx(evidence(differences, 0.0), rel=0.01)


@settings(max_examples=25)
@given(differences=st.lists(st.floats(-5, 5), min_size=1, max_size=30, unique=True))
def test_the_median_is_kept_unless_the_coin_is_excluded(differences: list[float]) -> None:
    low, high = sign_mixture(differences, 0.95)
    size = len(differences)
    for each in [*np.linspace(-5.5, 5.5, 23), 100.0]:
        heads = sum(value > each for value in differences)
        if any(value == each for value in differences):
            continue
        beta = math.exp(math.lgamma(heads + 0.5) + math.lgamma(size - heads + 0.5) - math.lgamma(size + 1)) / math.pi
        assert (low <= each <= high) == (2.0**size * beta < 20)


def test_nothing_is_certain_at_first() -> None:
    whole = Bounds(-math.inf, math.inf)
    for size in (1, 2, 3):
        assert t_mixture([5.0, 5.1, 5.2][:size], 0.95) == whole
    assert all(math.isfinite(end) for end in t_mixture([5.0, 5.1, 5.2, 5.1], 0.95))
    assert sign_mixture([1.0] * 6, 0.95) == whole
    assert sign_mixture([1.0] * 7, 0.95) == Bounds(1.0, 1.0)


@pytest.mark.parametrize("name", TESTS)
def test_looking_after_every_seed_is_wrong_as_often_as_stated(name: str) -> None:
    """300 ties of up to 30 seeds; a t-test after each seed is wrong in a fourth of them."""
    generator = np.random.default_rng(5)
    wrong = 0
    for _ in range(300):
        bounds = running(generator.normal(size=30).tolist(), 0.95, TESTS[name])
        wrong += any(not low <= 0 <= high for low, high in bounds)
    assert wrong <= 0.05 * 300


def test_intervals_only_shrink() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 25).tolist()
    bounds = running(values, 0.9)
    for before, after in itertools.pairwise(bounds):
        assert before.low <= after.low <= after.high <= before.high


def test_what_an_interval_says() -> None:
    assert answer_of(Bounds(0.1, 0.9), None) == "A"
    assert answer_of(Bounds(0.1, 0.9), 1.0) == "tie"
    assert answer_of(Bounds(-0.9, -0.1), 0.5) == "B"
    assert answer_of(Bounds(-0.4, 0.5), 0.5) == "tie"
    assert answer_of(Bounds(-0.6, 0.5), 0.5) == "undecided"
    with pytest.raises(ConfigError, match="sign"):
        find_test("sing")
