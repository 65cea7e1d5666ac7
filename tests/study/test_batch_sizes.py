"""Batch sizes as an axis of a study: every setting with each, on as many examples."""

from __future__ import annotations

import pytest

from deepobs_func.study import Study
from deepobs_func.study.places import SpecError


def study(**changes: object) -> Study:
    values: dict[str, object] = {"epochs": 2, "batch_sizes": [50, 100, 200]}
    return Study("mnist_mlp", {"sgd": {"lr": [0.1, 0.01]}}, **(values | changes))  # type: ignore[arg-type]


def test_every_setting_is_run_with_every_batch_size() -> None:
    found = study(seeds=2, schedules=["constant", "cosine"])
    runs = {(run.lr, run.schedule, run.batch_size, run.seed) for run in found.runs}
    assert len(runs) == len(found.runs) == found.size == 2 * 2 * 3 * 2
    assert {run.epochs for run in found.runs} == {2}  # on as many examples
    assert found.table()[0]["settings"] == 12


def test_a_study_with_batch_sizes_is_plain_data() -> None:
    found = study()
    assert found.plain()["batch_sizes"] == [50, 100, 200]
    assert Study(**found.plain()) == found
    assert "batch_sizes" not in study(batch_sizes=None).plain()
    assert {run.batch_size for run in study(batch_sizes=None).runs} == {None}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"batch_sizes": [32, 32]}, r"batch_sizes\[1\]: 32 is there already"),
        ({"batch_sizes": [0]}, r"batch_sizes\[0\]: 0: a batch size is a whole number from 1"),
        ({"batch_sizes": 32}, "it must be a list of batch sizes"),
        ({"batch_sizes": []}, "it must be a list of batch sizes"),
        ({"batch_size": 100}, "batch_size: 100: there are batch_sizes too"),
        (
            {"batch_sizes": [100, 40_000]},
            "an epoch has 60000 with 100, 40000 with 40000.*at most 5%.*divisors of 60000",
        ),
        ({"batch_sizes": [100, 60_001]}, "an epoch has 60000 with 100, 0 with 60001"),
    ],
)
def test_refusals(given: dict[str, object], reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        study(**given)


def test_examples_are_counted_without_those_set_aside() -> None:
    with pytest.raises(SpecError, match="an epoch has 9990 with 30, 9000 with 3000"):
        study(batch_sizes=[30, 3000], valid=50_001)
    assert study(batch_sizes=[50, 200], valid=10_000).runs
