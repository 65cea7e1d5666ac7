"""Lazy names: there for whoever looks, without an import."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

import pytest

from deepobs_func import analysis, datasets, optimizers, probes, problems, records, runner, study

OFFERED = {
    probes: ("hvp", "ggnvp", "statistics", "trace"),
    optimizers: ("adam", "sgd_cabs", "cosine", "Optimizer", "FUNCTIONAL"),
    runner: ("run", "RunConfig", "RunInterrupted", "make_step"),
    problems: ("from_module", "get", "names", "Problem"),
    records: ("RunRecord", "read", "write"),
    datasets: ("from_arrays", "load", "spec"),
    analysis: ("load", "benchmark_table", "compare", "Results"),
    study: ("Study", "Limits", "LogUniform"),
}


@pytest.mark.parametrize("package", list(OFFERED), ids=lambda package: package.__name__)
def test_names_are_listed_and_there(package: ModuleType) -> None:
    assert set(OFFERED[package]) <= set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert len(set(package.__all__)) == len(package.__all__)
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'no_such_name'"):
        package.no_such_name  # noqa: B018


@pytest.mark.parametrize("package", list(OFFERED), ids=lambda package: package.__name__)
def test_a_star_import_has_them(package: ModuleType) -> None:
    found: dict[str, object] = {}
    exec(f"from {package.__name__} import *", found)
    assert set(package.__all__) <= set(found)


def test_a_replaced_function_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner.run is importlib.import_module("deepobs_func.runner.loop").run
    monkeypatch.setattr("deepobs_func.runner.loop.run", len)
    assert runner.run is len


def test_listing_imports_no_torch() -> None:
    names = ", ".join(package.__name__.partition(".")[2] for package in OFFERED)
    code = (
        f"import sys; from deepobs_func import {names}; print([dir(p) for p in ({names},)] and 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
