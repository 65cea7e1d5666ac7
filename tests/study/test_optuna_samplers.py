"""Pruning: decisions are a function of trials that have ended and of the trial's own epochs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.study.optuna_samplers import Pruning
from deepobs_func.study.pruners import PRUNERS
from deepobs_func.study.samplers import Told

EPOCHS = 9
curves = st.lists(
    st.lists(st.one_of(st.floats(0, 10), st.just(math.inf)), min_size=EPOCHS, max_size=EPOCHS), min_size=1, max_size=9
)


def pruned_at(pruning: Pruning, number: int, curve: list[float]) -> int | None:
    """The epoch at which a trial is pruned; None where it goes to the end. The trial is told."""
    trial = pruning.start(number)
    for epoch in range(1, EPOCHS + 1):
        if trial.prunes(curve[:epoch]):
            pruning.end(trial, Told(math.inf, curve[:epoch], pruned=True))
            return epoch
    pruning.end(trial, Told(curve[-1], curve))
    return None


@pytest.mark.parametrize("name", PRUNERS)
@settings(max_examples=8)
@given(curves)
def test_a_pruner_made_anew_decides_alike_from_records(name: str, curves: list[list[float]]) -> None:
    first, again = Pruning(PRUNERS[name], EPOCHS), Pruning(PRUNERS[name], EPOCHS)
    for number, curve in enumerate(curves):
        end = pruned_at(first, number, curve)
        trial = again.start(number)
        seen = curve if end is None else curve[:end]
        again.end(trial, Told(seen[-1], seen, pruned=end is not None))  # as from a record, all epochs at once
        assert end != EPOCHS
    last = [5.0] * EPOCHS
    assert pruned_at(first, len(curves), last) == pruned_at(again, len(curves), last)


@pytest.mark.parametrize("name", PRUNERS)
def test_what_runs_at_the_same_time_decides_nothing(name: str) -> None:
    alone, beside = Pruning(PRUNERS[name], EPOCHS), Pruning(PRUNERS[name], EPOCHS)
    for number in range(8):
        for pruning in (alone, beside):
            pruning.end(pruning.start(number), Told(1.0 + number, [1.0 + number] * EPOCHS))
    sibling, trial = beside.start(8), beside.start(9)
    assert not sibling.prunes([0.0] * 8)  # far better than all others
    beside.end(sibling, Told(0.0, [0.0] * EPOCHS))
    expected = alone.start(9)
    for epoch in range(1, EPOCHS + 1):
        assert trial.prunes([3.0] * epoch) == expected.prunes([3.0] * epoch)


@pytest.mark.parametrize("name", PRUNERS)
def test_the_worst_of_all_is_pruned_and_the_best_is_not(name: str) -> None:
    pruning = Pruning(PRUNERS[name], EPOCHS)
    for number in range(8):
        assert pruned_at(pruning, number, [1.0 - 0.01 * number] * EPOCHS) is None or number
    ends = [pruned_at(pruning, number, [50.0] * EPOCHS) for number in range(8, 14)]
    assert any(end is not None for end in ends)
    assert pruned_at(pruning, 14, [0.0] * EPOCHS) is None
