"""Profiles and scores beside a second implementation, naive, after AlgoPerf's own code, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis import profiles
from deepobs_func.errors import DataError

EXAMPLES = 25
TIME = st.one_of(st.floats(0.5, 50).map(lambda value: round(value, 2)), st.just(math.inf))
NAMES, PROBLEMS = ("a", "b", "c"), ("p", "q", "r", "s")
TABLES = st.fixed_dictionaries({name: st.fixed_dictionaries(dict.fromkeys(PROBLEMS, TIME)) for name in NAMES})


def naive_score(times: dict[str, dict[str, float]], name: str, reference: str | None = None) -> float:
    """AlgoPerf's steps one by one: too slow is infinite, divide, count at each of 100 points, trapezoids over 3."""
    times = {each: dict(row) for each, row in times.items()}
    for problem in PROBLEMS:
        best = min(row[problem] for row in times.values())
        for row in times.values():
            if row[problem] > 4 * best:
                row[problem] = math.inf
    shares = []
    for tau in np.linspace(1, 4, 100):
        count = 0
        for problem in PROBLEMS:
            by = times[reference][problem] if reference else min(row[problem] for row in times.values())
            if not math.isinf(times[name][problem]) and times[name][problem] / by <= tau:
                count += 1
        shares.append(count / len(PROBLEMS))
    return sum((a + b) / 2 * (3 / 99) for a, b in itertools.pairwise(shares)) / 3


@settings(max_examples=EXAMPLES)
@given(times=TABLES)
def test_scores_equal_a_naive_second_implementation(times: dict[str, dict[str, float]]) -> None:
    found = profiles.scores(times)
    for name in NAMES:
        assert found[name] == pytest.approx(naive_score(times, name), abs=1e-12)


@settings(max_examples=EXAMPLES)
@given(times=TABLES, reference=st.sampled_from(NAMES))
def test_scores_by_a_reference_equal_algoperfs(times: dict[str, dict[str, float]], reference: str) -> None:
    found = profiles.scores(times, reference, cut="best")
    for name in NAMES:
        assert found[name] == pytest.approx(naive_score(times, name, reference), abs=1e-12)


@settings(max_examples=EXAMPLES)
@given(times=TABLES)
def test_profiles_equal_a_count(times: dict[str, dict[str, float]]) -> None:
    found = profiles.profiles(times, points=7)
    for name in NAMES:
        for tau in found.columns:
            ratios = [
                times[name][p] / min(row[p] for row in times.values()) for p in PROBLEMS if times[name][p] < math.inf
            ]
            assert found.loc[name, tau] == sum(ratio <= tau for ratio in ratios) / len(PROBLEMS)


@settings(max_examples=EXAMPLES)
@given(times=TABLES)
def test_the_integral_is_what_the_grid_approaches(times: dict[str, dict[str, float]]) -> None:
    exact, fine = profiles.scores(times, points=None), profiles.scores(times, points=3001)
    assert exact == pytest.approx(fine, abs=1e-3)


@settings(max_examples=EXAMPLES)
@given(times=TABLES)
def test_a_fixed_reference_does_not_mind_who_else_takes_part(times: dict[str, dict[str, float]]) -> None:
    reference = dict.fromkeys(PROBLEMS, 10.0)
    together = profiles.scores(times, reference)
    for name in NAMES:
        assert profiles.scores({name: times[name]}, reference)[name] == pytest.approx(together[name])


def test_by_hand() -> None:
    times = {"a": {"p": 10.0, "q": 40.0}, "b": {"p": 20.0, "q": 10.0}, "c": {"p": math.inf, "q": 41.0}}
    assert profiles.scores(times, points=None) == pytest.approx({"a": 1 / 2, "b": 5 / 6, "c": 0.0})
    assert profiles.ratios(times).loc["a"].tolist() == [1.0, 4.0]
    assert profiles.scores({"alone": {"p": 3.0}}) == {"alone": 1.0}
    faster = profiles.scores(times, {"p": 20.0, "q": 10.0})
    assert faster["b"] == 1.0
    assert profiles.ratios(times, "b").loc["a", "p"] == 0.5


def test_nobody_arrives_or_one_did_not_run() -> None:
    assert profiles.scores({"a": {"p": math.inf}, "b": {"p": math.nan}}) == {"a": 0.0, "b": 0.0}
    assert profiles.scores({"a": {"p": 1.0}, "b": {"q": 1.0}}, points=None) == {"a": 0.5, "b": 0.5}
    assert profiles.time_of([3.0, math.nan, 5.0]) == 5.0
    assert profiles.time_of([3.0, math.inf]) == math.inf


def test_the_score_as_targets_tighten() -> None:
    """A is fast at first and never gets far; B is slow and gets there."""
    curves = {"a": lambda x: 10 * x if x <= 0.8 else math.inf, "b": lambda x: 20 * x}
    found = profiles.score_by_target(lambda x: {name: {"p": curve(x)} for name, curve in curves.items()}, [0.5, 0.9])
    assert found[0.5]["a"] > found[0.5]["b"]
    assert (found[0.9]["a"], found[0.9]["b"]) == (0.0, 1.0)


def test_speedups_are_geometric() -> None:
    times = {"a": {"p": 10.0, "q": 10.0}, "b": {"p": 5.0, "q": 40.0}, "c": {"p": 1.0, "q": math.inf}}
    assert profiles.speedups(times, "a") == pytest.approx({"a": 1.0, "b": math.sqrt(0.5), "c": 0.0})


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: profiles.scores({}), "no optimizer"),
        (lambda: profiles.scores({"a": {"p": -1.0}}), "negative"),
        (lambda: profiles.scores({"a": {"p": 1.0}}, "b"), "Unknown optimizer 'b'"),
        (lambda: profiles.scores({"a": {"p": 1.0}}, {"q": 1.0}), "no time for p"),
        (lambda: profiles.scores({"a": {"p": 1.0}}, {"p": 0.0}), "not positive"),
        (lambda: profiles.scores({"a": {"p": 1.0}}, points=1), "points"),
        (lambda: profiles.scores({"a": {"p": 1.0}}, cut="worst"), "cut"),
        (lambda: profiles.time_of([]), "at least one"),
    ],
)
def test_bad_input_is_told(call, said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()
