"""Torch's settings of determinism are in force within a context, and as before afterwards."""

from __future__ import annotations

import os

import pytest
import torch

from deepobs_func.backend.determinism import WORKSPACE, deterministic
from deepobs_func.runner import Execution, run
from tests.runner.small import config, small_problem


def settings() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), bool(cudnn.deterministic), bool(cudnn.benchmark)


def test_settings_come_back() -> None:
    before = settings()
    with deterministic(True):
        assert settings() == (True, True, False)
        with deterministic(False):
            assert settings() == (True, True, False)
    assert settings() == before
    with pytest.raises(KeyError), deterministic(True):
        raise KeyError
    assert settings() == before


def test_a_run_has_them_in_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)
    seen = []
    made = config(deterministic=True, compile="off", epochs=1)
    done = run(made, small_problem(), callbacks=[lambda event: seen.append(settings()[0])])
    assert done.record.extra["execution"]["deterministic"]
    assert set(seen) == {False}  # callbacks are the user's
    assert os.environ[WORKSPACE] == ":4096:8"
    with Execution(deterministic=True).apply("float32", torch.device("cpu")):
        assert settings()[0]
