"""The time to a target: a planted winner, censored seeds, and questions that have no answer."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

from deepobs_func.analysis import compare
from deepobs_func.analysis.racing import race
from deepobs_func.analysis.reading import load
from deepobs_func.analysis.reports import Choice, rank_problem, write_report
from deepobs_func.analysis.reports.collecting import collect, thinned
from deepobs_func.analysis.results import Results
from deepobs_func.analysis.survival import kaplan_meier, log_rank
from deepobs_func.errors import ConfigError
from deepobs_func.records import RunRecord
from tests.analysis.made import record, write
from tests.command import Deepobs

FAST = {seed: [4.0, 1.0 + 0.01 * seed, 0.5, 0.4] for seed in range(1, 7)}  # below 1.5 after an epoch
SLOW = {seed: [4.0, 3.0, 2.0, 1.0 if seed < 3 else 1.9] for seed in range(1, 7)}  # two of six, after three epochs


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return load(write(tmp_path / "results", _records()))


def _records() -> list:  # type: ignore[type-arg]
    return [
        record("two_d_beale", name, curve, seed=seed)
        for name, curves in (("fast", FAST), ("slow", SLOW))
        for seed, curve in curves.items()
    ]


@pytest.mark.parametrize(("clock", "fast"), [("epoch", 1.0), ("seconds", 0.5), ("gradients", 7.0)])
def test_a_planted_winner(results: Results, clock: str, fast: float) -> None:
    (found,) = race(results, clock=clock, target=1.5).problems
    first, second = found.placed
    assert (first.optimizer, first.value, first.reached, first.answer) == ("fast", fast, 6, "alone")
    assert (second.value, second.reached, second.seeds) == (math.inf, 2, 6)
    spread = 6 * 6 * 6 * 6 / (12**2 * 11)  # Mantel's: of 12 at risk, 6 of each, the 6 of one arrive where 3 would
    assert second.p_leader == pytest.approx(2 * norm.sf((6 - 3) / math.sqrt(spread)))


def test_what_is_printed(results: Results) -> None:
    text = str(race(results, target=1.5))
    assert "two_d_beale: epochs until test loss is at most 1.5" in text
    assert "6 of 6" in text
    assert "never" in text
    assert "2 of 6" in text


def test_a_target_that_nobody_reaches(results: Results) -> None:
    (found,) = race(results, target=-1.0).problems
    assert [(each.value, each.reached, each.p_leader) for each in found.placed][1] == (math.inf, 0, 1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clock": "hours"}, "hours"),
        ({"target": math.nan}, "finite"),
        ({"metric": "train_loss"}, "no target"),
        ({"metric": "test_accuracy"}, "test_accuracy"),
        ({"optimizers": ["fast"]}, "two optimizers"),
    ],
)
def test_questions_without_an_answer(results: Results, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        race(results, **options)  # type: ignore[arg-type]


def test_the_command(deepobs: Deepobs, tmp_path: Path) -> None:
    write(tmp_path / "results", _records())
    found = json.loads(deepobs("compare", "--against", "seconds", "--target", "1.5", "--json").out)
    assert [placed["optimizer"] for placed in found["problems"][0]["placed"]] == ["fast", "slow"]
    refused = deepobs("compare", "--target", "1.5", "--delta", "0.1")
    assert refused.code == 2
    assert "do not apply" in refused.err


def stopped(name: str, curve: list[float], seed: int, **how: object) -> RunRecord:
    """A run of four epochs that ended after fewer."""
    return replace(record("two_d_beale", name, curve, seed=seed, status="stopped", **how), num_epochs=4)  # type: ignore[arg-type]


def test_stopped_seeds_are_censored_each_at_its_own_end(tmp_path: Path) -> None:
    """Two of six seeds end after two of four epochs, above the target, and one at the target."""
    runs = [record("two_d_beale", "a", [4.0, 3.0, 2.0, 1.0, 1.0], seed=seed) for seed in range(6)]
    runs += [record("two_d_beale", "b", [4.0, 3.0, 3.0, 2.5, 1.0], seed=seed) for seed in range(3)]
    runs += [stopped("b", [4.0, 3.0, 3.0], seed=seed) for seed in (3, 4)]
    runs += [stopped("b", [4.0, 1.2], seed=5), stopped("b", [4.0, 0.1], seed=0)]  # seed 0 has a complete run
    results = load(write(tmp_path, runs))
    for clock, unit in (("epoch", 1.0), ("seconds", 0.5), ("gradients", 7.0)):
        (found,) = race(results, clock=clock, target=1.5).problems
        a, b = found.placed
        times, reached = [unit * time for time in (4, 4, 4, 2, 2, 1)], [True] * 3 + [False] * 2 + [True]
        assert (a.optimizer, a.reached, b.reached, b.seeds) == ("a", 6, 4, 6)
        assert b.value == kaplan_meier(times, reached).median == 4 * unit
        assert b.p_leader == pytest.approx(log_rank([3 * unit] * 6, [True] * 6, times, reached))
    (data,) = collect(results)
    kept = {each.optimizer: each for each in thinned([data], 1)[0].shown}["b"]  # not even then its end is lost
    assert np.nanmax(kept.stopped.clocks["epoch"], axis=0).tolist() == [2.0, 2.0, 1.0]


def test_runs_that_all_stop_at_the_target_are_compared(tmp_path: Path) -> None:
    runs = [stopped(name, [4.0, *[2.0] * late, 1.0], seed) for name, late in (("a", 0), ("b", 3)) for seed in range(5)]
    results = load(write(tmp_path, runs))
    (found,) = race(results, target=1.5).problems
    assert [(each.optimizer, each.value, each.reached) for each in found.placed] == [("a", 1.0, 5), ("b", 4.0, 5)]
    with pytest.raises(ConfigError, match="No run is complete: 10 stopped"):
        compare(results)
    (data,) = collect(results)
    assert rank_problem(data, Choice()) == []
    assert set(data.incomplete) == {"a", "b"}
    assert "no complete run (5 stopped)" in write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")


def test_of_a_study_only_stopped_runs_on_reported_seeds_count(tmp_path: Path) -> None:
    study = {"study": {"budget": "random-2", "role": "reported", "tuning_seed": 1, "reported_seeds": [2, 3]}}
    runs = [record("two_d_beale", "a", [4.0, 1.0, 1.0, 1.0, 1.0], seed=seed, **study) for seed in (1, 2)]
    runs += [stopped("a", [4.0, 2.0], seed, **study) for seed in (3, 4)]
    runs += [record("two_d_beale", "b", [4.0, 1.0], seed=2)]
    (found,) = race(load(write(tmp_path, runs)), target=1.5).problems
    assert {each.optimizer: (each.reached, each.seeds) for each in found.placed} == {"a": (1, 2), "b": (1, 1)}


def test_what_has_no_time_is_named_with_the_reason(tmp_path: Path) -> None:
    runs = [*_records(), record("two_d_beale", "cut", [4.0, 3.0], status="interrupted")]
    runs += [record("two_d_beale", "blind", [4.0, 1.0, 1.0], calls={}), record("quadratic_deep", "fast", [4.0, 1.0])]
    found = race(load(write(tmp_path, runs)), clock="gradients")
    assert set(found.missing) == {"quadratic_deep"}
    text = str(found)
    assert "cut is left out: no complete or stopped run (1 interrupted)." in text
    assert "blind is left out: a run recorded no gradient evaluations." in text
    assert "quadratic_deep is left out: fast is alone." in text


def test_a_problem_without_a_target_asks_for_one(tmp_path: Path) -> None:
    runs = [record("mine", name, [4.0, math.nan], seed=seed) for name in "ab" for seed in (1, 2)]
    with pytest.raises(ConfigError, match=r"no target on mine\. Give one with target"):
        race(load(write(tmp_path, runs)))


def test_the_pairs_of_three_are_adjusted_and_caveats_are_told(tmp_path: Path) -> None:
    """Fast, slow and slower: of three p-values Holm multiplies the least by 3, the middle one by 2."""
    paces = {"fast": 1, "slow": 2, "slower": 3}
    curves = {name: {seed: [4.0] * (pace + seed % 2) + [1.0] * 3 for seed in range(6)} for name, pace in paces.items()}
    longest = 7
    runs = [
        record("mine", name, (curve + [1.0] * longest)[:longest], seed=seed, data={"synthetic": True})
        for name, by_seed in curves.items()
        for seed, curve in by_seed.items()
    ]
    found = race(load(write(tmp_path, runs)), target=None)
    (raced,) = found.problems
    assert raced.target == 1.0
    assert [each.optimizer for each in raced.placed] == list(paces)
    times = {name: [pace + seed % 2 for seed in range(6)] for name, pace in paces.items()}
    pairs = list(itertools.combinations(paces, 2))
    raw = [log_rank(times[a], [True] * 6, times[b], [True] * 6) for a, b in pairs]
    ranked = sorted(raw)
    by_hand = [3 * ranked[0], max(3 * ranked[0], 2 * ranked[1]), max(3 * ranked[0], 2 * ranked[1], ranked[2])]
    expected = {pair: min(1.0, by_hand[ranked.index(p)]) for pair, p in zip(pairs, raw, strict=True)}
    assert expected["fast", "slower"] > raw[pairs.index(("fast", "slower"))]
    assert [each.p_leader for each in raced.placed[1:]] == pytest.approx(
        [expected["fast", "slow"], expected["fast", "slower"]]
    )
    assert "Mind: stand-in data in 18 of 18 runs: not a result." in str(found)
