"""What a sweep shows: a table on a terminal, a line for each run elsewhere."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from deepobs_func import Study
from deepobs_func.study.live import Table
from deepobs_func.study.scheduler import Entry
from deepobs_func.study.sweeping import jobs_of, sweep
from tests.study.test_scheduler import Scripted


def study(tmp_path: Path) -> Study:
    return Study(["two_d_beale"], {"adam": {"lr": [0.1, 0.01]}}, epochs=1, output_dir=str(tmp_path / "r"))


def shown(tmp_path: Path, *, quiet: bool = False, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), width=120, force_terminal=terminal)
    with Table(2, quiet=quiet, console=console) as table:
        sweep(study(tmp_path), make=Scripted, watch=table.show, tell=table.tell)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_elsewhere_each_run_is_a_line(tmp_path: Path) -> None:
    lines = shown(tmp_path).splitlines()
    assert [line[:12] for line in lines] == ["1/2 finished", "2/2 finished"]
    assert "two_d_beale adam lr 0.1 seed 42  test " in lines[0]
    assert shown(tmp_path) == ""  # nothing is new


def test_quiet_is_quiet(tmp_path: Path) -> None:
    assert shown(tmp_path, quiet=True) == ""


def test_a_terminal_shows_where_each_run_is(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)

    class Under(Scripted):
        @property
        def running(self) -> list[Entry]:
            progress = {"share": 0.5, "epoch": 3, "epochs": 6, "last": {"test_loss": 1.25}}
            return [Entry(tuple(jobs_of(study(tmp_path))[:1]), progress=progress)]

    table = Table(2, console=console)
    table._start -= 60
    console.print(table.drawn(Under(tmp_path / "r"), []))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "0/2" in text
    assert "3/6" in text
    assert "test 1.25" in text
    assert "1.0 min left" in text
