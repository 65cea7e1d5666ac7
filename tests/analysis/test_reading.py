"""Every dialect is read, each run once; what cannot be read is listed with its reason."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepobs_func import RunConfig, run
from deepobs_func.analysis import Results, load
from deepobs_func.analysis.parsing import _fast
from deepobs_func.errors import ConfigError
from deepobs_func.records import state_dir
from tests.analysis.conftest import Tree
from tests.analysis.trees import name_1_2, of_1_2, port_path, record, write, write_json

CROWDED = "results/large_budget/cosine_wr"


def row(results: Results, number: int = 0) -> dict[str, Any]:
    return results.runs.loc[number].to_dict()


def test_deepobs_1_1_2(tmp_path: Path) -> None:
    run = record("cifar10_3c3d", "MomentumOptimizer", status=None, weight_decay=0.01, hyperparams={"momentum": 0.9})
    (path,) = write(tmp_path, run)
    results = load(tmp_path)
    found = row(results)
    assert found["path"] == str(path)
    assert found["setting"] == f"cifar10_3c3d/MomentumOptimizer/{path.parent.name}"
    expected = {
        "problem": "cifar10_3c3d",
        "optimizer": "MomentumOptimizer",
        "seed": 42,
        "status": "finished",
        "lr": 0.1,
        "hyperparams": {"momentum": 0.9},
        "schedule": "",
        "epochs": 2,
        "batch_size": 128,
        "weight_decay": 0.01,
        "protocol": "deepobs-1.1.2",
        "data": "files",
        "precision": "float32",
        "source": "deepobs-1.1.2",
        "metric": "test_accuracy",
        "higher_is_better": True,
        "study": {},
        "steps_per_epoch": 390.0,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["target"] == pytest.approx(0.82833, abs=1e-5)
    assert results.epochs["test_accuracy"].tolist() == [0.1, 0.8, 0.9]
    assert results.epochs["step"].tolist() == [0.0, 390.0, 780.0]
    assert results.epochs["valid_loss"].isna().all()
    assert results.epochs["seconds"].isna().all()


@pytest.mark.parametrize("decay", ["l2_reg", "weight_decay"])
@pytest.mark.parametrize("lr", ["lr", "learning_rate"])
def test_deepobs_1_2(tmp_path: Path, decay: str, lr: str) -> None:
    run = record("mnist_vae", "Adam", accuracies=None, weight_decay=0.002, hyperparams={"beta1": 0.9})
    write_json(tmp_path / "mnist_vae/Adam" / name_1_2(run, lr) / "random_seed__42__x.json", of_1_2(run, decay, lr))
    found = row(load(tmp_path))
    assert (found["source"], found["lr"], found["weight_decay"]) == ("deepobs-1.2", 0.1, 0.002)
    assert (found["hyperparams"], found["metric"]) == ({"beta1": 0.9}, "test_loss")
    assert load(tmp_path).epochs["valid_loss"].tolist() == [2.0, 1.0, 0.5]


def test_the_port_is_known_by_numbers_without_a_dot(tmp_path: Path) -> None:
    """A rate that is not round has DeepOBS's name: the others of the optimizer tell."""
    for lr in (0.01, 0.0158):
        run = record(optimizer="SGD", lr=lr, status=None)
        write_json(port_path(tmp_path, run), run.to_json())
    write(tmp_path, record(optimizer="AdamOptimizer", lr=0.0158, status=None))
    results = load(tmp_path)
    assert dict(zip(results.runs["optimizer"], results.runs["source"], strict=True)) == {
        "SGD": "port",
        "AdamOptimizer": "deepobs-1.1.2",
    }
    assert results.runs["source"].tolist().count("port") == 2


def test_the_tree_of_the_crowded_valley(tmp_path: Path) -> None:
    content = of_1_2(record("quadratic_deep", "AMSGrad", accuracies=None), lr="learning_rate")
    content["training_params"] = {"lr_sched_epochs": [1, 2], "lr_sched_factors": [0.5, 0.25]}
    path = tmp_path / CROWDED / "quadratic_deep/AMSGrad/num_epochs__2__batch_size__128__learning_rate__1.e-01"
    write_json(path / "random_seed__42__2020-03-30-06-48-52.json", content)
    for root in (tmp_path, tmp_path / "results", tmp_path / CROWDED):
        found = row(load(root))
        assert (found["source"], found["schedule"]) == ("crowded-valley", "cosine_wr")
        assert found["study"] == {"budget": "large_budget", "schedule": "cosine_wr"}
        assert found["setting"].endswith("__schedule__cosine_wr")


def test_ours_with_all_that_a_record_has(tmp_path: Path) -> None:
    extra = {
        "timings": {"warm_up": 1.0, "train": [0.5, 0.25], "data_wait": [0.0, 0.15], "evaluate": [0.1, 0.1, 0.1]},
        "calls": {"gradients": [7, 14], "products": [0, 3]},
        "tracked": {"every": 7, "steps": [0, 7], "quantities": {"grad_norm": [3.0, 2.0], "position": [[1, 2], [3, 4]]}},
        "environment": {"deepobs_func": "0.1.0", "torch": "2.13.0", "platform": "Linux", "cpus": 2, "device": "cpu"},
        "data": {"source": "synthetic", "synthetic": True},
        "run_id": "ab",
        "steps_per_epoch": 7,
        "study": {"budget": "halton", "reported_seeds": [45]},
    }
    write(tmp_path, record("two_d_beale", extra=extra, accuracies=None, minibatch_train_losses=[3.0, 2.0]))
    results = load(tmp_path)
    found = row(results)
    assert (found["version"], found["machine"]) == ("deepobs_func 0.1.0, torch 2.13.0", "Linux, 2 cores, cpu")
    assert (found["data"], found["reported"], found["study"]["budget"]) == ("synthetic", False, "halton")
    assert found["waiting"] == pytest.approx(0.2)
    assert results.epochs["seconds"].tolist() == [0.0, 0.5, 0.75]
    assert results.epochs["gradients"].tolist() == [0.0, 7.0, 14.0]
    assert results.epochs["products"].tolist() == [0.0, 0.0, 3.0]
    assert results.epochs["evaluations"].isna().all()
    assert results.steps[["step", "loss"]].values.tolist() == [[0.0, 3.0], [7.0, 2.0]]
    assert results.tracked.astype({"quantity": str}).values.tolist() == [
        [0, 0.0, "grad_norm", 3.0],
        [0, 7.0, "grad_norm", 2.0],
        [0, 0.0, "position[0]", 1.0],
        [0, 7.0, "position[0]", 3.0],
        [0, 0.0, "position[1]", 2.0],
        [0, 7.0, "position[1]", 4.0],
    ]


def test_a_run_of_ours_as_it_is_written(tmp_path: Path) -> None:
    config = RunConfig("quadratic_deep", "momentum", lr=1e-3, epochs=2, compile="off", output_dir=str(tmp_path))
    made = run(config).record
    results = load(tmp_path)
    found = row(results)
    assert (found["source"], found["status"], found["steps_per_epoch"]) == ("ours", "finished", 7.0)
    assert found["protocol"] == "default"
    assert results.values(0, "test_loss").tolist() == made.test_losses
    assert results.steps["step"].tolist() == [0.0, 7.0]
    assert results.epochs["gradients"].tolist() == [0.0, 7.0, 14.0]
    assert (np.diff(results.epochs["seconds"]) > 0).all()


def test_bare_nan_and_infinity(tmp_path: Path) -> None:
    write(tmp_path, record("quadratic_deep", losses=[1.0, math.inf, math.nan], accuracies=None, status=None))
    values = load(tmp_path).values(0, "test_loss")
    assert values[0] == 1.0
    assert values[1] == math.inf
    assert math.isnan(values[2])


def test_unfinished_runs_lie_in_the_state_folder(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write(root, record(seed=1), record(seed=2, losses=[1.0], accuracies=[0.1], status="interrupted"))
    results = load(root)
    assert results.runs["status"].tolist() == ["finished", "interrupted"]
    assert results.curve("mnist_mlp", "sgd")[0].shape == (3, 1)
    assert load(root, unfinished=False).runs["status"].tolist() == ["finished"]
    write_json(state_dir(root) / "tuning/some.json", {"trials": []})
    assert load(root).unread == []


def test_what_is_left_of_an_attempt_goes_when_the_run_was_finished(tmp_path: Path) -> None:
    root = tmp_path / "results"
    write(root, record(status="interrupted", extra={"run_id": "a"}), record(status="failed", extra={"run_id": "b"}))
    write(root, record(extra={"run_id": "a"}))
    assert load(root).runs[["run_id", "status"]].values.tolist() == [["a", "finished"], ["b", "failed"]]


def test_runs_of_different_lengths(tmp_path: Path) -> None:
    """A file of DeepOBS's that ends early is one of a run that was interrupted; it is in no curve."""
    write(tmp_path, record(status=None), record(status=None, seed=43, num_epochs=2, losses=[1.0], accuracies=[0.2]))
    results = load(tmp_path)
    assert results.runs["status"].tolist() == ["finished", "interrupted"]
    assert results.curve("mnist_mlp", "sgd", "test_accuracy")[0].tolist() == [[0.1], [0.8], [0.9]]


UNREADABLE = {
    "empty.json": ("", "it is empty"),
    "cut_off.json": (json.dumps(record().to_json())[:200], "it is no JSON, or cut off"),
    "list.json": ("[1, 2]", "it holds list, not an object"),
    "other.json": ('{"a": 1}', "it lacks optimizer, testproblem, learning_rate"),
    "no_losses.json": (
        json.dumps(record(status=None, losses=[], accuracies=None, num_epochs=2).to_json()),
        "it lacks losses",
    ),
    "words.json": (json.dumps(record(losses=["a", "b"]).to_json()), "its train_losses are no list of numbers"),
    "seed.json": (json.dumps(record(random_seed="x").to_json()), "its random_seed is 'x'"),  # type: ignore[arg-type]
    "bytes.json": ("\x00\x01", "it is no JSON"),
}


def test_what_cannot_be_read_is_listed_with_its_reason(tmp_path: Path) -> None:
    for name, (text, _) in UNREADABLE.items():
        write_json(tmp_path / "mnist_mlp/sgd/setting" / name, text)
    write(tmp_path, record())
    write_json(tmp_path / "convergence_performance.json", {"mnist_mlp": 0.9})
    results = load(tmp_path)
    assert len(results.runs) == 1
    found = {Path(each.path).name: each.reason for each in results.unread}
    assert set(found) == set(UNREADABLE)
    for name, (_, reason) in UNREADABLE.items():
        assert reason in found[name]


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, record())

    def refused(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refused)
    assert load(tmp_path).unread[0].reason == "it cannot be read (Permission denied)"


def test_copies_are_read_once(tmp_path: Path) -> None:
    for tree in ("a", "b"):
        write(tmp_path / tree, record(), record(optimizer="adam", lr=0.2) if tree == "b" else record(seed=1))
    results = load([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    assert len(results.runs) == 3
    (copy,) = results.unread
    assert copy.path.startswith(str(tmp_path / "b"))
    assert "it is the same run as" in copy.reason
    assert len(load({"first": tmp_path / "a", "second": tmp_path / "b"}).runs) == 4


def test_two_runs_of_one_seed_with_other_numbers_are_both_there(tmp_path: Path) -> None:
    write(tmp_path, record(), record(losses=[2.0, 1.0, 0.4]))
    assert load(tmp_path).runs["seed"].tolist() == [42, 42]


def test_a_circle_of_links_ends(tmp_path: Path) -> None:
    write(tmp_path / "results", record())
    os.symlink(tmp_path / "results", tmp_path / "results/mnist_mlp/circle")
    os.symlink(tmp_path / "results", tmp_path / "link")
    assert len(load(tmp_path / "link").runs) == 1


def test_labels_tell_trees_apart_where_names_do_not(tmp_path: Path) -> None:
    write(tmp_path / "old", record(), record(optimizer="adam"))
    write(tmp_path / "new", record(losses=[2.0, 1.0, 0.1]))
    results = load({"old": tmp_path / "old", "new": tmp_path / "new"})
    assert results.optimizers == ["adam", "sgd (new)", "sgd (old)"]
    assert sorted(results.runs["label"]) == ["new", "old", "old"]


@pytest.mark.parametrize("name", ["Ада́м", "最適化器", "Ω/ω", "a b|c", "🜁", "naïve&co_50%"])
def test_names_in_any_alphabet(tmp_path: Path, name: str) -> None:
    write(tmp_path, record(problem=name, optimizer=name, accuracies=None))
    results = load(tmp_path)
    assert (results.problems, results.optimizers) == ([name], [name])
    assert results.curve(name, name)[0].shape == (3, 1)


def test_a_path_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere does not exist"):
        load(tmp_path / "nowhere")


def test_without_pandas_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigError, match=r"Reading results needs pandas: pip install 'deepobs-func\[analysis\]'"):
        load(tmp_path)


def test_without_orjson_the_same_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, record(), record(seed=1, losses=[1 / 3, 5e-324, 1.7976931348623157e308]))
    fast = load(tmp_path)
    monkeypatch.setitem(sys.modules, "orjson", None)
    _fast.cache_clear()
    try:
        assert load(tmp_path).epochs.equals(fast.epochs)
    finally:
        _fast.cache_clear()


def test_published_runs_come_with_the_package(published_trees: list[Tree]) -> None:
    """They have the numbers of the files, test curves to all digits."""
    results = load("published")
    assert len(results.runs) == 240
    assert results.optimizers == ["adam (published)", "momentum (published)", "sgd (published)"]
    names = {"sgd": "GradientDescentOptimizer", "momentum": "MomentumOptimizer", "adam": "AdamOptimizer"}
    for tree in published_trees:
        for problem in results.problems:
            for ours, theirs in names.items():
                for quantity, digits in (("test_loss", 1e-7), ("train_loss", 1e-4)):
                    curve, _ = results.curve(problem, f"{ours} (published)", quantity)
                    expected, _ = tree.results.curve(problem, theirs, quantity)
                    assert np.allclose(curve, expected, rtol=digits, atol=0)


def test_baselines_stand_beside_a_user_s_runs(tmp_path: Path) -> None:
    write(tmp_path, record("fmnist_2c2d", "adam"))
    for baselines in (True, "published"):
        results = load(tmp_path, baselines=baselines)
        assert results.optimizers_on("fmnist_2c2d") == ["adam", *load("published").optimizers]
    write(tmp_path / "others", record("fmnist_2c2d", "lion"))
    assert load(tmp_path / "fmnist_2c2d", baselines=tmp_path / "others").optimizers == ["adam", "lion"]


def test_1080_files_in_a_few_seconds(published_trees: list[Tree]) -> None:
    """0.8 s of processor time on an idle machine."""
    for tree in published_trees:
        start = time.process_time()
        assert len(load(tree.path).runs) == 1080
        assert time.process_time() - start < 4.0
