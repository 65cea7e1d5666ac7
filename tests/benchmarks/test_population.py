"""The benchmark of populations: what it measures of growing nets, and that the choice of a way follows it."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import population, population_report
from benchmarks.population_report import ONE_BY_ONE, TOGETHER
from benchmarks.recording import Settings


def steps(name: str, together: float, taken: float, way: str) -> dict[str, Any]:
    return {
        "problem": f"steps of {name}",
        "threads": 1,
        "kind": "steps",
        "members": 4,
        "seconds": {ONE_BY_ONE: 2e-3, TOGETHER: together},
        "ratio": 2e-3 / together,
        "quartiles": [2e-3 / together] * 2,
        "taken": taken,
        "execution": {"way": way, "compile": False},
    }


def test_a_choice_of_the_slower_way_is_missed() -> None:
    right, wrong = steps("mnist_logreg", 1e-3, 1.0, "vmap"), steps("mnist_2c2d", 4e-3, 2.0, "vmap")
    assert "met: times the faster way's time takes the chosen one: 1" in population_report.report(right)
    assert "MISSED: times the faster way's time takes the chosen one: 2" in population_report.report(wrong)
    table = population_report.summary([right, wrong], [])
    assert "| mnist_logreg | 4 | 2 | 1 | 2.00 (2.00-2.00) | vmap |" in table
    assert "| mnist_2c2d | 4 | 2 | 4 | 0.50 (0.50-0.50) | vmap |" in table


@pytest.mark.large
@pytest.mark.parametrize("name", ["steps of mnist_logreg", "steps of mnist_2c2d"])
def test_the_way_that_is_chosen_is_the_faster_one(name: str) -> None:
    assert population.of_steps(name, Settings(rounds=3))["taken"] < 1.3  # what a busy machine may add
