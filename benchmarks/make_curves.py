"""Records short runs on real data of problems of which nothing is published, for the catalogue of the site.

python -m benchmarks.make_curves --data DIR [--device cuda] [PROBLEM ...]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from deepobs_func import RunConfig, run
from deepobs_func.runner.execution import Execution

RESULTS = Path(__file__).parent / "results" / "curves.json"
OPTIMIZER, LR, EPOCHS = "adam", 1e-3, 5
PROBLEMS = ("mnist_logreg", "fmnist_logreg", "mnist_mlp", "fmnist_mlp", "mnist_2c2d")


def recorded(problem: str, data: str, device: str = "cpu") -> dict[str, Any]:
    """The curves of a run, with what they follow from."""
    config = RunConfig(problem, OPTIMIZER, lr=LR, epochs=EPOCHS, data=data, output_dir=None, device=device)
    record = run(config, execution=Execution()).record
    return {
        "optimizer": OPTIMIZER,
        "lr": LR,
        "epochs": EPOCHS,
        "batch_size": record.batch_size,
        "seed": config.seed,
        "device": device,
        "protocol": config.protocol,
        "torch": torch.__version__.partition("+")[0],
        "train_losses": record.train_losses,
        "test_losses": record.test_losses,
        "test_accuracies": record.test_accuracies,
    }


def main() -> None:
    """Adds the curves of the problems that are named to those that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("problems", nargs="*", default=PROBLEMS)
    parser.add_argument("--data", required=True, help="the folder of the data sets")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    given = parser.parse_args()
    for problem in given.problems:
        found = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
        found[problem] = recorded(problem, given.data, given.device)
        RESULTS.write_text(json.dumps(dict(sorted(found.items())), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
