"""Results trees put together: each run once, nothing overwritten."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from deepobs_func import RunConfig, run
from deepobs_func.errors import ConfigError
from deepobs_func.study.merging import merge


def tree(tmp_path: Path, name: str, *seeds: int) -> Path:
    for seed in seeds:
        run(RunConfig("two_d_beale", "adam", 0.01, epochs=1, seed=seed, output_dir=tmp_path / name, compile="off"))
    return tmp_path / name


def files(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_each_run_is_there_once(tmp_path: Path) -> None:
    first, second = tree(tmp_path, "a", 1, 2), tree(tmp_path, "b", 2, 3)
    found = merge(tmp_path / "all", [first, second])
    assert (len(found.copied), len(found.known), found.differing, found.unreadable) == (3, 1, [], [])
    again = merge(tmp_path / "all", [first, second])
    assert (len(again.copied), len(again.known)) == (0, 4)
    assert len(files(tmp_path / "all")) == 3
    assert len(files(first)) == len(files(second)) == 2


def test_a_taken_name_is_not_overwritten(tmp_path: Path) -> None:
    first = tree(tmp_path, "a", 1)
    shutil.copytree(first, tmp_path / "b")
    (path,) = (tmp_path / "b").rglob("*.json")
    content = json.loads(path.read_text())
    content["deepobs_func"]["run_id"] = "another"
    path.write_text(json.dumps(content))
    found = merge(first, [tmp_path / "b"])
    assert len(found.copied) == 1
    assert len(files(first)) == 2
    assert path.name != found.copied[0].name


def test_other_numbers_of_one_run_are_told(tmp_path: Path) -> None:
    first = tree(tmp_path, "a", 1)
    shutil.copytree(first, tmp_path / "b")
    (path,) = (tmp_path / "b").rglob("*.json")
    content = json.loads(path.read_text())
    content["test_losses"][-1] += 1e-3
    path.write_text(json.dumps(content))
    (path.parent / "notes.json").write_text("[1]")
    found = merge(first, [tmp_path / "b"])
    assert (found.copied, found.differing, len(found.unreadable)) == ([], [path], 1)


def test_files_of_deepobs_s_own_are_merged_as_they_are(tmp_path: Path) -> None:
    first = tree(tmp_path, "a", 1)
    (path,) = first.rglob("*.json")
    content = {name: value for name, value in json.loads(path.read_text()).items() if name != "deepobs_func"}
    path.write_text(json.dumps(content))
    assert len(merge(tmp_path / "all", [first]).copied) == 1
    assert len(merge(tmp_path / "all", [first]).known) == 1
    assert [(tmp_path / "all" / name).read_bytes() for name in files(first)] == [path.read_bytes()]


@pytest.mark.parametrize("source", ["nowhere", "a", "a/two_d_beale", "."])
def test_wrong_sources_are_refused(tmp_path: Path, source: str) -> None:
    first = tree(tmp_path, "a", 1)
    with pytest.raises(ConfigError, match=r"is no folder|lie within each other"):
        merge(first, [tmp_path / source])
