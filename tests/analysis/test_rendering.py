"""Tables as text, Markdown, CSV and LaTeX, with any text in a cell."""

from __future__ import annotations

import csv
import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from deepobs_func.analysis.rendering import FORMATS, described, render, shown, shown_metric
from deepobs_func.errors import ConfigError

TITLES = ("optimizer", "loss")
ROWS = [("adam", "87.0450"), ("最適化器", "9.5 ± 1"), ("a|b_c & 50%", "-")]
cells = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=8)


def test_columns_stand_under_each_other_in_any_alphabet() -> None:
    lines = render(TITLES, ROWS).splitlines()
    assert lines[0] == "optimizer       loss"
    assert lines[1] == "adam         87.0450"
    assert {cell_len(line) for line in lines} == {len(lines[0])}


def test_markdown_escapes_what_ends_a_cell() -> None:
    assert render(TITLES, ROWS, "md").splitlines()[-1] == r"| a\|b_c & 50% | - |"


def test_latex_escapes() -> None:
    text = render(TITLES, ROWS, "latex")
    assert r"a|b\_c \& 50\% & -" in text
    assert r"最適化器 & 9.5 $\pm$ 1" in text
    assert text.startswith(r"\begin{tabular}")
    assert text.endswith(r"\end{tabular}")


@given(rows=st.lists(st.tuples(cells, cells), min_size=1, max_size=4))
def test_csv_comes_back(rows: list[tuple[str, str]]) -> None:
    assert list(csv.reader(io.StringIO(render(TITLES, rows, "csv") + "\n"))) == [list(TITLES), *map(list, rows)]


@given(rows=st.lists(st.tuples(cells, cells), max_size=4), format=st.sampled_from(["text", "md"]))
def test_a_line_for_each_row(rows: list[tuple[str, str]], format: str) -> None:
    assert len(render(TITLES, [(f"x{a}", f"x{b}") for a, b in rows], format).split("\n")) == len(rows) + 1 + (
        format == "md"
    )


def test_a_format_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"Unknown format 'html'\. Known: text, md, csv, latex"):
        render(TITLES, ROWS, "html")
    assert set(FORMATS) == {"text", "md", "csv", "latex"}


def test_values_in_cells() -> None:
    assert [shown(value, 2) for value in (12.46, 0.0951, math.inf, math.nan, None, 3)] == [
        "12",
        "0.095",
        "inf",
        "-",
        "-",
        "3",
    ]
    assert shown_metric(0.9, "valid_accuracy") == "0.9000"


def test_settings_in_words() -> None:
    hyperparams = {"momentum": 0.99, "nesterov": False}
    assert described(0.0251, hyperparams, "cosine") == "lr 2.51e-02, momentum 0.99, nesterov False, schedule cosine"
    assert described(math.nan, {}) == ""
