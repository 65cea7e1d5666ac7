"""Configurations: defaults, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import problems
from deepobs_func.errors import ConfigError
from deepobs_func.runner.config import RunConfig, identity, resolve
from deepobs_func.runner.plan import empty_record, make_plan
from tests.runner.small import config, small_problem


def resolved(**changes: object) -> RunConfig:
    return resolve(config(**changes), small_problem())


def test_defaults_are_the_problem_s_and_the_optimizer_s() -> None:
    made = resolve(RunConfig("mnist_vae", "adam", 1e-3), problems.row("mnist_vae"))
    assert (made.epochs, made.batch_size, made.on_divergence) == (50, 64, "stop")
    assert made.hyperparams == {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}
    assert resolved(protocol="deepobs-1.1.2").on_divergence == "continue"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.0}, "lr 0.0: a learning rate must be positive"),
        ({"lr": float("nan")}, "lr nan"),
        ({"epochs": 0}, "epochs 0: it must be a whole number from 1"),
        ({"batch_size": -1}, "batch_size -1"),
        ({"train_log_interval": 0}, "train_log_interval 0"),
        ({"seed": -1}, "seed -1"),
        ({"optimizer": "adma"}, "Unknown optimizer 'adma'. Did you mean 'adam'?"),
        ({"optimizer": "adam", "hyperparams": {"beta": 0.9}}, "Unknown hyperparameter of adam: 'beta'. Did you mean"),
        ({"optimizer": "adam", "hyperparams": {"beta1": 1.5}}, "beta1 is 1.5; it must be at least 0 and below 1"),
        ({"epochs": 2.5}, "epochs 2.5: it must be a whole number"),
        ({"seed": True}, "seed True: it must be a whole number"),
        ({"lr": "0.1"}, "lr '0.1': it must be a number"),
        ({"lr_sched_epochs": (), "lr_sched_factors": ()}, "need at least one value"),
        ({"problem": "big"}, "of the problem 'big', but 'small' was given"),
        ({"optimizer": "adam", "hyperparams": {"beta1": "0.9"}}, "beta1 is '0.9'"),
        ({"protocol": "deepobs-1.1"}, "Unknown protocol 'deepobs-1.1'. Did you mean 'deepobs-1.1.2'?"),
        ({"compile": "yes"}, "Unknown choice for compile 'yes'"),
        ({"on_divergence": "sotp"}, "Did you mean 'stop'?"),
        ({"weight_decay": -0.1}, "weight_decay -0.1"),
        ({"workers": -1}, "workers -1: it must be a whole number from 0"),
        ({"workers": 1.5}, "workers 1.5: it must be a whole number"),
        ({"lr_sched_epochs": (1,)}, "go together"),
        ({"lr_sched_epochs": (1, 2), "lr_sched_factors": (0.1,)}, "has 2 values and lr_sched_factors 1"),
        ({"lr_sched_epochs": (2, 1), "lr_sched_factors": (0.1, 0.1)}, "must increase"),
        ({"lr_sched_epochs": (0,), "lr_sched_factors": (0.1,)}, "from 1"),
        ({"lr_sched_epochs": (1,), "lr_sched_factors": (-0.1,)}, "lr_sched_factors -0.1"),
    ],
)
def test_what_cannot_be_run_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match="^.*" + words.replace("?", r"\?").replace("(", r"\(")):
        resolved(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 71}, "100 training and 70 test examples, so a batch has at most 70"),
        ({"device": "cuda:9"}, "device cuda:9 cannot be used"),
        ({"optimizer": "torch.optim.SGD", "hyperparams": {"momentun": 1}}, "Did you mean 'momentum'"),
    ],
)
def test_what_only_torch_can_tell_is_refused_too(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_plan(config(**changes), small_problem())


def test_a_weight_decay_is_refused_where_there_is_no_penalty() -> None:
    with pytest.raises(ConfigError, match=r"mnist_mlp has no L2 penalty.*hyperparams\['weight_decay'\]"):
        resolve(RunConfig("mnist_mlp", "sgd", 0.1, weight_decay=0.1), problems.row("mnist_mlp"))


@given(
    seed=st.integers(0, 2**64 - 1),
    data=st.text(),
    output_dir=st.text(),
    device=st.sampled_from(["cpu", "cuda:1"]),
    interval=st.integers(1, 100),
    workers=st.integers(0, 100),
)
def test_a_run_s_identity_has_no_paths(
    seed: int, data: str, output_dir: str, device: str, interval: int, workers: int
) -> None:
    here = resolved(seed=seed)
    there = resolved(
        seed=seed, data=data, output_dir=output_dir, device=device, train_log_interval=interval, workers=workers
    )
    assert identity(here, device="cpu") == identity(there, device="cpu")
    assert identity(here, device="cpu") != identity(there, device="cuda")


def test_numpy_s_numbers_are_numbers() -> None:
    made = resolved(
        lr=np.float32(0.5), epochs=np.int64(2), seed=np.uint8(3), lr_sched_epochs=np.array([1]), lr_sched_factors=[1]
    )
    assert (made.lr, made.epochs, made.seed) == (0.5, 2, 3)
    assert json.dumps(identity(made))


def test_what_is_the_same_run_has_the_same_id() -> None:
    """However it is executed; a default and the same value given."""

    def run_id(**changes: object) -> str:
        return empty_record(make_plan(config(**changes), small_problem())).extra["run_id"]

    assert (
        run_id()
        == run_id(compile="off", memory_format="contiguous")
        == run_id(weight_decay=0.01)
        == run_id(device="cpu", epochs=3)
    )
    assert run_id() != run_id(epochs=2)
    assert run_id() != run_id(precision="bf16")
    assert run_id() != run_id(weight_decay=0.02)
