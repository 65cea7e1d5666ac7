"""The device of these tests: `cuda`, or by `DEEPOBS_TEST_DEVICE` another one, on which they are tried themselves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of them have the mark by which they are left out elsewhere."""
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.gpu)


class AtOnce:
    """Prints why a test failed as soon as it has, so that nothing is lost where a time limit ends the session."""

    def __init__(self, config: pytest.Config) -> None:
        self._terminal: Any = config.pluginmanager.get_plugin("terminalreporter")

    @pytest.hookimpl(trylast=True)  # after the line with the test's verdict
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line(f"\n---- {report.nodeid} ({report.when})\n{report.longreprtext}\n----")
            self._terminal.flush()


def pytest_configure(config: pytest.Config) -> None:
    """In the process that prints; those of pytest-xdist tell it."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(AtOnce(config), "gpu-failures-at-once")


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("DEEPOBS_TEST_DEVICE", "cuda"))
