"""What is asked of runs that were read."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from deepobs_func.analysis import Results, load
from deepobs_func.errors import ConfigError
from tests.analysis.trees import record, write


@pytest.fixture
def results(tmp_path: Path) -> Results:
    for lr, final in ((0.1, 0.9), (0.2, 0.7)):
        for seed in (44, 42, 43)[: 3 if lr == 0.2 else 1]:
            write(tmp_path, record(lr=lr, seed=seed, accuracies=[0.1, 0.95 - lr, final + seed / 1000]))
    write(tmp_path, record("mnist_vae", "adam", accuracies=None))
    return load(tmp_path)


def test_frames_are_tidy(results: Results) -> None:
    assert results.runs.index.name == "run"
    assert results.epochs.groupby("run")["epoch"].apply(list).tolist() == [[0, 1, 2]] * 5
    assert set(results.epochs["run"]) == set(results.runs.index)
    assert repr(results) == "Results(5 runs, 2 problems, 2 optimizers, 0 unread)"


def test_select_keeps_numbers(results: Results) -> None:
    vae = results.select(problem="mnist_vae")
    assert vae.problems == ["mnist_vae"]
    assert set(vae.epochs["run"]) == set(vae.runs.index)
    (run,) = vae.runs.index
    assert vae.values(run, "test_loss").tolist() == [2.0, 1.0, 0.5]
    assert len(results.select(seed=[42, 43], lr=0.2).runs) == 2
    assert len(results.select(seed=7).runs) == 0
    assert results.select(status=("finished",)).runs.equals(results.complete.runs)


def test_what_is_not_there_is_a_mistake(results: Results) -> None:
    with pytest.raises(ConfigError, match=r"Unknown problem 'mnist_mpl'\. Did you mean 'mnist_mlp'"):
        results.select(problem="mnist_mpl")
    with pytest.raises(ConfigError, match=r"Unknown optimizer 'lion'\. Known: adam, sgd"):
        results.best("mnist_mlp", "lion")
    with pytest.raises(ConfigError, match="Unknown column of runs: 'sede'"):
        results.select(sede=1)
    with pytest.raises(ConfigError, match="test_accuracy: no run of mnist_vae has one"):
        results.curve("mnist_vae", "adam", "test_accuracy")
    with pytest.raises(ConfigError, match="No complete run of sgd on mnist_mlp has the setting x"):
        results.curve("mnist_mlp", "sgd", setting="x")
    with pytest.raises(ConfigError, match=r"No run of adam on mnist_mlp is complete: it has none"):
        results.best("mnist_mlp", "adam")


def test_best_by_mode(results: Results) -> None:
    found = {mode: results.best("mnist_mlp", "sgd", mode) for mode in ("most", "final", "best")}
    assert {mode: setting.rpartition("lr__")[2] for mode, setting in found.items()} == {
        "most": "2.e-01",
        "final": "1.e-01",
        "best": "1.e-01",
    }
    assert results.best("mnist_mlp", "sgd", "final", "test_loss").endswith("lr__1.e-01")


def test_a_curve_has_a_column_for_each_seed(results: Results) -> None:
    table, epochs = results.curve("mnist_mlp", "sgd")
    assert epochs.tolist() == [0.0, 1.0, 2.0]
    assert np.allclose(table[-1], [0.742, 0.743, 0.744])
    losses, _ = results.curve("mnist_mlp", "sgd", "train_loss", results.best("mnist_mlp", "sgd", "final"))
    assert losses.tolist() == [[2.0], [1.0], [0.5]]


def test_diverged_runs_are_complete_and_never_the_best(tmp_path: Path) -> None:
    nan = [1.0, math.nan, math.nan]
    write(tmp_path, record("quadratic_deep", lr=9.0, losses=nan, accuracies=None, status="diverged"))
    write(tmp_path, record("quadratic_deep", lr=10.0, losses=[1.0, 5.0, 5.0], accuracies=None))
    results = load(tmp_path)
    assert results.best("quadratic_deep", "sgd", "final").endswith("lr__1.e+01")
    assert len(results.complete.runs) == 2


def test_a_problem_whose_runs_all_diverged_still_has_a_setting(tmp_path: Path) -> None:
    write(tmp_path, record("mnist_vae", losses=[math.nan] * 3, accuracies=None, status="diverged"))
    assert load(tmp_path).best("mnist_vae", "sgd", "final").endswith("lr__1.e-01")


def test_nothing_at_all(tmp_path: Path) -> None:
    results = load(tmp_path)
    assert (results.problems, results.optimizers, len(results.epochs), len(results.tracked)) == ([], [], 0, 0)
    assert list(results.epochs)[:3] == ["run", "epoch", "step"]
    assert list(results.select(status="finished").runs) == list(results.runs)
