"""DeepOBS's tuners and analyzer, on small runs."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats.distributions import binom, uniform

from deepobs_func.compat import analyzer, config
from deepobs_func.compat.runners import PTRunner, StandardRunner
from deepobs_func.compat.tuner import GP, GridSearch, RandomSearch, rerun_setting
from deepobs_func.compat.tuner.tuner_utils import log_uniform
from deepobs_func.errors import ConfigError, DataError

NAMES: dict[str, Any] = {"lr": {"type": float}, "momentum": {"type": float, "default": 0.0}}
PROBLEM = "quadratic_deep"


@pytest.fixture(autouse=True)
def on_a_cpu() -> None:
    config.set_default_device("cpu")


def seeds(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file in sorted(folder.rglob("*.json")):
        content = json.loads(file.read_text())
        found.setdefault(file.parent.name, []).append(content["random_seed"])
    return found


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    config.set_default_device("cpu")
    tuner = GridSearch(torch.optim.SGD, NAMES, {"lr": [1e-2, 1e-3], "momentum": [0.5]}, ressources=2)
    outputs = tuner.tune(PROBLEM, num_epochs=1, output_dir=folder, rerun_best_setting=False)
    assert [output["learning_rate"] for output in outputs] == [1e-2, 1e-3]
    return folder


def test_a_grid_and_its_best_setting_again(tuned: Path) -> None:
    path = tuned / PROBLEM / "SGD"
    assert sorted(seeds(tuned).values()) == [[42], [42]]
    outputs = rerun_setting(StandardRunner, torch.optim.SGD, NAMES, path, seeds=[43, 44], metric="test_losses")
    assert {output["learning_rate"] for output in outputs} == {1e-2}
    assert sorted(seeds(tuned).values()) == [[42], [42, 43, 44]]
    with pytest.raises(ConfigError, match="2 settings"):
        rerun_setting(StandardRunner, torch.optim.SGD, NAMES, path, rank=3)
    with pytest.raises(ConfigError, match="3 combinations"):
        GridSearch(torch.optim.SGD, NAMES, {"lr": [1, 2, 3]}, ressources=2)


def test_hyperparameters_that_were_not_declared_are_kept(tmp_path: Path) -> None:
    StandardRunner(torch.optim.SGD)._run(PROBLEM, {"lr": 1e-2, "momentum": 0.9}, num_epochs=1, output_dir=tmp_path)
    (again,) = rerun_setting(StandardRunner, torch.optim.SGD, None, tmp_path / PROBLEM / "SGD", seeds=[43])
    assert again["hyperparams"] == {"momentum": 0.9}
    assert [*seeds(tmp_path).values()] == [[42, 43]]


class Loop(PTRunner):
    def training(self, tproblem: Any, hyperparams: Any, num_epochs: int, every: int = 1) -> dict[str, Any]:
        return {"train_losses": [float(every)] * 2, "test_losses": [float(every)] * 2}


def test_arguments_of_a_loop_are_kept(tmp_path: Path) -> None:
    Loop(torch.optim.SGD, NAMES)._run(PROBLEM, {"lr": 1e-2}, every=3, num_epochs=1, output_dir=tmp_path)
    (again,) = rerun_setting(Loop, torch.optim.SGD, NAMES, tmp_path / PROBLEM / "SGD", seeds=[43])
    assert again["test_losses"] == [3.0, 3.0]
    assert [*seeds(tmp_path).values()] == [[42, 43]]


def test_what_is_finished_is_not_run_again(tuned: Path) -> None:
    before = sorted(tuned.rglob("*.json"))
    GridSearch(torch.optim.SGD, NAMES, {"lr": [1e-2], "momentum": [0.5]}, ressources=1).tune(
        PROBLEM, num_epochs=1, output_dir=tuned, rerun_best_setting=False
    )
    assert sorted(tuned.rglob("*.json")) == before


def test_random_settings_follow_the_seed(tmp_path: Path) -> None:
    names = NAMES | {"nesterov": {"type": bool}}
    distributions = {"lr": log_uniform(-4, -2), "momentum": uniform(0.5, 0.4), "nesterov": binom(1, 0.5)}
    tuner = RandomSearch(torch.optim.SGD, names, distributions, ressources=3)
    draws = [[sampler.ask() for _ in range(3)] for sampler in (tuner._sampler(1), tuner._sampler(1), tuner._sampler(2))]
    assert draws[0] == draws[1] != draws[2]
    assert all(1e-4 <= draw["lr"] <= 1e-2 for draw in draws[0])
    file = tuner.generate_commands_script(PROBLEM, "../run.py", generation_dir=tmp_path, num_epochs=2)
    lines = file.read_text().splitlines()
    assert len(lines) == 4
    assert lines[1].startswith(f"python3 ../run.py {PROBLEM} --lr ")
    assert lines[1].endswith("--num_epochs 2")
    outputs = RandomSearch(torch.optim.SGD, NAMES, {"lr": log_uniform(-4, -2)}, ressources=1).tune(
        PROBLEM, num_epochs=1, output_dir=tmp_path, rerun_best_setting=False
    )
    assert 1e-4 <= outputs[0]["learning_rate"] <= 1e-2


def test_commands_say_what_tune_means(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer's own weight decay, a schedule, a switch, and a folder with a blank in its name."""
    names = NAMES | {"weight_decay": {"type": float}, "nesterov": {"type": bool}}
    grid = {"lr": [1e-2], "momentum": [0.5], "weight_decay": [0.25], "nesterov": [False]}
    how: dict[str, Any] = {"num_epochs": 2, "lr_sched_epochs": [1], "lr_sched_factors": [0.1], "no_logs": True}
    file = GridSearch(torch.optim.SGD, names, grid, ressources=1).generate_commands_script(
        PROBLEM, "run.py", output_dir=tmp_path / "a b", generation_dir=tmp_path, tf_logging=False, **how
    )
    monkeypatch.setattr(sys, "argv", shlex.split(file.read_text().splitlines()[1])[1:])
    output = StandardRunner(torch.optim.SGD, names).run()
    assert (output["weight_decay"], output["hyperparams"]["weight_decay"]) == (None, 0.25)
    assert output["hyperparams"]["nesterov"] is False
    assert (output["lr_sched_epochs"], output["lr_sched_factors"]) == ([1], [0.1])
    assert f"'{tmp_path}/a b'" in file.read_text()


def test_a_mode_is_checked_before_anything_runs(tmp_path: Path) -> None:
    tuner = GridSearch(torch.optim.SGD, NAMES, {"lr": [1e-2]}, ressources=1)
    with pytest.raises(ConfigError, match="final or best"):
        tuner.tune(PROBLEM, num_epochs=1, output_dir=tmp_path / "there", mode="most")
    assert not (tmp_path / "there").exists()


@pytest.mark.large
def test_a_gaussian_process(tmp_path: Path) -> None:
    tuner = GP(torch.optim.SGD, NAMES, {"lr": (-4, -2)}, ressources=3, transformations={"lr": lambda lr: 10**lr})
    outputs = tuner.tune(PROBLEM, num_epochs=1, output_dir=tmp_path, rerun_best_setting=False, kernel=None)
    rates = [output["learning_rate"] for output in outputs]
    assert len({*rates}) == 3
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    with pytest.raises(ConfigError, match="tune"):
        tuner.generate_commands_script(PROBLEM, "run.py")


def test_the_analyzer_s_functions(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    read = analyzer.Analyzer(tuned)
    optimizer = read.testproblems[PROBLEM].optimizers["SGD"]
    assert (optimizer.num_settings, optimizer.get_best_setting_final().lr) == (2, 1e-2)
    assert set(analyzer.get_best_run(read)["mode"]) == {"most", "final", "best"}
    table = analyzer.plot_table(read)
    assert table["optimizer"].tolist() == ["SGD"]
    assert "quadratic" in capsys.readouterr().out
    found = analyzer.get_performance_dictionary(tuned / PROBLEM / "SGD")
    assert found["Performance"] == pytest.approx(table["performance"].iloc[0])
    assert found["Tuneability"]["momentum"] == 0.5
    counts = analyzer.check_output(tuned)
    assert sum(counts[PROBLEM, "SGD"].values()) == len([*tuned.rglob("*.json")])
    with pytest.raises(DataError, match="no run"):
        analyzer.plot_table(tmp_path)


@pytest.mark.large
def test_the_analyzer_s_figures(tuned: Path) -> None:
    path = tuned / PROBLEM / "SGD"
    small, large = analyzer.plot_performance(tuned, "published")
    figures = (
        small,
        large,
        analyzer.plot_lr_sensitivity(tuned),
        analyzer.plot_optimizer_performance(path, reference_path="published"),
        analyzer.plot_testset_performances(tuned, metric="test_losses"),
        analyzer.plot_hyperparameter_sensitivity(path, "lr", xscale="log"),
        analyzer.plot_hyperparameter_sensitivity(path, "momentum", mode="best"),
    )
    assert all(figure.axes for figure in figures)
    with pytest.raises(ConfigError, match="nesterow"):
        analyzer.plot_hyperparameter_sensitivity(path, "nesterow")


@pytest.mark.large
def test_the_cost_of_an_optimizer(capsys: pytest.CaptureFixture[str]) -> None:
    found = analyzer.estimate_runtime(optimizer_cls=torch.optim.Adam, n_runs=3, testproblem=PROBLEM)
    assert found["low"] <= found["ratio"] <= found["high"]
    assert "times as long as SGD" in capsys.readouterr().out
