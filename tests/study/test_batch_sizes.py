"""Batch sizes as an axis of a study: every setting with each, on as many examples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepobs_func import datasets
from deepobs_func.study import Study
from deepobs_func.study.batch_sizes import check_examples
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
        ({"batch_sizes": [100, 6000]}, "evaluation of the training set has 10000 with 100, 6000 with 6000"),
        ({"batch_sizes": [100, 6000], "valid": 6000}, "evaluation of the training set has 10000 with 100, 6000"),
        ({"batch_sizes": [100, 3000], "valid": 5000}, "on mnist_mlp the evaluation of the training set has 10000"),
        ({"batch_sizes": [50, 500], "valid": 730}, "the validation has 700 with 50, 500 with 500.*divisors of 730"),
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


def test_the_test_set_is_counted_where_the_training_set_is_evaluated_on_fewer() -> None:
    spec = replace(datasets.spec("mnist"), train_eval_size=6000)
    with pytest.raises(SpecError, match=r"on mine the test has 10000 with 100, 6000 with 6000.*divisors of 10000"):
        check_examples("mine", spec, [100, 6000], {})
    check_examples("mine", spec, [50, 100], {"valid": True})


def test_a_problem_by_import_path_is_checked_when_it_is_made() -> None:
    """256 examples, of which 128 are for the test."""
    path = "tests.study.user_code:few_images"
    made = Study(path, {"sgd": {"lr": [0.1]}}, epochs=1, batch_sizes=[32, 128])
    assert [each.batch_size for each in made.runs] == [32, 128]
    wrong = Study(path, {"sgd": {"lr": [0.1]}}, epochs=1, batch_sizes=[32, 96])
    with pytest.raises(SpecError, match=r"user_code:few_images an epoch has 256 with 32, 192 with 96"):
        _ = wrong.runs
