"""`deepobs tune`: its options, its tables, its errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from deepobs_func.cli import cli
from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.study import tuning
from tests.study.in_process import Pools
from tests.study.made_up import MadeUpPools
from tests.study.test_tuning import curve


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> MadeUpPools:
    pools = MadeUpPools(curve)
    monkeypatch.setattr(tuning, "_default_pool", lambda *_: pools)
    monkeypatch.chdir(tmp_path)
    return pools


def tune(*args: str) -> Result:
    return CliRunner().invoke(cli, ["tune", *args], catch_exceptions=False)


COMMON = ("quadratic_deep", "--optimizer", "adam,momentum", "--valid", "256", "--epochs", "4", "--compile", "off")


def test_what_it_prints(made_up: MadeUpPools) -> None:
    result = tune(*COMMON, "--budget", "random-4", "--seeds", "50..52")
    lines = result.output.splitlines()
    assert result.exit_code == 0
    assert any(line.startswith("quadratic_deep adam: trial 4 of 4, finished, final valid loss") for line in lines)
    assert "quadratic_deep momentum: the winner was run on 3 seeds" in lines
    assert "quadratic_deep, budget random-4, 4 trials each, by final valid loss" in lines
    titles = next(line for line in lines if line.startswith("optimizer  winner"))
    assert titles.split() == ["optimizer", "winner", "trials", "spent", "best", "test,", "mean", "sd", "seeds"]
    assert next(line for line in lines if line.startswith("optimizer  ") and "1" in line).split()[1:] == [*"1234"]
    assert len([line for line in lines if line.endswith(".json")]) == 2
    assert {config.seed for config in made_up.last.asked} == {42, 50, 51, 52}


def test_options_reach_the_runs(made_up: MadeUpPools) -> None:
    options = ["--search", "lr=loguniform:1e-3:1e-2", "--search", "adam.beta1=0.8,0.9", "--search", "beta2=0.99"]
    options += ["--schedules", "cosine", "--warm-ups", "1,2", "--tuning-seed", "7", "--seeds", "8,9", "-q"]
    result = tune(*COMMON, "--budget", "random-6", *options)
    assert result.output.startswith("\nquadratic_deep, budget random-6")
    for config in made_up.last.asked:
        assert 1e-3 <= config.lr <= 1e-2
        assert (config.schedule, config.warm_up) in (("cosine", 1.0), ("cosine", 2.0))
        assert config.seed in (7, 8, 9)
    adam = [config for config in made_up.last.asked if config.optimizer == "adam"]
    assert {config.hyperparams["beta1"] for config in adam} == {0.8, 0.9}
    assert {config.hyperparams["beta2"] for config in adam} == {0.99}


def test_several_optimizers_of_a_class_and_tuples(made_up: MadeUpPools) -> None:
    options = ("--optimizer", "torch.optim.Adam", "--search", "torch.optim.Adam.betas=(0.8,0.9),(0.9,0.99)")
    tune("quadratic_deep", "--optimizer", "sgd", *options, "--budget", "random-5", "--valid", "256", "--epochs", "4")
    found = {config.hyperparams.get("betas") for config in made_up.last.asked if "torch" in config.optimizer}
    assert found == {(0.8, 0.9), (0.9, 0.99)}


def test_one_shot_has_the_authors_defaults(made_up: MadeUpPools) -> None:
    result = tune(*COMMON, "--budget", "one-shot")
    assert {(config.optimizer, config.lr) for config in made_up.last.asked} == {("adam", 1e-3), ("momentum", 1e-2)}
    assert "adam       defaults" in result.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--budget", "halten"), "--budget halten: Unknown budget 'halten'. Did you mean 'halton'?"),
        (("--budget", "random-0"), "--budget random-0 with 0 trials: it must be a whole number from 1."),
        (("--budget", "random-2", "--search", "lr=loguni:1:2"), "--search lr: Unknown kind of values 'loguni'."),
        (("--budget", "random-2", "--search", "lr=uniform:1"), "--search lr: uniform: [1] must be [low, high]."),
        (("--budget", "random-2", "--budget-unit", "seconds"), "--budget-unit seconds needs --amount"),
    ],
)
def test_what_cannot_be(args: tuple[str, ...], message: str, made_up: MadeUpPools) -> None:
    with pytest.raises(ConfigError) as raised:
        tune(*COMMON, *args)
    assert raised.value.told(as_flag).startswith(message)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--search", "lr"), "'lr' must be NAME=SPACE"),
        (("--seeds", "a..b"), "'a..b' is neither 43..52 nor 43,44."),
    ],
)
def test_what_cannot_be_read(args: tuple[str, ...], message: str, made_up: MadeUpPools) -> None:
    result = tune(*COMMON, "--budget", "random-2", *args)
    assert result.exit_code == 2
    assert message in result.output


def test_real_trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tuning, "_default_pool", lambda *_: Pools())
    monkeypatch.chdir(tmp_path)
    args = ("two_d_rosenbrock", "--optimizer", "adam", "--budget", "random-2", "--valid", "512", "--epochs", "1")
    result = tune(*args, "--compile", "off", "--seeds", "50")
    assert result.exit_code == 0
    assert tune(*args, "--compile", "off", "--seeds", "50").output == result.output
