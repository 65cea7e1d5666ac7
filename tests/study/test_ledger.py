"""What is kept of a study, all of which may be lost."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deepobs_func import RunConfig, files
from deepobs_func.errors import ConfigError
from deepobs_func.study.jobs import make_job
from deepobs_func.study.ledger import Changes, Ledger


def jobs(tmp_path: Path, *seeds: int) -> list:
    return [make_job(RunConfig("two_d_beale", "sgd", 1e-4, seed=seed, output_dir=tmp_path / "r")) for seed in seeds]


def test_another_study_in_one_folder_is_told(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r")
    assert ledger.remember(jobs(tmp_path, 1, 2)) == Changes(0, 0)
    assert ledger.remember(jobs(tmp_path, 1, 2)) == Changes(0, 0)
    assert ledger.remember(jobs(tmp_path, 2, 3, 4)) == Changes(2, 1)
    asked = ledger.asked()
    assert sum(entry["asked"] for entry in asked.values()) == 3
    assert len(asked) == 4


def test_a_share_drops_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r")
    ledger.add_jobs(jobs(tmp_path, 1))
    assert ledger.add_jobs(jobs(tmp_path, 2)) == Changes(0, 0)
    assert all(entry["asked"] for entry in ledger.asked().values())
    assert len(ledger.asked()) == 2


def test_files_that_are_torn_count_as_none(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r")
    ledger.remember(jobs(tmp_path, 1))
    (ledger.folder / "runs.json").write_text('{"half')
    assert ledger.asked() == {}
    ledger.of("x").mkdir(parents=True)
    (ledger.of("x") / "now").write_text("[")
    assert ledger.progress("x") == {}
    (ledger.folder / "settings.json").write_text("7")
    assert ledger.setting("threads") is None
    assert ledger.setting("threads", 2) == 2
    assert ledger.setting("threads") == 2


def test_a_disk_without_room_is_a_mistake_of_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "write_new", full)
    ledger = Ledger(tmp_path / "r")
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\). Make room there"):
        ledger.remember(jobs(tmp_path, 1))
    ledger.note("x", {"epoch": 1})  # which costs itself alone
    assert ledger.progress("x") == {}


def test_nothing_is_written_where_nothing_is_asked(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "r")
    assert not ledger.is_claimed("x")
    assert not ledger.is_cancelled("x")
    assert list(tmp_path.iterdir()) == []
