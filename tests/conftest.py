"""Fixtures for the whole suite."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported: two workers with two threads each spin against each other, many times slower than one each.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

from deepobs_func import cli
from deepobs_func.backend.kernels import Kernels, current
from deepobs_func.backend.memory import keep_freed_memory
from tests.command import Deepobs, Outcome

keep_freed_memory()  # a third of the suite's time went into clearing pages
# The spaces are small, and Hypothesis's own 100 examples add up.
settings.register_profile("suite", deadline=None, print_blob=True, max_examples=25)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that do not exist yet. `mktemp` for each test reads the names of all others: 5 ms at the end."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run chooses by measuring is kept apart from the user's, and from what a test looks for in its folder."""
    monkeypatch.setenv("DEEPOBS_CACHE", str(next(caches)))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Recompilations are counted by code object: no test sees those of another."""
    yield
    if "torch._dynamo" in sys.modules:  # it takes seconds to import
        torch.compiler.reset()


@pytest.fixture(autouse=True)
def kernels_as_before() -> Iterator[None]:
    """No test leaves a choice of kernels to the next one."""
    yield
    assert current() == Kernels()


@pytest.fixture
def deepobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Deepobs:
    """Calls the entry point itself, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("DEEPOBS_DATA", raising=False)

    def call(*args: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["deepobs", *args])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        code = caught.value.code or 0
        assert isinstance(code, int)
        return Outcome(code, *capsys.readouterr())

    return call
