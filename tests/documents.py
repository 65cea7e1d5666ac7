"""Runs the code of a Markdown page: its Python, its commands and its studies, on data cut to a few batches."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from deepobs_func import cli, datasets, problems
from deepobs_func.runner import training
from deepobs_func.runner.execution import Execution
from deepobs_func.study import Study

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "howto").glob("*.md")))
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# ([\w/]+\.(?:py|yaml))\n")
_BATCHES = 2  # of 128 training examples, of which `--valid` sets one aside
_EPOCHS = 3
_ELSEWHERE = {  # commands of a cluster that is not here, and what tests them
    "deepobs sweep study.yaml --engine ray --ray-address auto --cpus 2 --gpus 0.25": "tests/study/clusters.py",
    "deepobs sweep study.yaml --engine slurm --tasks 8 --cpus 4 --time 4:00:00": "tests/study/test_slurm.py",
}


class Block(NamedTuple):
    """A block of code.

    Attributes:
        language: `"python"`, `"sh"`, `"yaml"` or another.
        code: its text.
    """

    language: str
    code: str


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(*found) for found in _BLOCK.findall(page.read_text(encoding="utf-8"))]


@contextmanager
def cut_data(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within it, runs take stand-in data of a few batches, three epochs by default, and the eager execution."""
    monkeypatch.setenv("DEEPOBS_DATA", "synthetic")
    monkeypatch.setattr(training, "choose", lambda *details, **named: Execution())
    for name, spec in problems.REGISTRY.own.items():
        monkeypatch.setitem(problems.REGISTRY.own, name, replace(spec, epochs=min(spec.epochs, _EPOCHS)))
        data = datasets.spec(spec.dataset)
        if data.files and not data.streamed and data.sequence_length is None:
            sizes = {"train_size": _BATCHES * 128, "test_size": 128, "file_sizes": ()}
            monkeypatch.setitem(datasets.REGISTRY.own, data.name, replace(data, **sizes))
    problems.get.cache_clear()
    yield
    problems.get.cache_clear()


def run_page(page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs every block of a page in order: Python in one namespace, commands in a folder, files into it.

    A block of YAML is a study, which is read and expanded.
    """
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    namespace: dict[str, Any] = {"__name__": page.stem}
    for language, code in blocks(page):
        if language == "python":
            file = _FILE.match(code)
            if file:
                Path(file[1]).write_text(code, encoding="utf-8")
                sys.modules.pop(file[1].removesuffix(".py"), None)
            exec(compile(code, page.name, "exec"), namespace)
        elif language == "yaml":
            file = _FILE.match(code)
            assert file, f"{page.name} has a block of YAML without the name of a file"
            Path(file[1]).write_text(code, encoding="utf-8")
            assert Study.read(file[1]).runs
        elif language == "sh":
            for line in code.splitlines():
                _run_command(line)
        else:
            assert language == "text", f"{page.name} has a block of {language!r}, which nothing tests"


def _run_command(line: str) -> None:
    words = shlex.split(line, comments=True)
    if not words:
        return
    if words[0] == "deepobs":
        if " ".join(words) not in _ELSEWHERE:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", words)
                with pytest.raises(SystemExit) as end:
                    cli.main()
            assert end.value.code in (0, None), line
    elif words[0] == "make":
        targets = (word for word in words[1:] if "=" not in word)
        assert all(f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8") for target in targets), line
    elif words[:2] == ["pip", "install"]:
        extras = re.search(r"\[(.*)\]", words[-1])
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert set(extras[1].split(",") if extras else ()) <= set(project["optional-dependencies"]), line
    elif words[:2] == ["python", "-m"]:
        assert (ROOT / Path(*words[2].split("."))).with_suffix(".py").exists(), line
    else:
        assert words[0] == "git", f"{line!r}: nothing tests this command"
