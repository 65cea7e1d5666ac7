"""Ranks over problems, beside SciPy and Demsar's tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from deepobs_func.analysis.ranks import critical_difference, rank
from deepobs_func.errors import DataError

PROBLEMS = [f"p{index}" for index in range(12)]


def table(seed: int = 0, best: float = 0.0) -> dict[str, dict[str, float]]:
    generator = np.random.default_rng(seed)
    offsets = {"a": best, "b": 0.0, "c": 0.0, "d": -best}
    return {name: {p: float(generator.normal(offset, 0.3)) for p in PROBLEMS} for name, offset in offsets.items()}


def test_it_is_friedmans_and_the_ranks_are_means() -> None:
    scores = table(best=0.2)
    found = rank(scores, higher_is_better=True)
    columns = [[scores[name][p] for p in PROBLEMS] for name in scores]
    assert found.p_friedman == pytest.approx(stats.friedmanchisquare(*columns).pvalue)
    slow = {
        name: np.mean([sum(other[p] > scores[name][p] for other in scores.values()) + 1 for p in PROBLEMS])
        for name in scores
    }
    assert dict(zip(found.names, found.mean_ranks, strict=True)) == pytest.approx(slow)


def test_wilcoxon_is_adjusted_by_holm() -> None:
    scores = table(best=0.4)
    found = rank(scores, higher_is_better=True)
    raw = {
        (x, y): stats.wilcoxon(*([scores[name][p] for p in PROBLEMS] for name in (x, y))).pvalue
        for x, y in found.p_values
    }
    order = sorted(raw, key=lambda pair: raw[pair])
    expected = np.maximum.accumulate([min(1, raw[pair] * (len(order) - i)) for i, pair in enumerate(order)])
    assert [found.p_values[pair] for pair in order] == pytest.approx(list(expected))


@pytest.mark.parametrize(("optimizers", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_demsars_table_5(optimizers: int, q: float) -> None:
    expected = q * math.sqrt(optimizers * (optimizers + 1) / (6 * 20))
    assert critical_difference(optimizers, 20) == pytest.approx(expected, rel=5e-4)


def test_nemenyi_rejects_beyond_the_critical_difference() -> None:
    found = rank(table(best=0.4), higher_is_better=True, post_hoc="nemenyi")
    ranks = dict(zip(found.names, found.mean_ranks, strict=True))
    for (x, y), p in found.p_values.items():
        assert (p <= 0.05) == (abs(ranks[x] - ranks[y]) >= found.critical_difference)


def test_a_planted_winner_stands_alone_and_ties_stand_together() -> None:
    found = rank(table(best=1.0), higher_is_better=True)
    assert found.names[0] == "a"
    assert found.names[-1] == "d"
    assert found.groups == (tuple(name for name in found.names if name in "bc"),)
    tied = rank(table(seed=1), higher_is_better=True)
    assert tied.p_friedman > 0.05
    assert tied.groups == (tied.names,)
    assert rank(table(best=1.0), higher_is_better=False).names[0] == "d"


def test_problems_that_not_all_have_are_left_out() -> None:
    scores = table(best=0.2)
    del scores["b"]["p3"]
    scores["c"]["p5"] = math.nan
    found = rank(scores, higher_is_better=True)
    assert found.left_out == ("p3", "p5")
    assert len(found.problems) == 10


def test_a_target_that_nobody_reaches_ties_all() -> None:
    found = rank({name: {"p": math.inf, "q": math.inf} for name in "abc"}, higher_is_better=False)
    assert found.mean_ranks == (2.0, 2.0, 2.0)
    assert found.p_friedman == 1.0
    assert found.groups == (("a", "b", "c"),)


def test_two_optimizers_have_no_friedman() -> None:
    found = rank({"a": {"p": 1.0}, "b": {"p": 2.0}}, higher_is_better=True)
    assert math.isnan(found.p_friedman)
    assert found.names == ("b", "a")


@pytest.mark.parametrize(
    ("scores", "options"),
    [({}, {}), ({"a": {"p": 1.0}}, {}), ({"a": {"p": 1.0}, "b": {"q": 1.0}}, {}), (table(), {"post_hoc": "t"})],
)
def test_bad_input_is_told(scores, options) -> None:
    with pytest.raises(DataError):
        rank(scores, higher_is_better=True, **options)
