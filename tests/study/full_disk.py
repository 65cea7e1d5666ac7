"""A sweep on a disk that fills: it pauses, says so, and goes on when there is room; the old files stay whole.

    unshare --map-root-user --mount python -m tests.study.full_disk

The disk is a small tmpfs, mounted for this process alone; that needs no root where user namespaces are allowed.
With `--system ext4` it is a file of that file system, which root can mount.
After some records a file takes what is left of it, byte by byte, is there for a while, and is removed. Then all equals
a sweep on a disk that never filled, bit for bit, and no run has failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deepobs_func.study.ledger import Ledger
from tests.study.kills import results

SIZE = "64M"  # more than `study.disk.ROOM`
ALONE, TOGETHER = "alone", "together"


def main_of_sweep(folder: str, how: str) -> None:
    """What the process does: runs by themselves, with checkpoints, or populations."""
    from deepobs_func.study import Study
    from deepobs_func.study.sweeping import sweep

    optimizer = "torch.optim.Adam" if how == ALONE else "adam"
    rates = [1e-4 * 1.1**k for k in range(12)]
    study = Study(
        ["quadratic_deep", "two_d_rosenbrock"],
        {optimizer: {"lr": rates}},
        seeds=2,
        output_dir=folder,
        epochs=30,
        compile="off",
        checkpoint_every="20steps" if how == ALONE else "auto",
        train_log_interval=5,
        track=["grad_norm"] if how == ALONE else [],
    )
    swept = sweep(study, jobs=2, tell=lambda line: print(line, flush=True))
    print(swept.counts(), flush=True)


def start(folder: Path, how: str) -> subprocess.Popen[str]:
    code = f"from tests.study.full_disk import main_of_sweep; main_of_sweep({str(folder)!r}, {how!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def fill(path: Path) -> int:
    """Writes until there is no byte left; returns how many were written."""
    with path.open("ab", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return path.stat().st_size


def main() -> None:
    """Fills, makes room and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="that the disk is full")
    parser.add_argument("--records", type=int, default=3, help="that are there when it fills")
    parser.add_argument("--system", default="tmpfs")
    parser.add_argument("--how", nargs="*", default=[ALONE, TOGETHER])
    given = parser.parse_args()
    for how in given.how:
        with tempfile.TemporaryDirectory() as place:
            os.environ["DEEPOBS_CACHE"], os.environ["TMPDIR"] = f"{place}/cache", place
            disk = Path(place, "disk")
            disk.mkdir()
            whole = start(Path(place, "whole"), how)
            print("undisturbed:", whole.communicate()[0], flush=True)
            mount(given.system, disk)
            try:
                full(disk, Path(place, "whole"), how, given.records, given.seconds)
            finally:
                subprocess.run(["umount", str(disk)], check=True)


def mount(system: str, disk: Path) -> None:
    options = ["-o", f"size={SIZE}", "tmpfs"]
    if system != "tmpfs":
        image = disk.with_name("image")
        subprocess.run(["truncate", "-s", SIZE, str(image)], check=True)
        subprocess.run([f"mkfs.{system}", "-q", "-m", "0", str(image)], check=True)
        options = ["-o", "loop", str(image)]
    subprocess.run(["mount", "-t", system, *options, str(disk)], check=True)


def full(disk: Path, whole: Path, how: str, records: int, seconds: float) -> None:
    filler, folder = disk / "filler", disk / "results"
    filler.write_bytes(bytes(40 * 2**20))  # so that a few more fill it
    # How runs are executed is measured once a study, and decides rounding.
    shutil.copytree(Ledger(str(whole)).choices, Ledger(str(folder)).choices)
    process = start(folder, how)
    while len(list(folder.rglob("*.json"))) < records and process.poll() is None:
        time.sleep(0.02)
    fill(filler)
    before = {path: path.read_bytes() for path in folder.rglob("*.json")}
    print(f"{how}: the disk is full, with {len(before)} records", flush=True)
    time.sleep(seconds)
    during = len(list(folder.rglob("*.json")))
    assert process.poll() is None, process.communicate()[0]
    assert all(path.read_bytes() == content for path, content in before.items()), "an old file has changed"
    filler.unlink()
    said = process.communicate()[0]
    print(f"{during} records while it was full. {said}", flush=True)
    assert process.returncode == 0
    assert "The sweep is paused" in said
    assert "the sweep goes on" in said
    assert "failed" not in said, "a run paid for the disk"
    expected, found = results(whole), results(folder)
    equal = sum(found.get(run_id) == numbers for run_id, numbers in expected.items())
    print(f"{how}: {len(found)} of {len(expected)} runs there; {equal} equal, bit for bit", flush=True)
    assert found == expected
    assert all(path.read_bytes() == content for path, content in before.items())
    assert not list(folder.parent.rglob("*.tmp")), "half a file"


if __name__ == "__main__":
    main()
