"""What is measured of intervals and duels: what is written holds what is promised, and can be measured again."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks import coverage, coverage_report
from benchmarks.coverage import SHAPES, STATISTICS, Match

RESULT: dict[str, Any] = json.loads(coverage.RESULT.read_text(encoding="utf-8"))


def test_every_interval_was_measured_and_none_that_is_offered_falls_short() -> None:
    assert {(row["statistic"], row["shape"]) for row in RESULT["intervals"]} == {
        (name, shape) for name in STATISTICS for shape in SHAPES
    }
    assert (RESULT["benchmarks"], RESULT["level"]) == (1000, 0.95)
    assert coverage.short(RESULT) == []
    assert all(set(each.offered) >= {"normal", "skewed"} for name, each in STATISTICS.items() if name != "mean_bca")


def test_a_tie_is_called_falsely_in_a_twentieth_of_duels_at_most() -> None:
    matches = [Match(*(each[name] for name in Match._fields)) for each in RESULT["duels"]]
    assert tuple(matches) == coverage.MATCHES
    for match, each in zip(matches, RESULT["duels"], strict=True):
        false = each["answers"]["B"] + each["answers"]["A"] * (match.difference == 0)
        false += each["answers"]["tie"] * (match.delta is not None and match.difference > match.delta)
        assert false <= 0.05 * RESULT["benchmarks"]
        assert sum(each["answers"].values()) == sum(each["fixed"].values()) == 1000


def test_a_short_interval_is_told() -> None:
    wrong = {"statistic": "mean", "shape": "normal", "coverage": {"5": 0.92, "10": 0.95, "20": None}}
    assert coverage.short({"level": 0.95, "intervals": [wrong]}) == ["mean normal 5: 0.92"]


def test_what_is_written_can_be_measured_again() -> None:
    """A cell that takes a second."""
    written = next(row for row in RESULT["intervals"] if (row["statistic"], row["shape"]) == ("median", "normal"))
    assert coverage.coverage(STATISTICS["median"], SHAPES["normal"], 5, 1000) == written["coverage"]["5"]


def test_the_tables_show_all_of_it() -> None:
    lines = coverage_report.intervals(RESULT).splitlines()
    assert len(lines) == 2 + len(RESULT["intervals"])
    assert lines[2].startswith("| mean | normal | ")
    assert "not offered | normal | (" in "".join(lines)
    assert len(coverage_report.duels(RESULT).splitlines()) == 2 + len(RESULT["duels"])


@pytest.mark.large
@pytest.mark.parametrize("name", ["mean", "iqm", "difference", "superiority"])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_intervals_cover(name: str, shape: str) -> None:
    """With 1,000 benchmarks of other seeds than those that are written; four standard errors are 2.8 points."""
    for size in (5, 10):
        assert coverage.coverage(STATISTICS[name], SHAPES[shape], size, 1001) >= 0.95 - 0.028


@pytest.mark.large
def test_a_thousand_ties_by_other_seeds() -> None:
    for match in (Match(0.0, None), Match(0.0, 1.0, "exponential")):
        answers = coverage.play(match, 1001)["answers"]
        assert answers["A"] + answers["B"] <= 50
