"""Where records go: beside the tree or elsewhere, whatever fails; and what DeepOBS's analyzer finds there."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from deepobs_func import files, records
from deepobs_func.errors import ConfigError, UserError
from tests.records.test_records import NOON, files_below, make_record


@pytest.fixture
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for state, and the temporary folder, of this test alone."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "tmp").mkdir()
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return folder


@pytest.fixture
def read_only(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders that are read-only, though the tests may run as root, who may write everywhere."""
    closed: set[Path] = set()
    access = os.access

    def answer(path: Any, mode: int) -> bool:
        return Path(path) not in closed and access(path, mode)

    monkeypatch.setattr(os, "access", answer)
    return closed


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> set[Path]:
    """Folders whose disk is full: files below are made, but take nothing."""
    places: set[Path] = set()
    fsync = os.fsync

    def refuse(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if any(path.is_relative_to(place) for place in places):
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    return places


# The state folder


def test_beside_the_results_where_that_can_be_written(tmp_path: Path, elsewhere: Path) -> None:
    assert records.state_dir(tmp_path / "new" / "out") == tmp_path / "new" / "out.state"
    assert records.state_dir(str(tmp_path / "out")) == tmp_path / "out.state"
    assert list(tmp_path.iterdir()) == []


def test_a_mount_point_below_a_read_only_folder(tmp_path: Path, elsewhere: Path, read_only: set[Path]) -> None:
    output_dir = tmp_path / "out"
    output_dir.mkdir()
    read_only.add(tmp_path)
    state = records.state_dir(output_dir)
    assert state.is_relative_to(elsewhere / "state")
    assert state == records.state_dir(f"{output_dir}/") == records.state_dir(tmp_path / "x" / ".." / "out")
    assert state != records.state_dir(tmp_path / "other")
    records.check_writable(records.folder_of(make_record(), output_dir), output_dir)
    partial = records.write(make_record(extra={"status": "interrupted"}), output_dir)
    assert partial.is_relative_to(state)
    assert records.write(make_record(), output_dir).is_relative_to(output_dir)


def test_a_state_folder_that_is_there_but_read_only(tmp_path: Path, elsewhere: Path, read_only: set[Path]) -> None:
    (tmp_path / "out.state").mkdir()
    read_only.add(tmp_path / "out.state")
    assert records.state_dir(tmp_path / "out").is_relative_to(elsewhere / "state")


def test_a_file_in_the_place_of_the_state_folder(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "out.state").write_text("mine")
    assert records.state_dir(tmp_path / "out").is_relative_to(elsewhere / "state")


def test_no_folder_of_the_user_s_can_be_written(tmp_path: Path, elsewhere: Path, read_only: set[Path]) -> None:
    read_only |= {tmp_path, elsewhere}
    assert records.state_dir(tmp_path / "out").is_relative_to(elsewhere / "tmp")


def test_a_name_as_long_as_names_can_be(tmp_path: Path, elsewhere: Path) -> None:
    output_dir = tmp_path / ("x" * 252)
    assert records.state_dir(output_dir).is_relative_to(elsewhere / "state")
    assert records.write(make_record(), output_dir).is_relative_to(output_dir)


def test_the_root_of_the_file_system() -> None:
    with pytest.raises(ConfigError, match="The output folder cannot be /"):
        records.state_dir("/")


def test_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert records.output_path("~/out") == tmp_path / "out"
    assert records.state_dir("~/out") == tmp_path / "out.state"
    assert records.folder_of(make_record(), "~/out").is_relative_to(tmp_path / "out")
    assert records.write(make_record(), "~/out").is_relative_to(tmp_path / "out")
    assert records.output_path("~\0") == Path("~\0")


# Before a run


@pytest.mark.parametrize("existing", ["", "results", "results/mnist_mlp", "results/mnist_mlp/momentum"])
def test_check_writable_makes_nothing_in_the_results_tree(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).mkdir(parents=True, exist_ok=True)
    before = set(tmp_path.rglob("*"))
    output_dir = tmp_path / "results"
    records.check_writable(records.folder_of(make_record(), output_dir), output_dir)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("closed", ["", "results", "results/mnist_mlp"])
def test_check_writable_refuses_what_is_read_only(
    tmp_path: Path, elsewhere: Path, read_only: set[Path], closed: str
) -> None:
    (tmp_path / closed).mkdir(parents=True, exist_ok=True)
    read_only.add(tmp_path / closed)
    before = set(tmp_path.rglob("*"))
    output_dir = tmp_path / "results"
    with pytest.raises(ConfigError, match=r"results cannot be written .*read-only") as caught:
        records.check_writable(records.folder_of(make_record(), output_dir), output_dir)
    assert caught.value.field == "output_dir"
    assert set(tmp_path.rglob("*")) == before


# At the end of a run


def test_where_all_is_well_nothing_is_said(tmp_path: Path) -> None:
    written = records.write_anywhere(make_record(), tmp_path / "results", NOON)
    assert written == (records.folder_of(make_record(), tmp_path / "results") / written.path.name, "")


def test_a_results_tree_whose_disk_is_full(tmp_path: Path, elsewhere: Path, full: set[Path]) -> None:
    """And the state folder is on another one. Drafts are written beside the tree, so the copy is what fails."""
    full.add(tmp_path / "results")
    folder = records.folder_of(make_record(), tmp_path / "results")

    def across(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "link", across)
        path, note = records.write_anywhere(make_record(), tmp_path / "results", NOON)
    assert path == tmp_path / "results.state" / folder.relative_to(tmp_path / "results") / path.name
    assert note == f"{tmp_path / 'results'} cannot be written (No space left on device); the record is in {path}."
    assert records.read(path).train_losses == make_record().train_losses
    assert files_below(tmp_path) == [path]
    assert not (tmp_path / "results").exists(), "an empty folder was left behind"


@pytest.mark.parametrize("status", ["finished", "interrupted"])
def test_a_disk_that_is_full(tmp_path: Path, elsewhere: Path, full: set[Path], status: str) -> None:
    full.add(tmp_path)
    path, note = records.write_anywhere(make_record(extra={"status": status}), tmp_path / "results", NOON)
    assert path.is_relative_to(elsewhere / "tmp")
    assert records.read(path).status == status
    assert str(path) in note
    assert f"{tmp_path / 'results.state'} cannot be written (No space left on device)" in note
    assert (f"{tmp_path / 'results'} cannot" in note) == (status == "finished")
    assert files_below(tmp_path) == []
    assert not (tmp_path / "results").exists()


def test_a_results_tree_that_was_taken_away(tmp_path: Path, elsewhere: Path) -> None:
    (tmp_path / "results").write_text("a file now")
    path, note = records.write_anywhere(make_record(), tmp_path / "results")
    assert path.is_relative_to(tmp_path / "results.state")
    assert "results cannot be written" in note


def test_every_place_is_full(tmp_path: Path, elsewhere: Path, full: set[Path]) -> None:
    full |= {tmp_path, elsewhere}
    with pytest.raises(UserError, match=r"The record is lost: .*No space left on device"):
        records.write_anywhere(make_record(), tmp_path / "results")
    assert files_below(tmp_path) == files_below(elsewhere) == []
    assert list((elsewhere / "tmp").iterdir()) == []


def test_an_interrupt_while_it_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        records.write_anywhere(make_record(), tmp_path / "results")
    assert files_below(tmp_path) == []
    assert not (tmp_path / "results").exists()


def test_failures_of_some_never_take_the_folder_from_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each failed write takes away the empty folder that it made, while others write into it."""
    publish = files.publish

    def now_and_then(source: Path, target: Path) -> bool:
        if b'"train_losses": [-1.0]' in source.read_bytes():
            raise OSError(errno.ENOSPC, "No space left on device")
        return publish(source, target)

    monkeypatch.setattr("deepobs_func.records.writing.publish", now_and_then)

    def write(number: int) -> Path | None:
        losses = [-1.0 if number % 2 else float(number)]
        try:
            return records.write(make_record(train_losses=losses), tmp_path / "results", NOON)
        except OSError:
            return None

    with ThreadPoolExecutor(8) as pool:
        paths = [path for path in pool.map(write, range(40)) if path is not None]
    assert sorted(records.read(path).train_losses[0] for path in paths) == [float(n) for n in range(0, 40, 2)]
    assert files_below(tmp_path) == sorted(paths)


def test_a_copy_to_another_disk_is_seen_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are no hard links at all: whoever looks while it is copied sees no `*.json`."""
    seen = []
    fsync = os.fsync

    def look(descriptor: int) -> None:
        seen.extend((tmp_path / "results").rglob("*.json"))
        fsync(descriptor)

    def no_link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fsync", look)
    monkeypatch.setattr(os, "link", no_link)
    path = records.write(make_record(), tmp_path / "results")
    assert seen == []
    assert files_below(tmp_path) == [path]


# What DeepOBS's analyzer finds


def analyzed(results: Path) -> dict[tuple[str, str, str], list[float]]:
    """The mean test losses of each setting, by the rules of DeepOBS 1.1.2's analyzer.

    Whatever `os.listdir` finds is a problem, an optimizer, a setting; every `*.json` is a run and is averaged; a
    setting without one is an error.
    """
    found = {}
    for problem in os.listdir(results):
        for optimizer in os.listdir(results / problem):
            for setting in os.listdir(results / problem / optimizer):
                folder = results / problem / optimizer / setting
                runs = [json.loads((folder / name).read_text()) for name in os.listdir(folder) if ".json" in name]
                losses = [run["test_losses"] for run in runs]
                found[problem, optimizer, setting] = [fmean(values) for values in zip(*losses, strict=True)]
                assert found[problem, optimizer, setting], "a setting without a run"
    return found


def test_deepobss_analyzer_on_finished_and_unfinished_runs(tmp_path: Path) -> None:
    results = tmp_path / "results"
    base = make_record(hyperparams={})
    for seed, losses in ((42, [2.0, 1.0]), (43, [4.0, 3.0])):
        for protocol in ("default", "deepobs-1.1.2"):
            for precision in ("float32", "bf16"):
                extra = {"protocol": protocol, "configuration": {"precision": precision}}
                shift = float(protocol == "default") + 10 * (precision == "bf16")
                record = replace(base, random_seed=seed, test_losses=[loss + shift for loss in losses], extra=extra)
                records.check_writable(records.folder_of(record, results), results)
                records.write_anywhere(record, results)
    for status in ("interrupted", "failed", "stopped"):
        changes: list[dict[str, Any]] = [{}, {"learning_rate": 1.0}, {"optimizer": "adam"}, {"testproblem": "x"}]
        for change in changes:
            partial = replace(base, **change, test_losses=[9.0], extra={"status": status})
            records.check_writable(records.folder_of(partial, results), results)
            records.write_anywhere(partial, results)
    name = "num_epochs__1__batch_size__128__lr__1.e-02"
    assert analyzed(results) == {
        ("mnist_mlp", "momentum", name): [3.0, 2.0],
        ("mnist_mlp", "momentum", f"{name}__precision__bf16"): [13.0, 12.0],
        ("mnist_mlp", "momentum", f"{name}__protocol__default"): [4.0, 3.0],
        ("mnist_mlp", "momentum", f"{name}__protocol__default__precision__bf16"): [14.0, 13.0],
    }
    assert len(list((tmp_path / "results.state").rglob("*.json.partial"))) == 12
