"""Configurations: defaults, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import problems
from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.runner.config import RunConfig, identity, resolve
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.recording import make_record
from tests.runner.small import config, small_problem

PROBLEM = small_problem()


def resolved(**changes: object) -> RunConfig:
    return resolve(config(**changes), PROBLEM)


def test_defaults_are_the_problem_s_and_the_optimizer_s() -> None:
    made = resolve(RunConfig("mnist_vae", "adam", 1e-3), problems.spec_of("mnist_vae"))
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


WRONG_TYPES: dict[str, tuple[object, ...]] = {
    "problem": (None, 3, RunConfig),
    "optimizer": (torch.optim.Adam, None, 1, {"name": "sgd"}),
    "lr": (10**400, 10**5000, None, "0.1", 1j, [0.1], True),
    "hyperparams": (None, 3, ["momentum"], {3: 0.9}, "momentum=0.9"),
    "epochs": ("3", 2.5, True, [3]),
    "batch_size": ("32", 1.5),
    "seed": (1.5, "1", None, True),
    "weight_decay": ("0.1", [0.1], True, 10**400),
    "lr_sched_epochs": ("12", 1, [1.5], ["1"], {1: 0.1}),
    "lr_sched_factors": ("12", 0.1, [None], ["0.1"]),
    "protocol": (None, 1),
    "data": (None, 3, b"data"),
    "output_dir": (3, b"results", True),
    "device": (None, 0, True),
    "compile": (True, False, None, 1),
    "memory_format": (None, torch.channels_last),
    "precision": (None, torch.bfloat16, 32),
    "micro_batch": (1.5, "32", True),
    "bn_sync": (None, True, 1),
    "deterministic": (None, 1, "yes"),
    "activation_checkpointing": (None, 1, "yes"),
    "train_log_interval": (None, 1.5, "10"),
    "on_divergence": (True, 1),
    "workers": ("2", 1.5),
    "track": (None, 3, True, [3], [None]),
    "track_every": (None, 1.5, "10", True),
    "track_bn": (True, 1),
    "schedule": (True, 1, ("cosine",)),
    "warm_up": (None, "1", True, 1j),
    "decay_factor": (None, "0.1", True),
    "clip_norm": ("1", True, [1.0]),
    "clip_value": ("1", True, [1.0]),
    "valid": (None, 1.5, "100", -1),
    "checkpoint_every": (None, 1.5, "5 minutes", 0, True),
    "keep": (None, 1.5, "1", True),
}


@pytest.mark.parametrize("name", [f.name for f in dataclasses.fields(RunConfig)])
def test_a_value_of_the_wrong_type_is_refused_with_its_field(name: str) -> None:
    """In Python with Python's names; on the command line with its flags."""
    partner = {"lr_sched_epochs": {"lr_sched_factors": (0.1,)}, "lr_sched_factors": {"lr_sched_epochs": (1,)}}
    for value in WRONG_TYPES[name]:
        with pytest.raises(ConfigError) as caught:
            resolved(**{name: value} | partner.get(name, {}))
        message = str(caught.value)
        assert caught.value.field == name, message
        assert message.startswith(f"{name} "), message
        assert "it must be" in message
        assert len(message) < 300
        assert "--" not in message
        assert caught.value.told(as_flag).startswith(f"{as_flag(name)} ")


def test_a_problem_and_a_class_are_told_where_to_go() -> None:
    with pytest.raises(ConfigError, match=r"problem is a problem; .* 'small'.*run\(config, problem=\.\.\.\)"):
        resolved(problem=small_problem())
    with pytest.raises(ConfigError, match=r"optimizer is a class; .*'torch\.optim\.adam\.Adam'"):
        resolved(optimizer=torch.optim.Adam)


def test_paths_devices_and_names_as_python_has_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    made = resolved(data=tmp_path, output_dir=Path("~/out"), device=torch.device("cuda", 1), track="grad_norm, alpha")
    assert (made.data, made.output_dir, made.device) == (str(tmp_path), str(tmp_path / "out"), "cuda:1")
    assert made.track == ("grad_norm", "alpha")
    assert resolved(track="grad_norm").track == resolved(track=["grad_norm"]).track == ("grad_norm",)
    assert resolved(track="").track == ()


@pytest.mark.parametrize("epochs", [(3,), (3, 4), (100,)])
def test_a_schedule_wholly_beyond_the_run_is_refused(epochs: tuple[int, ...]) -> None:
    factors = (0.1,) * len(epochs)
    with pytest.raises(ConfigError, match=r"lr_sched_epochs .*epochs 3 ends before.*below 3"):
        resolved(lr_sched_epochs=epochs, lr_sched_factors=factors)
    assert resolved(lr_sched_epochs=(2, *epochs), lr_sched_factors=(0.1, *factors)).lr_sched_epochs == (2, *epochs)


def test_what_cannot_be_tracked_is_refused_before_data_are_read() -> None:
    cases: list[tuple[dict[str, object], str]] = [
        ({"track": "cabs", "optimizer": "adam"}, "SGD without momentum"),
        ({"track": ("economy", "cabs"), "optimizer": "adam"}, "SGD without momentum"),
        ({"track": "alpha", "batch_size": 1}, "a batch of 2 or more"),
    ]
    for changes, reason in cases:
        with pytest.raises(ConfigError, match=rf"^track (cabs|alpha): .*{reason}"):
            resolved(**changes)
    assert resolved(track="economy", optimizer="adam").track == ("economy",)
    with pytest.raises(ConfigError, match=r"^track tic_diag: .*no GGN"):
        make_plan(config(track="tic_diag"), small_problem())


@pytest.mark.parametrize("name", ["AdamW", "ADAM", "Sgd", "Momentum"])
def test_the_case_of_letters_does_not_hide_a_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{name.lower()}'"):
        resolved(optimizer=name)


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
        resolve(RunConfig("mnist_mlp", "sgd", 0.1, weight_decay=0.1), problems.spec_of("mnist_mlp"))


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
        return make_record(make_plan(config(**changes), small_problem()), Log()).extra["run_id"]

    assert (
        run_id()
        == run_id(compile="off", memory_format="contiguous")
        == run_id(weight_decay=0.01)
        == run_id(device="cpu", epochs=3)
    )
    assert run_id() != run_id(epochs=2)
    assert run_id() != run_id(precision="bf16")
    assert run_id() != run_id(weight_decay=0.02)


def test_a_decay_factor_is_part_of_a_run_that_uses_it() -> None:
    """Or one run would have two identities, by a value that changes nothing."""
    with pytest.raises(ConfigError, match=r"decay_factor 0.5: no schedule uses it. Give schedule exponential or steps"):
        resolved(decay_factor=0.5)
    with pytest.raises(ConfigError, match=r"decay_factor -1.0: it must be positive"):
        resolved(decay_factor=-1.0, schedule="cosine")
    assert resolved(decay_factor=0.5, schedule="cosine") == resolved(schedule="cosine")
    assert resolved(decay_factor=0.5, schedule="exponential").decay_factor == 0.5
    by_name = resolved(schedule="steps", decay_factor=0.5, lr_sched_epochs=(1, 2), epochs=3)
    assert by_name == resolved(lr_sched_epochs=(1, 2), lr_sched_factors=(0.5, 0.25), epochs=3)
