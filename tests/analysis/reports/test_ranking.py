"""Ranks beside the package's own comparisons, which are computed another way."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis.ranks import rank
from deepobs_func.analysis.reports import Choice, rank_overall, rank_problem
from deepobs_func.analysis.reports.collecting import ProblemData, Shown
from deepobs_func.analysis.survival import first_reached, median_time
from deepobs_func.analysis.verdicts import compare_all
from deepobs_func.errors import ConfigError

EMPTY = np.empty(0)
# To twelve digits: the squares of differences of 1e-126 underflow in SciPy, by which a verdict is reached.
finite = st.floats(-2, 2).map(lambda value: round(value, 12))
values = st.one_of(finite, st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf]))


def shown(name: str, curve: list[list[float]]) -> Shown:
    table = np.array(curve, dtype=float)
    epochs = np.repeat(np.arange(len(table), dtype=float)[:, None], table.shape[1], axis=1)
    seeds = tuple(range(table.shape[1]))
    return Shown(name, seeds, seeds, {}, {"test_loss": table}, {"epoch": epochs, "step": 7 * epochs}, (EMPTY, EMPTY))


def problem(name: str, curves: dict[str, list[list[float]]], target: float = 0.5) -> ProblemData:
    each = tuple(shown(optimizer, curve) for optimizer, curve in curves.items())
    return ProblemData(name, "test_loss", target, True, ("test_loss",), each, {}, False)


tables = st.integers(1, 4).flatmap(
    lambda seeds: st.lists(st.lists(values, min_size=seeds, max_size=seeds), min_size=2, max_size=4)
)
several = st.dictionaries(st.sampled_from("abcd"), tables, min_size=1)


@settings(max_examples=25)
@given(several)
def test_pairs_are_told_apart_as_by_compare(curves: dict[str, list[list[float]]]) -> None:
    placed = rank_problem(problem("p", curves), Choice())
    assert [row.optimizer for row in sorted(placed)] == sorted(curves)
    if len(curves) < 2:
        assert placed[0].answer == "only"
        return
    with np.errstate(all="ignore"):
        verdicts = compare_all({name: curve[-1] for name, curve in curves.items()}, higher_is_better=False)
    told = {frozenset((each.a, each.b)): each for each in verdicts}
    for row in placed[1:]:
        verdict = told[frozenset((row.optimizer, placed[0].optimizer))]
        assert row.p_leader == pytest.approx(verdict.adjusted, rel=1e-9, abs=1e-300, nan_ok=True)
    for row in placed:
        mine = [each for pair, each in told.items() if row.optimizer in pair]
        losses = sum(each.winner not in (row.optimizer, None) for each in mine)
        wins = sum(each.winner == row.optimizer for each in mine)
        assert (row.lowest, row.highest) == (1 + losses, len(placed) - wins)


@settings(max_examples=25)
@given(several, values.filter(lambda value: not math.isnan(value)))
def test_times_are_those_of_survival(curves: dict[str, list[list[float]]], target: float) -> None:
    for row in rank_problem(problem("p", curves, target), Choice("time")):
        seeds = zip(*curves[row.optimizer], strict=True)
        found = [first_reached(list(seed), target, higher_is_better=False) for seed in seeds]
        expected = median_time([time for time, _ in found], [flag for _, flag in found])
        assert (row.value, row.reached) == (expected.estimate, sum(flag for _, flag in found))
        assert [row.low, row.high] == pytest.approx([expected.low, expected.high], nan_ok=True)


@settings(max_examples=25)
@given(st.lists(st.lists(st.floats(0, 3).map(lambda x: round(x, 1)), min_size=3, max_size=3), min_size=1, max_size=5))
def test_mean_ranks_are_those_of_ranks(levels: list[list[float]]) -> None:
    names = "abc"
    problems = [
        problem(str(number), {name: [[9.0], [level]] for name, level in zip(names, row, strict=True)})
        for number, row in enumerate(levels)
    ]
    scores = {name: {str(n): row[i] for n, row in enumerate(levels)} for i, name in enumerate(names)}
    expected, found = rank(scores, higher_is_better=False), rank_overall(problems, Choice())
    assert [row.optimizer for row in found.rows] == list(expected.names)
    assert [row.mean_rank for row in found.rows] == pytest.approx(list(expected.mean_ranks))
    assert found.p_friedman == pytest.approx(expected.p_friedman, nan_ok=True)


def test_the_best_epoch_is_one_for_all_seeds() -> None:
    """Each seed at its own best would have 0.1."""
    (row,) = rank_problem(problem("p", {"a": [[9.0, 9.0], [0.1, 0.9], [0.9, 0.1], [0.4, 0.4]]}), Choice("best"))
    assert row.value == pytest.approx(0.4)


@pytest.mark.parametrize("value", [0.1, 0.7, 1234.56])
@pytest.mark.parametrize("measure", ["final", "best"])
def test_equal_values_share_a_rank_however_many_they_are(measure: str, value: float) -> None:
    curves = {str(size): [[9.0 * value] * size, [value] * size] for size in range(2, 12)}
    rows = rank_problem(problem("p", curves), Choice(measure))
    assert {(row.rank, row.value, row.lowest, row.highest) for row in rows} == {(5.5, value, 1, 10)}
    assert [row.p_leader for row in rows[1:]] == [1.0] * 9


def test_a_target_that_nobody_reaches_ties_all() -> None:
    rows = rank_problem(problem("p", {name: [[9.0] * 3, [1.0] * 3] for name in "ab"}, target=0.1), Choice("time"))
    assert [(row.rank, row.value, row.reached) for row in rows] == [(1.5, math.inf, 0)] * 2
    assert rows[1].p_leader == 1.0


def reaching(epochs: list[int | None]) -> list[list[float]]:
    """Losses by epoch, of which one seed each is at the target from an epoch on."""
    return [[0.1 if at is not None and epoch >= at else 9.0 for at in epochs] for epoch in range(21)]


@pytest.mark.parametrize(
    ("a", "b", "order"),
    [([None] * 10, [5, 6, 7, 8] + [None] * 6, "ba"), ([10] * 10, [2, 2, 3, 3] + [10] * 6, "ab")],
)
def test_who_reaches_the_target_sooner_is_not_worse(a: list[int | None], b: list[int | None], order: str) -> None:
    """The medians are equal, and the log-rank test sees that b is ahead."""
    rows = rank_problem(problem("p", {"a": reaching(a), "b": reaching(b)}), Choice("time"))
    assert rows[1].p_leader < 0.05
    assert "".join(row.optimizer for row in rows) == order
    assert [row.answer for row in rows] == ["leads", "tied"]


def test_one_seed_has_no_interval_and_is_not_tested() -> None:
    rows = rank_problem(problem("p", {"a": [[9.0], [1.0]], "b": [[9.0, 9.0], [2.0, 2.1]]}), Choice())
    assert [(row.answer, row.lowest, row.highest) for row in rows] == [("leads", 1, 2), ("untested", 1, 2)]
    assert math.isnan(rows[0].low)


def test_what_lacks_a_problem_or_a_metric_is_left_out() -> None:
    problems = [problem("p", {"a": [[1.0]], "b": [[2.0]]}), problem("q", {"a": [[1.0]]})]
    found = rank_overall(problems, Choice())
    assert (found.problems, found.left_out) == (("p",), ("q",))
    assert rank_overall(problems, Choice(quantity="test_accuracy")).rows == ()
    assert rank_overall(problems, Choice("time", clock="seconds")).rows == ()
    assert rank_overall(problems, Choice(hidden={"b"})).problems == ("p", "q")


def test_another_measure_is_refused() -> None:
    with pytest.raises(ConfigError, match="it must be one of final, best, time"):
        Choice("last")
