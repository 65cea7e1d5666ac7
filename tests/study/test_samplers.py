"""Samplers: what they ask for, and that it is a function of a seed and of what they were told."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.study.pruners import PRUNERS, find_pruner
from deepobs_func.study.samplers import SAMPLERS, Told, find_sampler, make_sampler, values_at
from deepobs_func.study.spaces import Choice, IntUniform, LogUniform, Uniform, Values

SPACES = {"lr": LogUniform(1e-4, 1e-1), "momentum": Uniform(0.0, 0.9), "bn": Choice(("coupled", "eval"))}
OPTUNA = [name for name, spec in SAMPLERS.items() if spec.needs]
DRAWN = ["random", "halton", *OPTUNA]


def loss_of(values: dict[str, Any]) -> float:
    return (values["lr"] - 0.01) ** 2 + values["momentum"]


def asked(name: str, rounds: list[int], seed: int = 42) -> list[dict[str, Any]]:
    """The points of some rounds, each told before the next one is asked for."""
    sampler, found = make_sampler(find_sampler(name), SPACES, seed), []
    for size in rounds:
        points = [sampler.ask() for _ in range(size)]
        for point in points:
            assert point is not None
            sampler.tell(Told(loss_of(point), [loss_of(point)]))
        found += points
    return found


@pytest.mark.parametrize("name", DRAWN)
def test_points_lie_in_their_spaces(name: str) -> None:
    points = asked(name, [1] * 13)
    assert len({point["lr"] for point in points}) > 10
    for point in points:
        assert list(point) == list(SPACES)
        assert 1e-4 <= point["lr"] <= 1e-1
        assert 0 <= point["momentum"] <= 0.9
        assert point["bn"] in ("coupled", "eval")


@pytest.mark.parametrize("name", DRAWN)
def test_a_sampler_made_anew_asks_the_same(name: str) -> None:
    assert asked(name, [1] * 13) == asked(name, [1] * 13)
    assert asked(name, [3, 3, 2]) == asked(name, [3, 3, 2])
    assert asked(name, [1] * 4) != asked(name, [1] * 4, seed=43)


@pytest.mark.parametrize("name", DRAWN)
def test_an_earlier_end_has_the_same_beginning(name: str) -> None:
    assert asked(name, [1] * 12)[:7] == asked(name, [1] * 7)


@pytest.mark.parametrize("name", [name for name in DRAWN if not SAMPLERS[name].adaptive])
def test_what_is_not_adaptive_does_not_depend_on_rounds(name: str) -> None:
    assert asked(name, [6]) == asked(name, [1] * 6)


@pytest.mark.parametrize("name", ["tpe", "cmaes"])
def test_what_is_adaptive_learns(name: str) -> None:
    points = asked(name, [1] * 30)
    losses = [loss_of(point) for point in points]
    assert SAMPLERS[name].adaptive
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])


@pytest.mark.parametrize("name", OPTUNA)
def test_trials_that_diverged_or_were_pruned_do_no_harm(name: str) -> None:
    sampler = make_sampler(find_sampler(name), SPACES, 42)
    for number in range(14):
        assert sampler.ask() is not None
        told = [Told(float("inf"), [1.0, float("inf")]), Told(3.0, [3.0], pruned=True), Told(0.5, [1.0, 0.5])]
        sampler.tell(told[number % 3])


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), max_size=3), st.integers(0, 3))
def test_a_grid_has_every_point_once(columns: list[list[int]], seed: int) -> None:
    spaces = {f"x{index}": Values(tuple(column)) for index, column in enumerate(columns)}
    grid = make_sampler(find_sampler("grid"), spaces, seed)
    points = list(iter(grid.ask, None))
    assert [tuple(point.values()) for point in points] == list(itertools.product(*columns))


def test_a_grid_has_an_end() -> None:
    with pytest.raises(ConfigError, match=r"search lr: loguniform.* has no end of values"):
        make_sampler(find_sampler("grid"), SPACES, 0)


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_a_draw_depends_on_its_number_and_the_seed_alone(seed: int, count: int) -> None:
    spaces = {"lr": LogUniform(1e-4, 1e-1), "k": IntUniform(1, 5)}
    first, second = (make_sampler(find_sampler("random"), spaces, seed) for _ in range(2))
    points = [first.ask() for _ in range(count)]
    for point in points:
        second.tell(Told(1.0, []))
        assert second.ask() == point


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_a_halton_sequence_covers_each_dimension_evenly(seed: int) -> None:
    sampler = make_sampler(find_sampler("halton"), {"x": Uniform(0.0, 1.0), "y": Uniform(0.0, 1.0)}, seed)
    points = [sampler.ask() for _ in range(36)]
    for name, base in (("x", 2), ("y", 3)):
        for cells in (base, base**2):
            found = [sum(int(point[name] * cells) == cell for point in points if point) for cell in range(cells)]
            assert max(found) - min(found) <= 1


def test_the_end_of_the_unit_interval_is_inside() -> None:
    assert values_at({"k": IntUniform(1, 3), "lr": LogUniform(0.1, 1.0)}, [1.0, 1.0])["k"] == 3


@pytest.mark.parametrize(
    ("find", "what"),
    [(lambda: find_sampler("tpe"), "--sampler tpe"), (lambda: find_pruner("median"), "--pruner median")],
)
def test_without_optuna_the_extra_is_named(
    find: Callable[[], object], what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "optuna" else find_spec(name, *rest)
    )
    with pytest.raises(ConfigError) as raised:
        find()
    assert raised.value.told(as_flag) == (
        f"{what} needs optuna, which is not installed. Install it: pip install 'deepobs-func[tune]'."
    )


def test_names_that_are_unknown() -> None:
    with pytest.raises(ConfigError, match=r"Unknown sampler 'tpw'\. Did you mean 'tpe'\?"):
        find_sampler("tpw")
    with pytest.raises(ConfigError, match=r"Unknown pruner 'medium'\. Did you mean 'median'\?"):
        find_pruner("medium")
    assert set(PRUNERS) == {"median", "percentile", "successive-halving", "hyperband"}
