"""Optimizers and settings: one name for each, never one for two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.analysis import load
from tests.analysis.trees import of_1_2, record, write, write_json


def optimizers(root: Path) -> list[str]:
    return load(root).optimizers


def test_two_optimizers_of_one_name_with_other_hyperparameters(tmp_path: Path) -> None:
    write(tmp_path, record(optimizer="Mine", status=None, hyperparams={"alpha": 0.1}))
    write(tmp_path, record(optimizer="Mine", status=None, hyperparams={"beta": 0.1}, lr=0.2))
    write(tmp_path, record(optimizer="Mine", status=None, lr=0.3))
    assert optimizers(tmp_path) == ["Mine (alpha)", "Mine (beta)", "Mine (no hyperparameters)"]


def test_other_values_are_settings_of_one_optimizer(tmp_path: Path) -> None:
    write(tmp_path, *(record(status=None, hyperparams={"momentum": value}) for value in (0.9, 0.99)))
    results = load(tmp_path)
    assert results.optimizers == ["sgd"]
    assert results.runs["setting"].nunique() == 2


def test_code_that_was_changed_is_another_optimizer(tmp_path: Path) -> None:
    for number, code in enumerate(("3f2a9c1b77", "77aa00bb11", "torch 2.13.0")):
        write(tmp_path, record(optimizer="my:make", lr=0.1 * (number + 1), extra={"code": {"optimizer": code}}))
    assert optimizers(tmp_path) == ["my:make (code 3f2a9c1b)", "my:make (code 77aa00bb)", "my:make (code torch 2.13.0)"]


def test_a_class_with_other_hyperparameters_in_another_version_is_the_same(tmp_path: Path) -> None:
    write(tmp_path, record(optimizer="Adam", hyperparams={"eps": 1e-8}))
    write(tmp_path, record(optimizer="Adam", hyperparams={"eps": 1e-8, "foreach": None}, lr=0.2))
    assert optimizers(tmp_path) == ["Adam"]


def test_sources_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, record(optimizer="Adam"), record(optimizer="Adam", status=None, lr=0.2))
    path = tmp_path / "mnist_mlp/Adam/num_epochs__2__batch_size__128__lr__3.e-01/random_seed__42__x.json"
    write_json(path, of_1_2(record(optimizer="Adam", lr=0.3)))
    assert optimizers(tmp_path) == ["Adam", "Adam (deepobs-1.1.2)", "Adam (deepobs-1.2)"]


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "problem": st.sampled_from(["mnist_mlp", "mnist_2c2d"]),
    "optimizer": st.sampled_from(["sgd", "adam"]),
    "lr": st.sampled_from([0.1, 0.2]),
    "batch_size": st.sampled_from([64, 128]),
    "weight_decay": st.sampled_from([None, 0.1]),
    "hyperparams": st.sampled_from([{}, {"momentum": 0.9}, {"momentum": 0.99}, {"nesterov": True}]),
    "lr_sched_epochs": st.sampled_from([None, [1]]),
    "status": st.sampled_from(["finished", None]),
}


@pytest.mark.filterwarnings("error")
@given(runs=st.lists(st.fixed_dictionaries(FIELDS), min_size=2, max_size=4))
@settings(max_examples=30)
def test_a_setting_is_equal_exactly_for_runs_that_differ_in_the_seed_alone(
    tmp_path_factory: pytest.TempPathFactory, runs: list[dict[str, Any]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    by_path = {}
    for seed, fields in enumerate(runs):
        factors = None if fields["lr_sched_epochs"] is None else [0.1]
        (path,) = write(root, record(seed=seed, lr_sched_factors=factors, **fields))
        by_path[str(path)] = fields
    rows = load(root).runs.to_dict("records")
    for one in rows:
        for other in rows:
            same = by_path[one["path"]] == by_path[other["path"]]
            assert (one["setting"] == other["setting"]) == same
            if one["optimizer"] == other["optimizer"]:
                assert one["name"] == other["name"]
                assert one["source"] == other["source"]
