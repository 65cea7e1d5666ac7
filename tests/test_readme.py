"""README and docs: their code runs, their tables are generated, their links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import make_readme
from tests.documents import PAGES, ROOT, Block, blocks, cut_data, run_page

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
WITH_WORKERS = ("benchmark_my_optimizer", "reports", "statistics", "studies", "sweeps", "tune_fairly", "tuning")
LONG = ("own_networks", "several_devices")


def names(page: Path) -> str:
    return page.stem


def marked(page: Path) -> Any:
    """A page whose studies start worker processes is large: each imports torch. So is one that trains for seconds."""
    return pytest.param(page, marks=[pytest.mark.large] if names(page) in (*WITH_WORKERS, *LONG) else [])


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if blocks(page)], ids=names)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with cut_data(monkeypatch):
        run_page(page, tmp_path, monkeypatch)


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_the_tables_are_up_to_date(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert make_readme.filled(text) == text


def test_every_generated_table_stands_on_one_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [text.count(mark) for marker in make_readme.tables() for mark in make_readme.marks(marker)] == [1] * (
        2 * len(make_readme.tables())
    )


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target.read_text(encoding="utf-8")), link


def led_to(page: Path) -> set[Path]:
    """The pages that the toctrees of a page lead to, in the end."""
    trees = re.findall(r"^:::\{toctree\}\n(.*?)^:::$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    entries = [line for tree in trees for line in tree.splitlines() if line and line[0] != ":"]
    found = {each.resolve() for entry in entries for each in page.parent.glob(f"{entry}.md")} & set(PAGES)
    return found.union(*map(led_to, found))


def test_the_site_leads_to_every_page() -> None:
    index = ROOT / "docs" / "index.md"
    assert led_to(index) == {page for page in PAGES if page not in (README, index)}
    assert "docs/index.md" in TEXT


def test_the_readme_is_short_and_shows_python_early() -> None:
    assert len(TEXT.splitlines()) <= 150
    assert TEXT.index("```python") < len("\n".join(TEXT.splitlines()[:40]))


def of_heading(title: str) -> list[Block]:
    """The code under a heading of the README."""
    (section,) = re.findall(rf"^## {title}$(.*?)(?=^## )", TEXT, re.MULTILINE | re.DOTALL)
    return [Block(*found) for found in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL)]


def test_the_readme_has_one_table() -> None:
    tables = re.findall(r"(?:^\|.*\n)+", TEXT, re.MULTILINE)
    assert [table.strip() for table in tables] == [make_readme.problems_table()]


def test_a_callback_and_a_metric_take_three_lines() -> None:
    code = "".join(block.code for block in blocks(ROOT / "docs" / "callbacks.md") if block.language == "python")
    functions = [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    assert [(node.name, len(ast.unparse(node).splitlines())) for node in functions] == [("show", 3), ("top5", 3)]


def test_what_the_readme_promises_is_short() -> None:
    (python,) = of_heading("From a trained run to its curvature")
    assert len([line for line in python.code.splitlines() if line]) <= 5
    assert "lanczos_eigenvalues" in python.code
    python, command = of_heading("An optimizer of your own")
    assert len([line for line in python.code.splitlines() if line and not line.startswith("#")]) <= 15
    assert "deepobs run mnist_mlp --optimizer my_file:make --lr 0.1" in command.code
