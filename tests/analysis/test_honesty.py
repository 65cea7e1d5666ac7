"""What is marked, on frames made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from deepobs_func.analysis.honesty import CHECKS, at_epoch, caveats, one_setting, stopping_epoch
from deepobs_func.errors import DataError

STUDY = {"budget": "random-20", "amount": 20.0, "unit": "trials", "metric": "final valid accuracy", "tuning_seed": 42}
ROW = {"problem": "mnist_mlp", "optimizer": "adam", "setting": "adam lr 0.001", "seed": 43, "status": "finished"}
ROW |= {"epochs": 100, "batch_size": 128, "weight_decay": math.nan, "protocol": "default", "data": "files"}
ROW |= {"precision": "float32", "version": "0.1.0", "machine": "cpu", "study": STUDY}
ROW |= {"waiting": math.nan}


def frame(*rows: dict[str, Any]) -> pd.DataFrame:
    """Two optimizers with seeds 43 and 44, and changes of single rows."""
    base = [ROW | {"seed": seed} for seed in (43, 44)]
    base += [ROW | {"seed": seed, "optimizer": "sgd", "setting": "sgd lr 0.1"} for seed in (43, 44)]
    for index, changes in enumerate(rows):
        base[index] = base[index] | changes
    return pd.DataFrame(base)


def kinds(runs: pd.DataFrame, chosen: Any = None) -> set[str]:
    return {each.kind for each in caveats(runs, chosen)}


def test_what_is_clean_has_no_caveat() -> None:
    assert caveats(frame()) == []


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("synthetic", {"data": "synthetic"}, "stand-in data in 1 of 4 runs: not a result"),
        ("diverged", {"status": "diverged"}, "1 of 2 runs of adam diverged"),
        ("unfinished", {"status": "interrupted"}, "1 of 2 runs of adam did not end: 1 interrupted"),
        ("missing_seeds", {"seed": 45}, "adam lacks the seed 43"),
        ("mixed_settings", {"setting": "adam lr 0.01"}, "adam has 2 settings; nothing is averaged over them"),
        ("training_budget", {"epochs": 50}, "different numbers of epochs: adam 100 and 50, sgd 100"),
        ("training_budget", {"batch_size": 64}, "different numbers of examples a batch: adam 128 and 64, sgd 128"),
        (
            "tuning_budget",
            {"study": STUDY | {"amount": 50.0}},
            "unequal tuning budgets: adam random-20 20 trials and random-20 50 trials, sgd random-20 20 trials",
        ),
        ("tuned_on_test", {"study": STUDY | {"metric": "final test accuracy"}}, "adam was tuned on the test set"),
        ("tuning_seed", {"seed": 42}, "the tuning seed 42 of adam is among the reported ones"),
        ("protocol", {"protocol": "deepobs-1.1.2"}, "different protocols: adam deepobs-1.1.2 and default, sgd default"),
        ("precision", {"precision": "bf16"}, "different precisions: adam bf16 and float32, sgd float32"),
        ("version", {"version": ""}, "different versions: adam 0.1.0 and unknown, sgd 0.1.0"),
        (
            "waiting",
            {"waiting": 0.25},
            "1 of 2 runs of adam waited for data in up to 25% of the time, so that seconds are those of the workers "
            "that read",
        ),
        (
            "machine",
            {"machine": "gpu"},
            "different machines, so that seconds do not compare: adam cpu and gpu, sgd cpu",
        ),
        (
            "weight_decay",
            {"weight_decay": 0.01},
            "different weight decay of the problem: adam 0.01 and default, sgd default",
        ),
    ],
)
def test_each_defect_is_marked(kind: str, changes: dict[str, Any], said: str) -> None:
    found = next(each for each in caveats(frame(changes)) if each.kind == kind)
    assert found.text == said
    assert str(found) == f"mnist_mlp: {said}"
    assert "adam" in found.optimizers


def test_a_little_waiting_is_not_said() -> None:
    assert caveats(frame({"waiting": 0.09}, {"waiting": 0.0})) == []


def test_stated_seeds_that_are_not_there() -> None:
    study = STUDY | {"reported_seeds": [43, 44, 45]}
    found = [each.text for each in caveats(frame(*[{"study": study}] * 4)) if each.kind == "missing_seeds"]
    assert found == ["adam lacks the seed 45", "sgd lacks the seed 45"]


def test_one_seed_says_so() -> None:
    runs = frame().iloc[[0, 2]]
    assert next(each.text for each in caveats(runs)) == "adam has one seed, so that nothing is known of its spread"


def test_runs_of_the_tuning_itself_are_not_reported() -> None:
    """They tell what was tried, and do not count as seeds."""
    study = STUDY | {"reported_seeds": [43, 44]}
    tuning = [ROW | {"seed": 42, "setting": f"adam lr {lr}", "study": study, "status": "diverged"} for lr in (1, 2)]
    runs = pd.concat([frame(*[{"study": study}] * 4), pd.DataFrame(tuning)], ignore_index=True)
    assert caveats(runs, {("mnist_mlp", "adam"): "adam lr 0.001", ("mnist_mlp", "sgd"): "sgd lr 0.1"}) == []


def test_a_setting_that_was_picked_by_its_test_value() -> None:
    runs = frame(*[{"study": {}}] * 4)
    more = pd.concat([runs, pd.DataFrame([ROW | {"setting": "adam lr 1", "study": {}}])], ignore_index=True)
    found = {
        each.kind: each.text
        for each in caveats(more, {("mnist_mlp", "adam"): "adam lr 0.001", ("mnist_mlp", "sgd"): "sgd lr 0.1"})
    }
    assert "chosen on the test set" in found["tuned_on_test"]
    assert found["tuning_budget"] == "unequal numbers of settings were tried: adam 2, sgd 1"
    assert found["tuning_seed"] == "the tuning seed 43 of adam is among the reported ones"


def test_what_concerns_several_is_said_once() -> None:
    rows = [{"study": STUDY | {"metric": "final test loss", "tuning_seed": seed}} for seed in (43, 43, 43, 43)]
    found = {each.kind: each for each in caveats(frame(*rows))}
    assert found["tuned_on_test"].text == "adam and sgd were tuned on the test set"
    assert found["tuning_seed"].text == "the tuning seed 43 of adam and sgd is among the reported ones"
    assert found["tuning_seed"].optimizers == ("adam", "sgd")


def test_every_problem_is_its_own() -> None:
    runs = pd.concat([frame(), frame().assign(problem="mnist_vae", epochs=50)], ignore_index=True)
    assert caveats(runs) == []
    assert set(CHECKS) > kinds(frame({"data": "synthetic"}))


def test_nothing_is_averaged_over_settings() -> None:
    assert one_setting(frame().iloc[:2]) == "adam lr 0.001"
    for runs, said in (
        (frame(), "2 different settings"),
        (frame().iloc[:0], "no run"),
        (frame({"seed": 44}).iloc[:2], "Seed 44 is there twice"),
        (frame({"problem": "mnist_vae"}).iloc[:2], "2 different problems"),
    ):
        with pytest.raises(DataError, match=said):
            one_setting(runs)


def test_the_stopping_epoch_is_one_for_all_seeds() -> None:
    curves = np.array([[0.1, 0.1], [0.9, 0.5], [0.7, 0.8], [0.6, 0.7]])
    assert stopping_epoch(curves, higher_is_better=True) == 2
    assert at_epoch(curves, 2).tolist() == [0.7, 0.8]
    assert at_epoch(curves, 2).mean() < curves.max(axis=0).mean()
    assert stopping_epoch(-curves, higher_is_better=False) == 2
    curves[2, 0] = np.nan
    assert stopping_epoch(curves, higher_is_better=True) == 1
    assert stopping_epoch(np.full((4, 2), np.nan), higher_is_better=True) == 3
    for bad in ([], [1.0], np.empty((0, 2))):
        with pytest.raises(DataError):
            stopping_epoch(bad, higher_is_better=True)
    with pytest.raises(DataError, match="Epoch 9"):
        at_epoch(curves, 9)
