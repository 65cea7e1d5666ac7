"""Which setting stands for an optimizer."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.analysis import load
from deepobs_func.analysis.choosing import MODES, Setting, choose, mean_curve, settings_of
from deepobs_func.errors import ConfigError
from tests.analysis.trees import record, write

values = st.sampled_from([0.1, 0.2, 0.5, math.inf, math.nan])


def setting(lr: float, final: float, best: float = 0.0, runs: int = 1, reported: int | None = None) -> Setting:
    return Setting(f"lr {lr}", lr, tuple(range(runs)), runs if reported is None else reported, final, best)


def test_most_counts_reported_runs_first_then_the_better_final() -> None:
    many, few = setting(0.1, 0.2, runs=9, reported=0), setting(0.2, 0.9, runs=2)
    assert choose([many, few], "most", False) is few
    worse, better = setting(0.1, 0.3, runs=3), setting(0.2, 0.2, runs=3)
    assert choose([worse, better], "most", False) is better
    assert choose([worse, better], "most", True) is worse


@given(finals=st.lists(values, min_size=1, max_size=5), higher=st.booleans())
def test_the_best_is_better_than_all_and_nan_never_is(finals: list[float], higher: bool) -> None:
    settings = [setting(number + 1.0, value, value) for number, value in enumerate(finals)]
    there = [value for value in finals if not math.isnan(value)]
    for mode in MODES:
        found = choose(settings, mode, higher)
        if there:
            assert found.final == (max(there) if higher else min(there))
            assert found.lr == 1.0 + finals.index(found.final)  # the first of equals
        else:
            assert found is settings[0]


def test_a_mode_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"Unknown mode 'bets'\. Did you mean 'best'"):
        choose([setting(0.1, 0.2)], "bets", False)


def test_a_mean_of_runs_of_different_lengths_ends_in_nan() -> None:
    found = mean_curve([np.array([1.0, 2.0, math.inf]), np.array([3.0, 4.0])])
    assert found[:2].tolist() == [2.0, 3.0]
    assert math.isnan(found[2])
    assert math.isnan(mean_curve([np.array([math.inf]), np.array([-math.inf])])[0])


def test_a_seed_that_was_run_twice_counts_once(tmp_path: Path) -> None:
    ends = [(1, 9.0), (2, 1.0), (1, 3.0)]
    runs = [record(seed=seed, losses=(2.0, 2.0, end)) for seed, end in ends]
    write(tmp_path, *runs)
    results = load(tmp_path)
    (found,) = settings_of(results, "mnist_mlp", "sgd", "test_loss")
    assert (len(found.runs), found.final) == (2, 2.0)
    assert results.curve("mnist_mlp", "sgd", "test_loss")[0].shape == (3, 2)
    assert any("several times with the seeds 1" in str(each) for each in results.warnings())
