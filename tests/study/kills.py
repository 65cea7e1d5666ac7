"""A sweep killed at random moments: nothing is lost, double or torn, and all equals the undisturbed sweep.

`python -m tests.study.kills --count 30` kills the sweep or one of its workers by SIGKILL so many times.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.study import Study

NUMBERS = ("train_losses", "test_losses", "minibatch_train_losses", "train_accuracies", "test_accuracies")


def study(output_dir: Path, epochs: int = 12) -> Study:
    """24 runs: a quadratic, a net with noise and a small one; checkpoints every few steps."""
    return Study(
        ["quadratic_deep", "two_d_rosenbrock"],
        {"momentum": {"lr": [1e-3, 1e-4]}, "torch.optim.Adam": {"lr": [0.01, 0.001]}},
        seeds=3,
        output_dir=str(output_dir),
        epochs=epochs,
        compile="off",
        checkpoint_every="7steps",
        train_log_interval=3,
    )


def main_of_sweep(folder: str, epochs: int) -> None:
    """What the process that is killed does."""
    from deepobs_func.study.sweeping import sweep

    sweep(study(Path(folder), epochs), jobs=2)


def start(folder: Path, epochs: int) -> subprocess.Popen[bytes]:
    code = f"from tests.study.kills import main_of_sweep; main_of_sweep({str(folder)!r}, {epochs})"
    return subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)


def children(pid: int) -> list[int]:
    try:
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def results(folder: Path) -> dict[str, Any]:
    """By run id, the numbers of each finished record; every file must be whole, and every run there once."""
    found, count = {}, Counter[str]()
    for path in folder.rglob("*"):
        if path.is_dir():
            continue
        assert path.suffix == ".json", f"{path} does not belong into a results tree"
        record = records.read(path)
        run_id = record.extra["run_id"]
        count[run_id] += 1
        found[run_id] = json.dumps([getattr(record, name) for name in NUMBERS])
    assert all(number == 1 for number in count.values()), f"runs that were written twice: {count.most_common(3)}"
    return found


def killed(folder: Path, count: int, epochs: int, rng: random.Random, longest: float) -> int:
    """Runs the sweep to its end over so many kills; returns how many hit it."""
    hits = 0
    for _ in range(count):
        process = start(folder, epochs)
        deadline = time.monotonic() + rng.uniform(0.0, longest)
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        if process.poll() is not None:
            continue  # it was through
        workers = children(process.pid)
        target = rng.choice([process.pid, *workers])
        os.kill(target, signal.SIGKILL)
        hits += 1
        if target != process.pid:  # the sweep goes on; it is stopped a moment later, to be started again
            time.sleep(rng.uniform(0.0, 2.0))
            if process.poll() is None:
                process.kill()
        process.wait()
    process = start(folder, epochs)
    assert process.wait() == 0, "the last sweep ends in order"
    return hits


def main() -> None:
    """Kills and compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--longest", type=float, default=12.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        undisturbed, disturbed = Path(place, "undisturbed"), Path(place, "disturbed")
        assert start(undisturbed, given.epochs).wait() == 0
        rng = random.Random(given.seed)
        hits = killed(disturbed, given.count, given.epochs, rng, given.longest)
        expected, found = results(undisturbed), results(disturbed)
        equal = sum(found.get(run_id) == numbers for run_id, numbers in expected.items())
        print(f"{hits} kills; {len(found)} of {len(expected)} runs there; {equal} equal, bit for bit")
        assert found == expected


if __name__ == "__main__":
    main()
