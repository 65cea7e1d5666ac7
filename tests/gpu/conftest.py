"""The device of these tests: `cuda`, or by `DEEPOBS_TEST_DEVICE` another one, on which they are tried themselves."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them have the mark by which they are left out elsewhere."""
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("DEEPOBS_TEST_DEVICE", "cuda"))
