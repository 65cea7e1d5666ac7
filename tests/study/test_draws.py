"""Keyed draws: the same spec, the same values."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.errors import ConfigError
from deepobs_func.study.draws import draw, points
from deepobs_func.study.spaces import Choice, IntUniform, LogUniform, Uniform

SPACES = {"lr": LogUniform(1e-4, 1e-1), "momentum": Uniform(0.0, 1.0)}


@settings(max_examples=30)
@given(st.integers(0, 2**64), st.text(max_size=5), st.integers(1, 20), st.integers(1, 20))
def test_more_samples_and_other_hyperparameters_change_no_value(seed: int, name: str, few: int, more: int) -> None:
    drawn = draw(SPACES, few + more, seed, name)
    assert draw(SPACES, few, seed, name) == drawn[:few]
    assert [each["lr"] for each in drawn] == [each["lr"] for each in draw({"lr": SPACES["lr"]}, few + more, seed, name)]


def test_seed_optimizer_and_hyperparameter_have_streams_of_their_own() -> None:
    streams = [points(seed, *names) for seed in (1, 2) for names in (("a", "b"), ("ab", ""), ("a", "c"), ("b", "b"))]
    drawn = [tuple(itertools.islice(stream, 3)) for stream in streams]
    assert len(set(drawn)) == len(drawn)


def test_the_points_are_uniform() -> None:
    drawn = np.array(list(itertools.islice(points(42, "sgd", "lr"), 20_000)))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts, _ = np.histogram(drawn, bins=20, range=(0.0, 1.0))
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-square with 19 degrees of freedom: p = 0.0007
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.03


def test_the_draws_are_those_of_any_process_and_machine() -> None:
    """Written down once: a change of NumPy's or of ours would give a resumed study other runs."""
    code = "from deepobs_func.study.draws import points; import itertools, sys;"
    code += "print(list(itertools.islice(points(42, 'sgd', 'lr'), 2)), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.700297356345936, 0.0572631005629094] False\n"


def test_no_combination_comes_twice() -> None:
    spaces = {"k": IntUniform(1, 3), "mode": Choice(("a", "b"))}
    drawn = draw(spaces, 6, seed=1, name="x")
    assert {(each["k"], each["mode"]) for each in drawn} == set(itertools.product((1, 2, 3), "ab"))
    with pytest.raises(ConfigError, match=r"samples 7: there are 6 combinations of k, mode; give a list instead."):
        draw(spaces, 7, seed=1, name="x")
    with pytest.raises(ConfigError, match=r"samples 9: there are [1-3] combinations of lr; give a list instead."):
        draw({"lr": Uniform(1.0, np.nextafter(np.nextafter(1.0, 2), 2))}, 9, seed=1, name="x")
