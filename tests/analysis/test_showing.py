"""One run, and the command that runs it again."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

import pytest

from deepobs_func import RunConfig, records, run
from deepobs_func.analysis import rerun_command, show_run
from deepobs_func.cli import cli
from deepobs_func.cli import run as run_module
from deepobs_func.errors import ConfigError, DataError
from tests.analysis.trees import record, write, write_json


def test_a_run_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its command has the same configuration again."""
    config = RunConfig(
        *("quadratic_deep", "momentum"),
        lr=1e-3,
        hyperparams={"momentum": 0.95},
        epochs=2,
        seed=7,
        compile="off",
        schedule="cosine",
        clip_norm=3.0,
        track=("grad_norm", "distance"),
        protocol="deepobs-1.1.2",
        output_dir=str(tmp_path),
    )
    made = run(config).record
    found = show_run(made.path)
    assert (found.evaluated, found.facts["seed"], found.facts["status"]) == (2, 7, "finished")
    assert found.calls == {"gradients": 14.0, "products": 0.0, "evaluations": 0.0}
    assert {each.quantity: each.last for each in found.measured} == {
        "train_loss": made.train_losses[-1],
        "test_loss": made.test_losses[-1],
    }
    again = []
    monkeypatch.setattr(run_module, "_run", lambda config, *rest, **shown: again.append(config))
    cli.main(shlex.split(found.command)[1:], standalone_mode=False)
    ours, theirs = (records.run_id(_decisive(each)) for each in (config, again[0]))
    assert ours == theirs
    assert show_run(made.extra["run_id"][:10], tmp_path).facts["path"] == found.facts["path"]


def _decisive(config: RunConfig) -> dict:
    from deepobs_func.runner.config import identity, resolve

    return identity(resolve(config))


def test_what_is_printed(tmp_path: Path) -> None:
    losses = [3.0, math.inf, math.nan]
    extra = {"divergence": {"epoch": 1, "step": 3}, "data": {"synthetic": True}, "timings": {"train": [1.0, 2.0]}}
    (path,) = write(tmp_path, record("fmnist_2c2d", losses=losses, status="diverged", extra=extra))
    text = str(show_run(path))
    for line in (
        "status     diverged (not finite in epoch 1), 2 of 2 epochs",
        "data       synthetic: these numbers are no result",
        "target     test accuracy 0.919809, not reached",
        "training   3 s",
        "test loss        3.000   3.000         0       -",
        "test accuracy   0.1000  0.9000         2  0.9000",
    ):
        assert line in text, text


def test_a_run_that_is_not_ours_has_no_command(tmp_path: Path) -> None:
    (path,) = write(tmp_path, record(status=None))
    assert show_run(path).command == ""
    assert "again" not in str(show_run(path))


def test_defaults_are_left_out() -> None:
    configuration = {
        "problem": "mnist_mlp",
        "optimizer": "adam",
        "lr": 0.1,
        "hyperparams": {"betas": [0.9, 0.99]},
        "valid": 0,
        "on_divergence": "stop",
        "protocol": "default",
        "data": "synthetic",
        "track": [],
        "lr_sched_epochs": [1, 2],
    }
    assert rerun_command(configuration) == (
        "deepobs run mnist_mlp --optimizer adam --lr 0.1 --opt.betas 0.9,0.99 --lr-sched-epochs 1,2 --data synthetic"
    )


def test_several_runs_none_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "two", record(), record(seed=1))
    with pytest.raises(ConfigError, match=r"has 2 runs; name one:\n  .*json"):
        show_run(tmp_path / "two")
    with pytest.raises(ConfigError, match="abc is neither a file of a run nor the beginning of a run's id in"):
        show_run("abc", tmp_path / "two")
    with pytest.raises(ConfigError, match=r"no results tree .*nowhere .*\. Name a file, or the tree with results\."):
        show_run("abc", tmp_path / "nowhere")
    path = write_json(tmp_path / "cut/random_seed__1__x.json", '{"train_losses": [1')
    with pytest.raises(DataError, match="it is no JSON, or cut off"):
        show_run(path)
