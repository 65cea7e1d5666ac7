"""By what trials are judged, and what they cost."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.runner import RunConfig
from deepobs_func.study.judging import Metric, cost, log_of
from tests.study.made_up import record_of

CONFIG = RunConfig("quadratic_deep", "sgd", 0.1)
VALID, BEST = Metric("valid", "final", accuracy=False), Metric("valid", "best", accuracy=False)
ACCURACY = Metric("valid", "best", accuracy=True)


def test_a_loss_after_the_last_epoch_or_the_least() -> None:
    record = record_of(CONFIG, [9.0, 2.0, 3.0])
    assert (VALID.loss(record), BEST.loss(record)) == (3.0, 2.0)
    assert (VALID.name, ACCURACY.name) == ("final valid loss", "best valid accuracy")


def test_the_test_set_is_looked_at_only_by_name() -> None:
    record = record_of(CONFIG, [9.0, 2.0, 3.0])
    assert Metric("test", "final", accuracy=False).loss(record) == 4.0
    assert VALID.loss(replace(record, test_losses=[0.0] * 3)) == 3.0


def test_before_training_nothing_counts() -> None:
    assert BEST.loss(record_of(CONFIG, [0.5, 2.0])) == 2.0
    assert BEST.loss(record_of(CONFIG, [0.5])) == math.inf
    assert VALID.loss(None) == math.inf


def test_of_accuracies_the_most_is_best() -> None:
    record = replace(record_of(CONFIG, [1.0] * 4), valid_accuracies=[0.1, 0.7, 0.9, 0.8])
    assert ACCURACY.losses(log_of(record)) == [-0.7, -0.9, -0.8]
    assert ACCURACY.shown(ACCURACY.loss(record)) == 0.9


@given(st.lists(st.sampled_from([1.0, 2.0, math.nan, math.inf, -math.inf]), min_size=1, max_size=6))
def test_what_is_not_finite_is_the_worst(losses: list[float]) -> None:
    record = record_of(CONFIG, [0.0, *losses])
    kept = [loss for loss in losses if math.isfinite(loss)]
    assert BEST.loss(record) == min(kept, default=math.inf)
    assert VALID.loss(record) == (losses[-1] if math.isfinite(losses[-1]) else math.inf)
    assert (VALID.shown(VALID.loss(record)) is None) == (not math.isfinite(losses[-1]))


def test_the_accuracy_of_an_epoch_whose_loss_is_not_finite_is_the_worst() -> None:
    record = replace(record_of(CONFIG, [1.0, 1.0, math.nan]), valid_accuracies=[0.1, 0.2, 0.9])
    assert ACCURACY.loss(record) == -0.2
    assert Metric("valid", "final", accuracy=True).loss(record) == math.inf


def test_costs() -> None:
    record = record_of(CONFIG, [1.0, 1.0, 1.0], {"gradients": 10, "products": 4, "evaluations": 3})
    assert [cost(record, unit) for unit in ("trials", "gradients", "seconds")] == [1.0, 10 + 2 * 4 + 1, 1.0]


@pytest.mark.parametrize("record", [None, record_of(CONFIG, [1.0, 1.0])])
def test_gradients_that_nobody_counted_are_not_known(record: object) -> None:
    assert cost(record, "gradients") is None  # type: ignore[arg-type]
    assert cost(None, "trials") == 1.0
