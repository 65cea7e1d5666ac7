"""The examples run, each under a minute, on what data there are; `make docs` runs them for their pictures."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import matplotlib
import pytest

from deepobs_func.study import Study

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.large
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    begin = time.process_time()
    runpy.run_path(str(path), run_name="__main__")
    assert time.process_time() - begin < 60


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 13


def test_the_study_beside_an_example_can_be_read() -> None:
    study = Study.read(EXAMPLES[0].parent / "equal_budgets.yaml")
    assert study.size == 2 * 5 * 6 * 5
    assert study.budget.cost == 15_600
