"""What differs between the study of a folder and the one that is to be run in it."""

from __future__ import annotations

import json

from deepobs_func.study import Study
from deepobs_func.study.differing import differences

STUDY = Study("small", {"sgd": {"lr": [0.1, 0.2]}, "adam": {"lr": 1e-3, "beta1": 0.5}}, epochs=5, schedules=["cosine"])


def test_a_study_differs_in_nothing_from_what_json_keeps_of_it() -> None:
    made = Study("two_d_beale", {"torch.optim.Adam": {"lr": 0.1, "betas": (0.9, 0.99)}}, track=["grad_norm"])
    for each in (STUDY, made):
        assert differences(json.loads(json.dumps(each.plain())), each.plain()) == []


def test_every_value_that_is_another_one_is_told_with_its_place() -> None:
    now = Study(
        ["small", "mnist_mlp"],
        {"sgd": {"lr": [0.1, 0.3]}, "adam": {"lr": 1e-3}},
        seeds=2,
        overrides={"mnist_mlp": {"epochs": 3}},
    )
    assert differences(STUDY.plain(), now.plain()) == [
        "problems: with ['mnist_mlp']",
        "optimizers.sgd.lr.values: with [0.3], without [0.2]",
        "optimizers.adam.hyperparams: nothing, before: {'beta1': {'values': [0.5]}}",
        "seeds: with [43]",
        "schedules: nothing, before: [{'schedule': 'cosine'}]",
        "epochs: nothing, before: 5",
        "overrides: {'mnist_mlp': {'epochs': 3}}, before: nothing",
    ]


def test_an_order_is_a_difference_too() -> None:
    """Of the runs, which are made in it; long values are cut."""
    assert differences({"seeds": [1, 2]}, {"seeds": [2, 1]}) == ["seeds: in another order"]
    assert differences({"data": "x" * 90}, {"data": "y"}) == [f"data: 'y', before: 'x{'x' * 58}..."]
