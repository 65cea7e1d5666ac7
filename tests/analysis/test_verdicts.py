"""Verdicts on planted winners and ties, beside SciPy and definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from deepobs_func.analysis import statistics, verdicts
from deepobs_func.analysis.signed_ranks import signed_ranks
from deepobs_func.errors import DataError

EXAMPLES = 25
VALUES = st.lists(st.floats(-10, 10).map(lambda value: round(value, 2)), min_size=2, max_size=12)


@settings(max_examples=EXAMPLES)
@given(a=VALUES, b=VALUES)
def test_welch_is_scipys(a: list[float], b: list[float]) -> None:
    found = verdicts.compare(a, b, higher_is_better=True)
    if np.std(a) + np.std(b) > 0:
        slow = stats.ttest_ind(a, b, equal_var=False)
        ends = slow.confidence_interval(0.95)
        assert found.p_value == pytest.approx(slow.pvalue, abs=1e-9)
        assert (found.difference.low, found.difference.high) == pytest.approx((ends.low, ends.high), abs=1e-7)
    else:
        assert found.p_value == float(a[0] == b[0])


@pytest.mark.parametrize("value", [0.1, 0.7, 1e-9, 1234.56])
def test_equal_values_are_equal_however_many_they_are(value: float) -> None:
    """Collapsed networks all have an accuracy of 0.1: sums of 7 and of 2 of it round differently."""
    for n, m in itertools.product(range(2, 12), repeat=2):
        found = verdicts.compare([value] * n, [value] * m, higher_is_better=True)
        assert (found.difference.estimate, found.p_value, found.answer) == (0.0, 1.0, "undecided")
        assert statistics.welch(statistics.Sample.of([value] * n), statistics.Sample.of([value] * m)) == 1.0
    assert verdicts.compare([value] * 7, [value], higher_is_better=True).difference.estimate == 0.0


@settings(max_examples=EXAMPLES)
@given(
    pairs=st.lists(st.tuples(st.floats(-9, 9).map(lambda v: round(v, 2)), st.integers(-5, 5)), min_size=2, max_size=12)
)
def test_paired_is_scipys(pairs: list[tuple[float, int]]) -> None:
    a, b = map(list, zip(*((x, x + step) for x, step in pairs), strict=True))
    found = verdicts.compare(a, b, higher_is_better=True, paired=True)
    if np.std(np.subtract(a, b)) > 1e-9:
        assert found.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=1e-9)
    ranks = verdicts.compare(a, b, higher_is_better=True, paired=True, test="ranks")
    assert ranks.p_value == signed_ranks(np.subtract(a, b))


@settings(max_examples=EXAMPLES)
@given(a=VALUES, b=VALUES, delta=st.floats(0.01, 5))
def test_a_tie_is_two_one_sided_tests(a: list[float], b: list[float], delta: float) -> None:
    found = verdicts.compare(a, b, higher_is_better=True, delta=delta)
    if np.std(a) + np.std(b) == 0:
        return
    low = stats.ttest_ind(a, np.subtract(b, delta), equal_var=False, alternative="greater").pvalue
    high = stats.ttest_ind(a, np.add(b, delta), equal_var=False, alternative="less").pvalue
    assert found.p_tie == pytest.approx(max(low, high), abs=1e-9)
    inner = verdicts.difference(a, b, level=0.9)
    assert (found.p_tie <= 0.05) == (-delta <= inner.low and inner.high <= delta) or found.p_tie == pytest.approx(0.05)


@settings(max_examples=EXAMPLES)
@given(a=VALUES, b=VALUES)
def test_superiority_is_the_share_of_pairs(a: list[float], b: list[float]) -> None:
    found = verdicts.superiority(a, b, higher_is_better=True)
    slow = np.mean([(x > y) + 0.5 * (x == y) for x in a for y in b])
    assert found.estimate == pytest.approx(slow)
    assert found.estimate == pytest.approx(stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)))
    mirrored = verdicts.superiority(b, a, higher_is_better=True)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 - found.high, 1 - found.low), abs=1e-6)
    assert found.low <= found.estimate <= found.high
    assert verdicts.superiority(a, b, higher_is_better=False).estimate == pytest.approx(1 - slow)


def test_newcombes_ends_solve_his_equation() -> None:
    """Newcombe 2006, part 2: method 5, of the statistic of exponential distributions."""
    found = verdicts.superiority([3.0, 4.0, 5.0, 1.5], [1.0, 2.0, 3.5], higher_is_better=True)
    for end in (found.low, found.high):
        middle = (4 + 3) / 2 - 1
        variance = end * (1 - end) * (1 + middle * ((1 - end) / (2 - end) + end / (1 + end))) / 12
        assert abs(found.estimate - end) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(variance), rel=1e-6)
    best = verdicts.superiority([3.0, 4.0], [1.0, 2.0], higher_is_better=True)
    assert (best.estimate, best.high) == (1.0, 1.0)
    assert 0.1 < best.low < 0.6


@settings(max_examples=EXAMPLES)
@given(freedom=st.floats(1.5, 60), level=st.sampled_from([0.9, 0.95, 0.99]), power=st.sampled_from([0.5, 0.8, 0.95]))
def test_the_smallest_difference_has_its_power(freedom: float, level: float, power: float) -> None:
    shift, bound = verdicts.shown_by(freedom, level, power), stats.t.ppf((1 + level) / 2, freedom)
    assert stats.nct.sf(bound, freedom, shift) == pytest.approx(power, abs=5e-3)


def test_the_smallest_difference_by_simulation() -> None:
    generator = np.random.default_rng(0)
    detectable = verdicts.shown_by(18) * math.sqrt(2 / 10)
    a, b = generator.normal(detectable, 1, (4000, 10)), generator.normal(0, 1, (4000, 10))
    assert np.mean(stats.ttest_ind(a, b, axis=1).pvalue <= 0.05) == pytest.approx(0.8, abs=0.02)


def planted(difference: float, seeds: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(0.9 + difference, 0.004, seeds), generator.normal(0.9, 0.004, seeds)


def test_a_planted_winner_wins_whichever_way_is_better() -> None:
    a, b = planted(0.03)
    assert verdicts.compare(a, b, higher_is_better=True).answer == "A"
    assert verdicts.compare(a, b, higher_is_better=False).answer == "B"
    for test in ("t", "ranks"):
        found = verdicts.compare(b, a, higher_is_better=True, test=test, names=("old", "new"))
        assert found.winner == "new"
        assert str(found).startswith("new is better than old: difference -0.0")


def test_a_planted_tie_is_one_only_within_a_delta() -> None:
    a, b = planted(0.0)
    assert verdicts.compare(a, b, higher_is_better=True).answer == "undecided"
    tie = verdicts.compare(a, b, higher_is_better=True, delta=0.01)
    assert (tie.answer, tie.winner) == ("tie", None)
    assert "A and B tie within 0.01" in str(tie)
    unsure = verdicts.compare(a, b, higher_is_better=True, delta=0.002)
    assert unsure.answer == "undecided"
    assert "smallest difference to be seen" in str(unsure)


def test_what_is_significant_and_too_small_to_count_is_a_tie() -> None:
    a, b = planted(0.004, seeds=60)
    found = verdicts.compare(a, b, higher_is_better=True, delta=0.01)
    assert found.p_value < 0.05
    assert found.answer == "tie"


def test_all_pairs_are_adjusted_by_holm() -> None:
    groups = {"a": planted(0.02)[0], "b": planted(0.0, seed=1)[0], "c": planted(0.0, seed=2)[1]}
    found = verdicts.compare_all(groups, higher_is_better=True)
    assert [(each.a, each.b) for each in found] == [("a", "b"), ("a", "c"), ("b", "c")]
    raw = [stats.ttest_ind(groups[x.a], groups[x.b], equal_var=False).pvalue for x in found]
    order = np.argsort(raw)
    expected = np.maximum.accumulate(np.minimum(1, np.array(raw)[order] * [3, 2, 1]))
    assert [found[i].adjusted for i in order] == pytest.approx(list(expected))
    assert [each.answer for each in found[:2]] == ["A", "A"]


@pytest.mark.parametrize("bad", [[0.5], [0.5, math.nan], [0.5, math.inf]])
def test_what_cannot_be_compared_is_undecided_and_says_why(bad: list[float]) -> None:
    found = verdicts.compare(bad, [0.1, 0.2], higher_is_better=True, delta=0.1)
    assert found.answer == "undecided"
    assert math.isnan(found.p_value)
    assert math.isnan(found.detectable)
    assert not found.difference.is_offered
    assert found.reason


@pytest.mark.parametrize("higher", [True, False])
def test_signed_ranks_say_who_is_better_not_the_share_of_wins(higher: bool) -> None:
    # A wins on fewer seeds than B, but by more: the signed ranks, whose p-value it is, are on A's side.
    apart = np.concatenate([np.arange(23, 41), -np.arange(1, 23)]) / 1000
    assert (apart > 0).mean() < 0.5
    assert stats.wilcoxon(apart, alternative="greater").pvalue < 0.05
    a, b = 0.8 + apart, np.full(40, 0.8)
    found = verdicts.compare(a, b, higher_is_better=higher, paired=True, test="ranks")
    assert (found.answer, found.favours) == (("A", "A") if higher else ("B", "B"))
    assert verdicts.compare(b, a, higher_is_better=higher, paired=True, test="ranks").answer == ("B" if higher else "A")


def test_ranks_take_runs_that_diverged() -> None:
    lost = [-math.inf] * 6
    found = verdicts.compare([0.5, 0.6, 0.4, 0.5, 0.7, 0.3], lost, higher_is_better=True, test="ranks")
    assert (found.answer, found.reason) == ("A", "")
    assert not found.difference.is_offered


def test_equal_values_tie() -> None:
    found = verdicts.compare([0.5] * 3, [0.5] * 3, higher_is_better=True, delta=0.01)
    assert (found.answer, found.p_value, found.detectable) == ("tie", 1.0, 0.0)
    assert verdicts.compare([0.5] * 3, [0.4] * 3, higher_is_better=True).answer == "A"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: verdicts.compare([], [1.0], higher_is_better=True), "at least one"),
        (lambda: verdicts.compare([1.0], [1.0, 2.0], higher_is_better=True, paired=True), "paired"),
        (lambda: verdicts.compare([1.0], [1.0], higher_is_better=True, delta=0.0), "delta"),
        (lambda: verdicts.compare([1.0], [1.0], higher_is_better=True, test="z"), "t or ranks"),
        (lambda: verdicts.compare_all({"a": [1.0]}, higher_is_better=True), "at least 2"),
        (lambda: verdicts.smallest_difference([1.0], [2.0], power=0.01), "power"),
    ],
)
def test_bad_input_is_told(call, said: str) -> None:
    with pytest.raises(DataError, match=said):
        call()
