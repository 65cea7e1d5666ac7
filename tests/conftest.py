"""Fixtures for the whole suite."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

# Before torch is imported: two workers with two threads each spin against each other, many times slower than one each.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch
from hypothesis import settings

from deepobs_func.backend.kernels import Kernels, current
from deepobs_func.backend.memory import keep_freed_memory

keep_freed_memory()  # a third of the suite's time went into clearing pages
settings.register_profile("suite", deadline=None, print_blob=True)
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run chooses by measuring is kept apart from the user's, and from what a test looks for in its folder."""
    monkeypatch.setenv("DEEPOBS_CACHE", str(tmp_path_factory.mktemp("cache")))


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
