"""What is said over all problems, beside a second, naive computation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis import load
from deepobs_func.analysis.profiles import scores
from deepobs_func.analysis.reports.collecting import ProblemData, collect
from deepobs_func.analysis.reports.ranking import Choice
from deepobs_func.analysis.reports.scoring import (
    TIGHTNESS,
    costs,
    costs_of,
    differences,
    score_by_tightness,
    score_rows,
    times_of,
    times_to_target,
)
from deepobs_func.errors import ConfigError
from tests.analysis import made
from tests.analysis.reports.test_ranking import problem

levels = st.floats(0.1, 2.0).map(lambda value: round(value, 1))
curve = st.lists(levels, min_size=4, max_size=4).map(lambda row: [[2.0], *([each] for each in row)])
several = st.dictionaries(st.sampled_from("abc"), curve, min_size=1)


def naive_scores(problems: list[dict[str, list[list[float]]]], target: float) -> dict[str, float]:
    """The integral, a problem and an optimizer at a time."""
    names = sorted({name for each in problems for name in each})
    totals = dict.fromkeys(names, 0.0)
    for each in problems:
        times = {}
        for name in names:
            reached = [epoch for epoch, (loss,) in enumerate(each.get(name, [])) if loss <= target]
            times[name] = reached[0] if reached else math.inf
        fastest = min(times.values())
        for name, time in times.items():
            if time <= 4 * fastest and time < math.inf:
                totals[name] += (4 - (1 if time == fastest else time / fastest)) / 3 / len(problems)
    return totals


@settings(max_examples=20)
@given(st.lists(several, min_size=1, max_size=4))
def test_scores_equal_a_naive_second_implementation(problems: list[dict[str, list[list[float]]]]) -> None:
    data = [problem(str(number), each) for number, each in enumerate(problems)]
    times = times_of(data, Choice())
    assert scores(times, points=None) == pytest.approx(naive_scores(problems, 0.5))
    rows = score_rows(data)
    assert {row.optimizer: row.score for row in rows} == pytest.approx(scores(times))
    assert [row.rank for row in rows] == sorted(row.rank for row in rows)
    assert sum(row.rank for row in rows) == len(rows) * (len(rows) + 1) / 2


def falling(rate: float) -> list[list[float]]:
    return [[2.0 * rate**epoch] for epoch in range(30)]


def test_the_score_follows_targets_that_tighten() -> None:
    """From 2 to the target of 0.5: at half of the way it is 1.25, and beyond 4/3 of it nothing is left to reach."""
    found = score_by_tightness([problem("p", {"fast": falling(0.5), "slow": falling(0.8)})], Choice(), [0.5, 1.0, 1.5])
    expected = [{"fast": 1, "slow": 3}, {"fast": 2, "slow": 7}, {"fast": math.inf, "slow": math.inf}]
    for column, times in zip(found, expected, strict=True):
        assert found[column].to_dict() == pytest.approx(scores({name: {"p": time} for name, time in times.items()}))
    assert TIGHTNESS[6] == 1.0


def test_at_tightness_one_it_is_the_score() -> None:
    """.06 + 1.0 * (.801 - .06) is larger than .801, at which two optimizers end."""
    curves = {"a": [[0.06], [0.801], [0.801]], "b": [[0.06], [0.5], [0.801]]}
    assert 0.06 + 1.0 * (0.801 - 0.06) > 0.801
    made = [replace(each, curves={"test_accuracy": each.curves["test_loss"]}) for each in problem("p", curves).shown]
    data = replace(problem("p", curves), metric="test_accuracy", target=0.801, shown=tuple(made))
    unknown = replace(data, shown=tuple(replace(each, curves=started(each.curves)) for each in made))
    for each in (data, unknown):  # at the target, it does not matter where they started
        moves = score_by_tightness([each], Choice(), [1.0])[1.0].to_dict()
        assert moves == pytest.approx({row.optimizer: row.score for row in score_rows([each])})
        assert moves["a"] > moves["b"] > 0.0


def started(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same curves, from where nothing is known."""
    return {name: np.concatenate([[[math.nan]], curve[1:]]) for name, curve in curves.items()}


def test_a_problem_without_a_target_does_not_count() -> None:
    known = problem("p", {"a": falling(0.5), "b": falling(0.9)})
    none = replace(known, name="q", target=math.nan)
    assert score_rows([known, none]) == score_rows([known])
    assert score_rows([none]) == []
    typed = times_of([none], Choice(targets={"q": 0.5}))
    assert typed["a"] == {"q": 2.0}


def scaled(name: str, factor: float) -> ProblemData:
    ends = {"a": 0.2, "b": 0.4, "c": 0.6}
    return replace(problem(name, {k: [[factor], [factor * v]] for k, v in ends.items()}), target=0.5 * factor)


def test_differences_are_counted_on_one_scale() -> None:
    """The same problem in other units has the same costs; else the test would see that of large numbers alone."""
    found = costs_of([scaled("small", 1.0), scaled("large", 1000.0)], Choice())
    assert [row["small"] - found["a"]["small"] for row in found.values()] == pytest.approx([0.0, 0.4, 0.8])
    assert [row["large"] - found["a"]["large"] for row in found.values()] == pytest.approx([0.0, 0.4, 0.8])
    other = costs_of([replace(scaled("p", 1.0), target=math.nan)], Choice())  # the best end stands for the target
    assert other["c"]["p"] - other["a"]["p"] == pytest.approx(0.5)
    timed = costs_of([scaled("p", 1.0)], Choice("time", targets={"p": 0.3}))
    assert [row["p"] for row in timed.values()] == [1.0, math.inf, math.inf]


def test_who_cannot_be_told_apart() -> None:
    problems = [scaled(str(number), 1.0 + number) for number in range(8)]
    found = differences(problems, Choice())
    assert found is not None
    assert found.names == ("a", "b", "c")
    assert found.groups == ()
    few = differences(problems[:2], Choice())
    assert few is not None
    assert few.groups == (("a", "b", "c"),)
    assert differences(problems, Choice(hidden={"a", "b"})) is None
    assert differences([problem("p", {"a": falling(0.5)}), problem("q", {"b": falling(0.5)})], Choice()) is None


def test_times_and_costs_of_results(tmp_path: Path) -> None:
    levels = {"quadratic_deep": {"adam": 0.2, "sgd": 0.4}, "mine": {"adam": 0.3, "sgd": 0.25}}
    results = load(made.write(tmp_path, made.benchmark(levels, seeds=3, accuracy=("mine",))))
    found = costs(results)
    assert found["adam"]["quadratic_deep"] < found["sgd"]["quadratic_deep"]
    assert found["adam"]["mine"] > found["sgd"]["mine"]
    times = times_to_target(results, clock="gradients")
    assert set(times) == {"adam", "sgd"}
    assert times["adam"]["quadratic_deep"] % 7 == 0
    with pytest.raises(ConfigError, match="Did you mean 'seconds'"):
        times_to_target(results, clock="second")
    with pytest.raises(ConfigError, match="no run has recorded it"):
        times_to_target(results.select(problem="mine"), clock="step")
    assert [each.name for each in collect(results)] == ["mine", "quadratic_deep"]


@pytest.mark.parametrize(
    ("accuracy", "ends", "target"),
    [
        (True, [0.9996, 0.9997], 0.999),  # of the two the worse, rounded to the worse side: a reader may reach it
        (True, [0.91234, 0.7, 0.95], 0.912),
        (False, [0.0012341, 0.5], 0.5),
        (False, [0.0012341, 0.001, 0.5], 0.00124),
        (False, [123456.0], 124000.0),
        (False, [0.0, -0.5, -1.2345], -0.5),
    ],
)
def test_the_target_where_none_is_published_is_reached(
    tmp_path: Path, accuracy: bool, ends: list[float], target: float
) -> None:
    runs = [made.record("mine", f"o{n}", [0.05, end], accuracy=accuracy) for n, end in enumerate(ends)]
    (found,) = collect(load(made.write(tmp_path, runs)))
    assert found.target == pytest.approx(target, rel=1e-12)
    sign = 1 if accuracy else -1
    assert sum(sign * end >= sign * found.target for end in ends) > len(ends) / 2


def test_tracked_quantities_are_means_over_the_seeds(tmp_path: Path) -> None:
    def tracked(*values: float) -> dict[str, object]:
        return {
            "tracked": {
                "every": 10,
                "steps": [0, 10],
                "quantities": {"grad_norm": list(values), "position": [[1, 2]] * 2},
            }
        }

    runs = [made.record("p", "a", [1.0, 0.5], seed=seed, **tracked(seed, 1.0)) for seed in (1, 3)]
    runs.append(made.record("p", "a", [1.0, 0.6], lr=0.2, seed=1))
    (found,) = collect(load(made.write(tmp_path, runs)))
    assert found.tracked == ("grad_norm",)
    np.testing.assert_allclose(found.shown[0].tracked["grad_norm"], [[0, 2, math.sqrt(2)], [10, 1, 0]])
    assert found.shown[0].trials == (0.5, 0.6)


@pytest.mark.parametrize("count", [1, 2, 120, 121, 500])
def test_tracked_steps_count_once_and_the_last_one_is_shown(tmp_path: Path, count: int) -> None:
    """A run that was resumed may have a step twice: the last of them counts."""
    steps = [0, *range(count)]
    tracked = {"every": 1, "steps": steps, "quantities": {"alpha": [9.0, *map(float, range(count))]}}
    (found,) = collect(load(made.write(tmp_path, [made.record("p", "a", [1.0, 0.5], tracked=tracked)])))
    shown = found.shown[0].tracked["alpha"]
    assert shown[[0, -1], 0].tolist() == [0, count - 1]
    assert shown[:, 1].tolist() == shown[:, 0].tolist()
    assert len(set(shown[:, 0])) == len(shown) <= 121
