"""The README: its Python runs, its tables are generated, its first Python stands early."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import make_readme

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_python_block_runs(block: str) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_the_tables_are_generated() -> None:
    assert make_readme.readme(TEXT) == TEXT


def test_the_first_python_stands_within_forty_lines() -> None:
    assert TEXT.index("```python") < len("\n".join(TEXT.splitlines()[:40]))
