"""`deepobs sweep`, `status`, `logs`, `cancel`, `merge`: by hand, with wrong input too."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepobs_func import cli
from tests.command import Deepobs
from tests.test_cli import MAIN

SPEC = """
problems: [two_d_beale]
optimizers:
  adam: {lr: [0.1, 0.01]}
  tests.study.optimizers_that_fail:Raises: {lr: 0.001}
seeds: 1
epochs: 1
retries: 0
compile: "off"
output_dir: results
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(SPEC)
    return path


def test_a_study_from_beginning_to_end(deepobs: Deepobs, spec: Path) -> None:
    dry = deepobs("sweep", "spec.yaml", "--dry-run")
    assert dry.code == 0
    assert "two_d_beale  adam: 2 settings x 1 seeds = 2 runs" in dry.out
    assert "3 runs in results: 3 waiting." in dry.out
    assert not Path("results").exists()
    swept = deepobs("sweep", "spec.yaml")
    assert swept.code == 1
    assert "results: 2 finished, 1 failed." in swept.out
    assert "RuntimeError: no more of this" in swept.err
    status = deepobs("status")
    assert "3 runs, 2 finished, 1 failed" in status.out
    rows = json.loads(deepobs("status", "results", "--json").out)
    assert [row["stage"] for row in rows] == ["finished", "finished", "failed"]
    assert "in go_wrong" in deepobs("logs", "results").out
    assert "in go_wrong" in deepobs("logs", "results", rows[2]["run_id"][:8]).out
    assert "3 runs in results: 2 finished, 1 failed." in deepobs("sweep", "spec.yaml", "--dry-run").out
    assert deepobs("cancel", "results").out == "1 of 3 runs are cancelled; the others have ended.\n"
    assert deepobs("merge", "all", "results").out == "2 runs copied into all; 0 were there.\n"


DRY = """
problems: [tests.study.user_code:few_images]
optimizers: {sgd: {lr: 0.1}, adam: {lr: 0.1}}
epochs: 1
data: data
"""


def test_a_dry_run_says_once_what_data_are_missing(deepobs: Deepobs, tmp_path: Path) -> None:
    Path("spec.yaml").write_text(DRY)
    found = deepobs("sweep", "spec.yaml", "--dry-run")
    assert found.code == 0
    assert found.out.startswith("MNIST is not in data; 2 runs need it.")
    assert found.out.count("is not in data") == 1
    assert "few_images  adam: 1 runs of about" in found.out
    assert not Path("data").exists()


def test_a_dry_run_says_once_what_data_cannot_be_read(deepobs: Deepobs, tmp_path: Path) -> None:
    Path("spec.yaml").write_text(DRY)
    truncated = Path("data", "mnist", "train-images-idx3-ubyte")
    truncated.parent.mkdir(parents=True)
    truncated.write_bytes(b"no images")
    found = deepobs("sweep", "spec.yaml", "--dry-run")
    assert found.code == 0
    assert "few_images  sgd: 1 runs that cannot be timed: data/mnist has neither" in found.out
    assert "few_images  adam: 1 runs that cannot be timed either" in found.out
    assert found.out.count("has neither") == 1
    assert "In eager code" not in found.out
    assert ".py:" not in found.out
    assert truncated.read_bytes() == b"no images"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("sweep nowhere.yaml", "nowhere.yaml"),
        ("sweep spec.yaml --jobs 0", "--jobs 0: it must be a whole number from 1."),
        ("sweep spec.yaml --threads 0", "--threads 0: it must be a whole number from 1."),
        ("sweep spec.yaml --engine condor", "--engine condor: it must be one of processes, ray, slurm."),
        ("sweep spec.yaml --share 3/2", "--share 3/2: it must be I/N with I from 0 to N - 1."),
        ("sweep spec.yaml --share half", "no share of the runs, such as 0/4"),
        ("sweep spec.yaml --engine slurm --tasks 0", "--tasks 0: it must be a whole number from 1."),
        ("sweep spec.yaml --emit x.sh", "--emit is of --engine slurm, not of processes: leave one out."),
        ("sweep spec.yaml --cpus 2", "--cpus is of --engine ray or slurm, not of processes"),
        ("sweep spec.yaml --gpus 1", "--gpus is of --engine ray or slurm, not of processes"),
        ("sweep spec.yaml --memory 8G", "--memory is of --engine slurm, not of processes"),
        ("sweep spec.yaml --time 1:00", "--time is of --engine slurm, not of processes"),
        ("sweep spec.yaml --ray-address auto", "--ray-address is of --engine ray, not of processes"),
        ("sweep spec.yaml --engine ray --jobs 2", "--jobs is of --engine processes or slurm, not of ray"),
        ("sweep spec.yaml --engine ray --threads 2", "--threads is of --engine processes or slurm, not of ray"),
        ("sweep spec.yaml --engine slurm --share 0/2", "--share is of --engine processes or ray, not of slurm"),
        ("sweep spec.yaml --engine slurm --gpus 0.5", "--gpus 0.5: Slurm gives whole GPUs."),
        ("sweep spec.yaml --engine slurm --emit nope/x.sh", "nope/x.sh cannot be written (No such file or directory)"),
        ("status", "No study was run in results."),
        ("logs results", "No study was run in results."),
        ("cancel results", "No study was run in results."),
        ("merge results nowhere", "nowhere is no folder."),
    ],
)
def test_mistakes_are_one_line(deepobs: Deepobs, spec: Path, arguments: str, words: str) -> None:
    found = deepobs(*arguments.split())
    assert found.code == 2
    assert words in found.err
    assert "Traceback" not in found.err


def test_a_missing_engine_names_its_extra(deepobs: Deepobs, spec: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    found = deepobs("sweep", "spec.yaml", "--engine", "ray")
    assert found.code == 2
    assert "pip install 'deepobs-func[ray]'" in found.err


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.mark.large
def test_a_signal_ends_a_sweep_and_the_same_command_goes_on(tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(
        "problems: [quadratic_deep]\noptimizers: {adam: {lr: 0.01}}\nepochs: 4000\ncompile: 'off'\n"
    )
    process = subprocess.Popen(
        [*MAIN, "sweep", "spec.yaml"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parents[2])},
    )
    wait_for(lambda: bool(list(tmp_path.rglob("now"))))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    assert len(list(tmp_path.rglob("*.json.partial"))) == 1
    assert not (tmp_path / "results").exists()
