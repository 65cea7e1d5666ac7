"""The array script of Slurm, under a stand-in for `sbatch` that runs each task as Slurm would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepobs_func.errors import ConfigError, UserError
from deepobs_func.study.engines import slurm
from deepobs_func.study.engines.slurm import Array, script, submit

SBATCH = """#!/usr/bin/env bash
# Runs each task of the array, one after the other.
range=$(sed -n 's/^#SBATCH --array=0-//p' "$1")
for task in $(seq 0 "$range"); do SLURM_ARRAY_TASK_ID=$task bash "$1" || exit 1; done
echo "Submitted batch job 1"
"""
SPEC = """
problems: [two_d_beale]
optimizers: {adam: {lr: [0.1, 0.01, 0.001]}}
seeds: 1
epochs: 1
output_dir: results
"""


def stand_in(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "bin" / "sbatch"
    path.parent.mkdir()
    path.write_text(text)
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.large
def test_the_tasks_share_the_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, SBATCH, monkeypatch)
    (tmp_path / "spec.yaml").write_text(SPEC)
    call = [*slurm.this_command(), "sweep", "spec.yaml", "--engine", "slurm", "--tasks", "2", "--time", "1:00:00"]
    found = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "Submitted batch job 1\n"
    assert len(list((tmp_path / "results").rglob("*.json"))) == 3
    assert "#SBATCH --time=1:00:00" in (tmp_path / "results.state" / "study" / "sweep.sh").read_text()


def test_a_term_signal_reaches_the_sweep(tmp_path: Path) -> None:
    code = "import signal, sys; signal.signal(15, lambda *_: sys.exit(9)); print(1, flush=True); signal.pause()"
    path = tmp_path / "sweep.sh"
    path.write_text(script([sys.executable, "-c", code], Array(1), tmp_path, tmp_path))
    process = subprocess.Popen(
        ["bash", str(path)], stdout=subprocess.PIPE, text=True, env=os.environ | {"SLURM_ARRAY_TASK_ID": "0"}
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.terminate()
    assert process.wait(30) == 9


def test_odd_folders_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "a 'folder'"
    folder.mkdir()
    path = folder / "sweep.sh"
    path.write_text(script(["pwd", "my spec"], Array(1), folder, folder))
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert "'my spec'" in path.read_text()


@pytest.mark.parametrize(
    "array", [Array(0), Array(1, cpus=0), Array(1, options=("rm -rf x",)), Array(1, memory="8G\nrm -rf x")]
)
def test_wrong_options_are_refused(array: Array) -> None:
    with pytest.raises(ConfigError):
        script(["deepobs"], array, Path("logs"), Path("/"))


def test_a_machine_without_slurm_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs sbatch, which is not on the PATH"):
        submit(tmp_path / "x.sh")


def test_what_sbatch_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, "#!/bin/sh\necho 'invalid partition' >&2\nexit 1\n", monkeypatch)
    with pytest.raises(UserError, match="invalid partition"):
        submit(tmp_path / "x.sh")
