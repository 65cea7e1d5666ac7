"""The examples run, each under a minute, on what data there are; `make docs` runs them for their pictures."""

from __future__ import annotations

import runpy
import time
from pathlib import Path

import matplotlib
import numpy as np
import pytest

from deepobs_func.study import Study

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))


@pytest.mark.large
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    begin = time.process_time()
    names = runpy.run_path(str(path), run_name="__main__")
    assert time.process_time() - begin < 60
    if path.stem == "edge_of_stability":
        late = [values[-3:] * lr / 2 for lr, values in names["curves"].items()]
        assert len(late) == 3
        assert 0.9 < np.min(late) <= np.max(late) < 1.1, "at the edge, at three rates, whatever the data"
        assert all(values[0] * lr / 2 < 0.6 for lr, values in names["curves"].items()), "from below"


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 13


def test_the_study_beside_an_example_can_be_read() -> None:
    study = Study.read(EXAMPLES[0].parent / "equal_budgets.yaml")
    assert study.size == 2 * 5 * 6 * 5
    assert study.budget.cost == 15_600
