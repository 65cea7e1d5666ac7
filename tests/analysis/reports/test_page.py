"""What is in a page: all that it needs, what is said of odd runs, and nothing that a name could do to it."""

from __future__ import annotations

import base64
import gzip
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.analysis import load
from deepobs_func.analysis.reports import Choice, rank_problem, write_report
from deepobs_func.analysis.reports.collecting import collect, thinned
from deepobs_func.analysis.reports.packing import number
from deepobs_func.analysis.reports.page import MOST_BYTES, verdict_text
from deepobs_func.analysis.results import Results
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.records import RunRecord
from tests.analysis import made

ODD = '</script><script>alert("x")</script>'
LEVELS = {"quadratic_deep": {"adam": 0.2, "sgd": 0.4}, "mine": {"adam": 0.3, "sgd": 0.25}}


def read(folder: Path, records: list[RunRecord]) -> Results:
    return load(made.write(folder / "tree", records))


def page_of(folder: Path, records: list[RunRecord], **how: Any) -> str:
    return write_report(read(folder, records), folder / "report.html", **how).read_text(encoding="utf-8")


def embedded(page: str) -> Any:
    """The data in a page, as a browser finds them."""
    (text,) = re.findall(r'<script type="application/json" id="report-data">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


def numbers(page: str) -> Any:
    (text,) = re.findall(r'id="report-numbers">(.*?)</script>', page, re.DOTALL)
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), dtype="<f8")


def test_the_numbers_in_the_page_are_those_of_the_runs(tmp_path: Path) -> None:
    curves = [[1.0, 1 / 3, 0.1 + 0.2], [1.0, math.inf, math.nan]]
    page = page_of(tmp_path, [made.record("p", "a", curve, seed=seed) for seed, curve in enumerate(curves)])
    (shown,) = embedded(page)["problems"][0]["shown"]
    start, rows, columns = shown["curves"]["test_loss"]
    found = numbers(page)[start : start + rows * columns].reshape(rows, columns)
    np.testing.assert_array_equal(found, np.array(curves).T)


def test_no_host_is_named_outside_of_plotly(tmp_path: Path) -> None:
    page = page_of(tmp_path, made.benchmark(LEVELS, seeds=2))
    assert not re.search(r"(src|href)=[\"'](https?:|//)|url\(\s*[\"']?https?:|@import", page)
    assert "default-src 'none'" in page
    assert "showSendToCloud: false" in page


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    results = read(tmp_path, made.benchmark(LEVELS, seeds=2))
    first = write_report(results, tmp_path / "report.html").read_bytes()
    assert write_report(results, tmp_path / "report.html").read_bytes() == first


def test_provenance(tmp_path: Path) -> None:
    page = page_of(tmp_path, made.benchmark(LEVELS, seeds=2), sources=["my tree"])
    assert "deepobs run quadratic_deep --optimizer adam --lr 0.1 --seed 42" in page
    assert "deepobs report &#39;my tree&#39; --out" in page
    (link, *_) = re.findall(r'href="([^"#]*json)"', page)
    assert (tmp_path / link.replace("%20", " ")).is_file()
    assert "torch 2.13.0" in page


def test_names_and_titles_are_text(tmp_path: Path) -> None:
    page = page_of(tmp_path, [made.record(ODD, ODD, [1.0, 0.5], seed=seed) for seed in (1, 2)], title=ODD)
    assert ODD not in page
    assert embedded(page)["problems"][0]["name"] == ODD
    assert page.count("<script") == 4
    assert page.count("</script>") == 4


@given(name=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12))
def test_whatever_a_name_is_the_data_are_read_back(name: str) -> None:
    from markupsafe import Markup

    from deepobs_func.analysis.reports.page import _environment

    text = _environment().from_string("<script>{{ data|tojson }}</script>").render(data={"name": name}, safe=Markup)
    assert json.loads(text.removeprefix("<script>").removesuffix("</script>")) == {"name": name}
    assert text.count("<") == 2


CASES = {
    "one optimizer": ([made.record("p", "a", [1.0, 0.5], seed=seed) for seed in (1, 2)], "a is the only optimizer"),
    "one seed": (
        [made.record("p", name, [1.0, level]) for name, level in (("a", 0.5), ("b", 0.4))],
        "b leads; a cannot be tested against it (one seed, or a seed that diverged).",
    ),
    "only diverged runs": (
        [made.record("p", name, [1.0, math.nan], seed=seed) for name in "ab" for seed in (1, 2)],
        "No optimizer has a finite mean.",
    ),
    "different lengths": (
        [made.record("p", "a", [1.0, 0.5, 0.4]), made.record("p", "b", [1.0, 0.6])],
        "different numbers of epochs",
    ),
    "no problem that all have": (
        [made.record("p", "a", [1.0, 0.5]), made.record("q", "b", [1.0, 0.5])],
        "No problem was run by all optimizers",
    ),
    "no complete run": (
        [made.record("p", "a", [1.0, 0.5]), made.record("p", "b", [1.0, 0.5], status="failed")],
        "b: no complete run (1 failed).",
    ),
    "stand-in data": ([made.record("p", "a", [1.0, 0.5], data={"synthetic": True})], "stand-in data: not a result"),
    "a metric that a problem lacks": (
        [made.record("p", "a", [0.1, 0.5], accuracy=True), made.record("q", "a", [1.0, 0.5])],
        '<option value="test_accuracy">',
    ),
    "a seed twice": (
        [made.record("p", "a", [1.0, 0.5], timings={"train": [seconds]}) for seconds in (1.0, 2.0)],
        "a was run several times with the seeds 42, and the last run of each counts.",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_odd_runs_are_told_of(tmp_path: Path, case: str) -> None:
    records, words = CASES[case]
    assert words in page_of(tmp_path, records)


def test_a_copy_of_a_seed_is_no_second_seed(tmp_path: Path) -> None:
    """Two equal runs would have no spread, and be better for certain."""
    records = [
        made.record("p", name, [1.0, level], timings={"train": [seconds]})
        for name, level in (("a", 0.5), ("b", 0.6))
        for seconds in (1.0, 2.0, 3.0)
    ]
    (problem,) = collect(read(tmp_path, records))
    assert [(row.seeds, row.answer) for row in rank_problem(problem, Choice())] == [(1, "leads"), (1, "untested")]


def test_an_empty_tree_is_a_mistake_that_names_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    results = load(tmp_path)
    with pytest.raises(DataError, match=r"There is no run in here\. 1 files could not be read.*broken\.json"):
        write_report(results, tmp_path / "report.html", sources=["here"])


def test_files_that_were_not_read_are_listed(tmp_path: Path) -> None:
    made.write(tmp_path / "tree", [made.record("p", "a", [1.0, 0.5])])
    (tmp_path / "tree" / "<broken>.json").write_text("{", encoding="utf-8")
    page = write_report(load(tmp_path / "tree"), tmp_path / "report.html").read_text(encoding="utf-8")
    assert "&lt;broken&gt;.json" in page
    assert "1 file could not be read" in page


def test_a_place_that_cannot_be_written_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Name another file"):
        write_report(read(tmp_path, [made.record("p", "a", [1.0, 0.5])]), tmp_path)


def test_forty_optimizers(tmp_path: Path) -> None:
    levels = {"p": {f"optimizer {index}": 0.1 + index / 100 for index in range(40)}}
    results = read(tmp_path, made.benchmark(levels, seeds=2))
    page = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    looks = [(each["colour"], tuple(each["dashes"])) for each in embedded(page)["optimizers"]]
    assert len(set(looks)) == 40
    assert re.search(r"and \d+ others cannot be told apart", page)


def test_many_numbers_are_thinned_until_they_fit(tmp_path: Path) -> None:
    problems = collect(read(tmp_path, made.benchmark(LEVELS, seeds=3, epochs=200)))
    total = sum(each.numbers for each in problems)
    assert thinned(problems, total) == problems
    fewer = thinned(problems, total // 8)
    assert sum(each.numbers for each in fewer) <= total // 8
    for before, after in zip(problems, fewer, strict=True):
        assert after.every > 1
        ends = [
            (a.curves[before.metric][-1], b.curves[before.metric][-1])
            for a, b in zip(before.shown, after.shown, strict=True)
        ]
        assert all(np.array_equal(whole, part) for whole, part in ends)
        assert all(each.clocks["epoch"][-1, 0] == 200 for each in after.shown)


def test_a_page_of_random_numbers_is_small_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepobs_func.analysis.reports.page.MOST_BYTES", 2_100_000)
    records = made.benchmark({"p": {"a": 0.1, "b": 0.2}}, seeds=12, epochs=2000)
    page = page_of(tmp_path, records)
    assert len(page.encode()) <= 2_100_000 < MOST_BYTES
    assert "times to a target are rounded up" in page


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-7, "1.000e-07"),
        (-0.5, "-0.5000"),
        (123456.0, "1.235e+05"),
        (99.995, "100.00"),
        (-math.inf, "-∞"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_a_problem_without_rows_is_told_of() -> None:
    assert verdict_text([]) == "No optimizer that is shown has this metric."
