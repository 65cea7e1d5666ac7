"""`deepobs run` on streamed data: mistakes found at once, files found broken later, Ctrl-C with workers running."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import deepobs_func
from deepobs_func import records
from tests.command import Deepobs
from tests.datasets.imagenet_files import cut
from tests.runner.streamed import write_pictures
from tests.runner.test_batches import trained_only
from tests.test_cli import MAIN, _hear_interrupts, snapshot

ROOT = Path(deepobs_func.__file__).parents[1]
PICTURES = "tests.runner.streamed:pictures"
OPTIONS = ("--optimizer", "sgd", "--lr", "0.1")


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (["--data", "nowhere"], ["ImageNet is not in nowhere", "imagenet/train/<wnid>/*.JPEG", "synthetic"]),
        (["--data", "pictures"], ["train: expected 1000 folders", "found 3"]),
        (["--data", "pictures", "--workers", "-1"], ["--workers -1", "from 0"]),
        (["--data", "pictures", "--batch-size", "50001"], ["--batch-size 50001", "50000 test", "at most 50000"]),
    ],
)
def test_a_mistake_is_found_before_anything_is_done(
    tmp_path: Path, deepobs: Deepobs, options: list[str], fragments: list[str]
) -> None:
    write_pictures(tmp_path / "pictures")
    before = snapshot(tmp_path)
    code, out, err = deepobs("run", "imagenet_vgg16", *OPTIONS, *options)
    assert (code, out) == (2, "")
    assert [fragment for fragment in fragments if fragment not in err] == []
    assert (err.startswith("Error: "), err.count("\n")) == (True, 1)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("workers", ["0", pytest.param("2", marks=pytest.mark.large)])
def test_a_broken_file_ends_the_run_with_2_and_its_name(tmp_path: Path, deepobs: Deepobs, workers: str) -> None:
    data = write_pictures(tmp_path / "data")
    path = cut(sorted((data / "train").rglob("*.JPEG"))[trained_only(42)])
    code, out, err = deepobs("run", PICTURES, *OPTIONS, "--data", str(data), "--workers", workers)
    assert code == 2
    assert out.splitlines()[2].startswith("epoch 0/2  ")
    (kept,) = (tmp_path / "results.state").rglob("*.partial")
    first, second = err.splitlines()
    assert first.startswith(f"Error: {path}: expected a whole JPEG image, found: ")
    assert second == f"The run failed; what it did so far is in {kept}."
    assert records.read(kept).status == "failed"


@pytest.mark.large
def test_the_workers_are_taken_over_and_do_not_change_where_the_record_lies(tmp_path: Path, deepobs: Deepobs) -> None:
    data = write_pictures(tmp_path / "data")
    for workers in ("0", "1"):
        command = ("run", PICTURES, *OPTIONS, "--data", str(data), "--workers", workers, "--quiet")
        assert deepobs(*command)[::2] == (0, "")
    found = [records.read(path) for path in sorted((tmp_path / "results").rglob("*.json"))]
    assert [record.extra["configuration"]["workers"] for record in found] == [0, 1]
    assert len({record.path.parent for record in found if record.path}) == 1
    assert len({record.extra["run_id"] for record in found}) == 1


@pytest.mark.large
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_of_the_whole_group_keeps_the_epochs_and_leaves_no_process(
    tmp_path: Path, number: signal.Signals
) -> None:
    """As a terminal sends Ctrl-C, and a batch system its SIGTERM: to the workers too."""
    data = write_pictures(tmp_path / "data")
    command = (*MAIN, "run", PICTURES, *OPTIONS, "--data", str(data), "--workers", "2")
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--compile", "off"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_hear_interrupts,
    )
    assert process.stdout is not None
    try:
        while "epoch 1/" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.05)
        os.killpg(process.pid, number)
        _, err = process.communicate(timeout=60)
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)  # nobody is left in the group
    finally:
        process.kill()
    assert process.returncode == 130, err
    interrupted, how = err.splitlines()
    (path,) = tmp_path.rglob("*.json.partial")
    assert records.read(path).status == "interrupted"
    assert interrupted.startswith("Run interrupted after ")
    assert str(path) in interrupted
    assert how.startswith("Go on with: deepobs resume ")
