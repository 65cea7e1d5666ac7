"""DeepOBS's runners: files, names, command line, test problems of the user's own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepobs_func import RunConfig, run
from deepobs_func.compat import config
from deepobs_func.compat.runners import LearningRateScheduleRunner, StandardRunner, runner_utils
from deepobs_func.errors import ConfigError

MOMENTUM = [{"name": "momentum", "type": float, "default": 0.0}]
HOW: dict[str, Any] = {"testproblem": "quadratic_deep", "batch_size": 128, "num_epochs": 1, "learning_rate": 0.01}


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """And under a command line that is another program's, which nothing may read."""
    config.set_default_device("cpu")
    monkeypatch.setattr(sys, "argv", ["pytest", "--of", "another program"])


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_a_run_is_the_core_s_under_deepobs_s_name(tmp_path: Path) -> None:
    hyperparams = [*MOMENTUM, {"name": "nesterov", "type": bool, "default": False}]
    runner = StandardRunner(torch.optim.SGD, hyperparams)
    output = runner._run(**HOW, momentum=0.9, random_seed=42, weight_decay=None, output_dir=tmp_path)
    (file,) = files(tmp_path)
    setting = "num_epochs__1__batch_size__128__momentum__9.e-01__nesterov__False__lr__1.e-02"
    assert file.parent == tmp_path / "quadratic_deep" / "SGD" / setting
    assert file.name.startswith("random_seed__42__")
    content = json.loads(file.read_text())
    assert content["hyperparams"] == {"momentum": 0.9, "nesterov": False}
    assert content["optimizer"] == "SGD"
    assert content["test_losses"] == output["test_losses"]
    assert len(content["test_losses"]) == 2

    core = run(
        RunConfig(
            "quadratic_deep",
            "torch.optim.SGD",
            lr=0.01,
            hyperparams={"momentum": 0.9},
            epochs=1,
            protocol="deepobs-1.1.2",
            output_dir=None,
            device="cpu",
        )
    )
    assert core.test_losses == content["test_losses"]
    assert core.minibatch_train_losses == content["minibatch_train_losses"]


def test_a_schedule_and_nothing_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    how = HOW | {"num_epochs": 3}
    runner = LearningRateScheduleRunner(torch.optim.SGD, MOMENTUM)
    output = runner.run(**how, lr_sched_epochs=[1, 2], lr_sched_factors=[0.1, 0.01], no_logs=True)
    assert (output["lr_sched_epochs"], output["lr_sched_factors"]) == ([1, 2], [0.1, 0.01])
    assert not [*tmp_path.iterdir()]
    same = runner.run(**how, lr_schedule={0: 0.01, 1: 0.001, 2: 0.0001}, no_logs=True)
    assert same["test_losses"] == pytest.approx(output["test_losses"])


def test_arguments_of_deepobs_1_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"lr": {"type": float}, "momentum": {"type": float, "default": 0.99}}
    output = StandardRunner(torch.optim.SGD, names).run(
        "quadratic_deep", hyperparams={"lr": 0.01}, num_epochs=1, output_dir=tmp_path, print_train_iter=True
    )
    assert output["batch_size"] == 128, "the problem's own"
    assert output["optimizer_hyperparams"] == {"lr": 0.01, "momentum": 0.99}
    printed = capsys.readouterr().out
    assert "Evaluating after 1 of 1 epochs..." in printed
    assert "Epoch 0, step 0: loss" in printed
    again = StandardRunner(torch.optim.SGD, names)
    again.run("quadratic_deep", {"lr": 0.01}, num_epochs=1, output_dir=tmp_path, skip_if_exists=True)
    assert len(files(tmp_path)) == 1


def test_a_weight_decay_that_means_nothing_is_ignored_with_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    output = StandardRunner(torch.optim.SGD, MOMENTUM).run(**HOW, weight_decay=0.1, no_logs=True)
    assert output["weight_decay"] is None
    assert "WARNING" in capsys.readouterr().out


def test_the_optimizer_s_weight_decay_is_not_the_problem_s(tmp_path: Path) -> None:
    names = {"lr": {"type": float}, "weight_decay": {"type": float, "default": 0.0}}
    runner = StandardRunner(torch.optim.AdamW, names)
    given = {"lr": 0.01, "weight_decay": 0.5}
    output = runner.run("quadratic_deep", given, num_epochs=1, output_dir=tmp_path)
    assert (output["weight_decay"], output["hyperparams"]) == (None, {"weight_decay": 0.5})
    (file,) = files(tmp_path)
    assert "opt.weight_decay__5.e-01" in file.parent.name


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentun": 0.9}, r"momentun.*momentum"),
        ({"learning_rate": -1.0}, r"lr -1"),
        ({"lr_sched_epochs": [1]}, r"lr_sched_factors"),
        ({"testproblem": "quadratic_dep"}, r"quadratic_deep"),
        ({"hyperparams": {"lr": 0.1}}, r"learning_rate.* 0.01 and as 0.1"),
        ({"hyperparams": {"momentum": 0.5}, "momentum": 0.9}, r"momentum.* 0.9 and as 0.5"),
        ({"lr_schedule": {0: 0.5, 1: 0.1}}, r"learning_rate.* 0.01 and as 0.5"),
        ({"learning_rate": 0.0, "lr_schedule": {1: 0.1}}, r"learning rate 0"),
        ({"momentum": "much"}, r"momentum 'much'.*float"),
    ],
)
def test_mistakes(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StandardRunner(torch.optim.SGD, MOMENTUM).run(**HOW | given, no_logs=True)


def test_texts_are_read_as_the_type_says() -> None:
    hyperparams = [*MOMENTUM, {"name": "nesterov", "type": bool}]
    given = HOW | {"momentum": "0.9", "nesterov": "False", "no_logs": True}
    output = StandardRunner(torch.optim.SGD, hyperparams)._run(**given)
    assert output["hyperparams"] == {"momentum": 0.9, "nesterov": False}
    with pytest.raises(ConfigError, match="bool False"):
        StandardRunner(torch.optim.SGD)._run(**HOW, nesterov="False", no_logs=True)


def test_the_learning_rate_s_declared_default_counts() -> None:
    names = {"lr": {"type": float, "default": 0.02}}
    how: dict[str, Any] = {"num_epochs": 1, "no_logs": True}
    runner = StandardRunner(torch.optim.SGD, names)
    assert runner._run("quadratic_deep", **how)["learning_rate"] == 0.02
    assert runner._run("quadratic_deep", {"lr": 0.01}, learning_rate=None, **how)["learning_rate"] == 0.01
    scheduled = runner._run("quadratic_deep", lr_schedule={1: 0.01}, **how | {"num_epochs": 2})
    assert (scheduled["learning_rate"], scheduled["lr_sched_factors"]) == (0.02, [0.5])


def test_what_must_be_given_is_asked_of_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = StandardRunner(torch.optim.SGD, [*MOMENTUM, {"name": "nesterov", "type": bool}])
    with pytest.raises(SystemExit) as ended:
        runner.run(**HOW, no_logs=True)
    assert ended.value.code == 2
    assert "--nesterov" in capsys.readouterr().err
    argv = ["run.py", "quadratic_deep", "--bs", "128", "-N", "1", "--lr", "0.01", "--nesterov", "False", "--no_logs"]
    monkeypatch.setattr(sys, "argv", argv)
    output = runner.run()
    assert output["hyperparams"] == {"momentum": 0.0, "nesterov": False}
    assert sys.argv == argv


SCRIPT = """
import torch
from deepobs_func.compat import runners

runner = runners.StandardRunner(torch.optim.SGD, [{"name": "momentum", "type": float, "default": 0.0}])
runner.run(testproblem=None, num_epochs=1)
"""


@pytest.mark.large
def test_a_script_takes_its_flags_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "run_optimizer.py").write_text(SCRIPT)
    command = [sys.executable, "run_optimizer.py", "quadratic_deep", "--batch_size", "128", "--learning_rate", "0.01"]
    subprocess.run([*command, "--momentum", "0.9", "-r", "7"], cwd=tmp_path, check=True, capture_output=True)
    (file,) = files(tmp_path / "results")
    assert "momentum__9.e-01" in file.parent.name
    assert file.name.startswith("random_seed__7__")


class Halving(torch.optim.Optimizer):
    """SGD whose rate halves every `every` steps."""

    def __init__(self, params: Any, lr: float, every: int = 5) -> None:
        super().__init__(params, {"lr": lr, "every": every})
        self.steps = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(parameter.grad, alpha=group["lr"] * 0.5 ** (self.steps // group["every"]))
        self.steps += 1


def test_a_custom_optimizer_with_its_own_hyperparameter(tmp_path: Path) -> None:
    runner = StandardRunner(Halving, [{"name": "every", "type": int, "default": 5}])
    runner.run(**HOW, every=2, output_dir=tmp_path)
    (file,) = files(tmp_path)
    assert file.parent.parent == tmp_path / "quadratic_deep" / "Halving"
    assert file.parent.name.startswith("num_epochs__1__batch_size__128__every__2__lr__1.e-02__code__")


def test_schedules_and_names() -> None:
    assert runner_utils.make_lr_schedule(0.3, [50, 100], [0.1, 0.01]) == {0: 0.3, 50: 0.03, 100: 0.003}
    assert runner_utils.make_lr_schedule(0.3, None, None) == runner_utils.make_lr_schedule(0.3, [], []) == {0: 0.3}
    with pytest.raises(TypeError):
        runner_utils.make_lr_schedule(0.3, [50], None)
    with pytest.raises(ValueError, match="one length"):
        runner_utils.make_lr_schedule(0.3, [50], [0.1, 0.2])
    folder, file = runner_utils.make_run_name(0.001, 64, 100, 0.1, [50, 75], [0.1, 0.01], 123)
    assert folder == "num_epochs__100__batch_size__64__weight_decay__1.e-03__lr_schedule__0_1.e-01_50_1.e-02_75_1.e-03"
    assert file.startswith("random_seed__123__")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = runner_utils.make_lr_schedule(optimizer=optimizer, lr_sched_epochs=[1], lr_sched_factors=[0.1])
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


def test_a_run_in_another_dtype_than_float32_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config._SETTINGS, "dtype", torch.float64)
    with pytest.raises(ConfigError, match=r"config dtype torch.float64: a runner's run is in float32"):
        StandardRunner(torch.optim.SGD, []).run("two_d_beale", batch_size=128, num_epochs=1, learning_rate=1e-5)
