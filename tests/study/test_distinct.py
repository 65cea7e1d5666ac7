"""Where the record of a run will lie, told before the run is made."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from deepobs_func.records import relative_folder
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.recording import make_record
from deepobs_func.study.distinct import file_key

CONFIG = RunConfig("mnist_2c2d", "adam", lr=0.01, device="cpu", data="mnist")
OWN = "tests.study.user_code"
CHANGES: list[dict[str, Any]] = [
    {},
    {"hyperparams": {"beta1": 0.5}},
    {"epochs": 3, "batch_size": 7, "seed": 3},
    {"protocol": "deepobs-1.1.2", "on_divergence": "stop"},
    {"data": "synthetic"},
    {"problem": "quadratic_deep", "data": "synthetic"},
    {"problem": "cifar10_3c3d", "weight_decay": 0.1},
    {"problem": "svhn_wrn164", "schedule": "published", "optimizer": "sgd"},
    {"schedule": "cosine", "warm_up": 1.5},
    {"schedule": "steps", "lr_sched_epochs": (3, 5), "decay_factor": 0.2},
    {"schedule": "exponential", "decay_factor": 0.2},
    {"clip_norm": 1.0, "clip_value": 2.0, "precision": "bf16"},
    {"valid": True},
    {"valid": 5000},
    {"optimizer": "sophia_h", "hyperparams": {"update_every": 3}},
    {"optimizer": "torch.optim.Adam", "hyperparams": {"betas": (0.9, 0.99)}, "precision": "bf16"},
    {"optimizer": f"{OWN}:OwnSGD", "hyperparams": {"momentum": 0.5}},
    {"optimizer": f"{OWN}:half_sgd"},
    {"problem": f"{OWN}:quadratic"},
]


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_folder_is_that_of_the_record(changes: dict[str, Any]) -> None:
    config = replace(CONFIG, **changes)
    assert file_key(config).folder == relative_folder(make_record(make_plan(config), Log()))


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 43},
        {"output_dir": "elsewhere", "compile": "off", "keep": 2, "train_log_interval": 1},
        {"hyperparams": {"beta1": 0.9}},
        {"epochs": 100, "batch_size": 128},
        {"on_divergence": "stop"},
    ],
    ids=str,
)
def test_what_decides_no_number_makes_no_other_run(changes: dict[str, Any]) -> None:
    assert file_key(replace(CONFIG, **changes)) == file_key(CONFIG)


def test_the_same_run_said_otherwise_is_the_same_run() -> None:
    """Of some, the folders differ: what was said stands in the name."""
    problem = replace(CONFIG, problem="cifar10_3c3d")
    assert file_key(problem).identity == file_key(replace(problem, weight_decay=0.002)).identity
    assert file_key(replace(CONFIG, valid=True)) == file_key(replace(CONFIG, valid=10_000))
    path = replace(CONFIG, optimizer="torch.optim.SGD")
    assert file_key(path) == file_key(replace(path, optimizer="torch.optim.sgd:SGD", hyperparams={"momentum": 0}))


def test_other_runs_have_other_identities() -> None:
    keys = [file_key(replace(CONFIG, **changes)) for changes in CHANGES]
    assert len({key.identity for key in keys}) == len({key.folder for key in keys}) == len(CHANGES)


def test_a_device_that_is_not_here_is_another_machine_s() -> None:
    named, path = CONFIG, replace(CONFIG, optimizer="torch.optim.SGD")
    for config in (named, path):
        there = replace(config, device="cuda:7", precision="tf32", compile="on")
        assert file_key(there).folder.name == file_key(config).folder.name + "__precision__tf32"


def test_names_import_no_torch() -> None:
    code = "from deepobs_func import RunConfig; from deepobs_func.study.distinct import file_key; import sys;"
    code += "file_key(RunConfig('mnist_2c2d', 'adam', lr=0.01)); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
