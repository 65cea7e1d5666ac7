"""Condenses the published DeepOBS baselines into the package's `analysis/published.json`.

    python benchmarks/make_published.py BASELINES_DIR

BASELINES_DIR holds the 1,080 published runs in their original layout and `convergence_performance.json`. For each
problem and optimizer the setting that was rerun with ten seeds is kept: final value, speed and the test curve, each as
mean and sample standard deviation (ddof 1) over the seeds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from deepobs_func import records

TARGET = Path(__file__).parents[1] / "deepobs_func" / "analysis" / "published.json"
NAMES = {"GradientDescentOptimizer": "sgd", "MomentumOptimizer": "momentum", "AdamOptimizer": "adam"}


def seeds_of(folder: Path) -> list[records.RunRecord]:
    """The runs of the setting with the most seeds."""
    settings = [[records.read(path) for path in sorted(setting.glob("*.json"))] for setting in folder.iterdir()]
    return max(settings, key=len)


def condense(runs: list[records.RunRecord], performance: float) -> dict[str, object]:
    """Mean and deviation over seeds of final value, speed and curve."""
    first = runs[0]
    higher_is_better = first.test_accuracies is not None
    curves = np.array([run.test_accuracies if higher_is_better else run.test_losses for run in runs])
    reached = curves >= performance if higher_is_better else curves <= performance
    speeds = np.where(reached.any(1), reached.argmax(1), first.num_epochs + 1)
    return {
        "lr": first.learning_rate,
        "hyperparams": {k: v for k, v in first.hyperparams.items() if k != "use_nesterov"},
        "seeds": len(runs),
        "final_mean": round(float(curves[:, -1].mean()), 7),
        "final_sd": round(float(curves[:, -1].std(ddof=1)), 7),
        "speed": round(float(speeds.mean()), 4),
        "curve_mean": [float(f"{value:.6g}") for value in curves.mean(0)],
        "curve_sd": [float(f"{value:.4g}") for value in curves.std(0, ddof=1)],
    }


def main(baselines: Path) -> None:
    """Writes the file."""
    performances = json.loads((baselines / "convergence_performance.json").read_text())
    content = {}
    for name, performance in performances.items():
        runs = {ours: seeds_of(baselines / name / theirs) for theirs, ours in NAMES.items()}
        first = runs["sgd"][0]
        content[name] = {
            "metric": "test_losses" if first.test_accuracies is None else "test_accuracies",
            "epochs": first.num_epochs,
            "batch_size": first.batch_size,
            "convergence_performance": performance,
            "initial_test_loss": round(
                float(np.mean([run.test_losses[0] for kept in runs.values() for run in kept])), 4
            ),
            "optimizers": {ours: condense(found, performance) for ours, found in runs.items()},
        }
    TARGET.write_text(json.dumps(content, indent=1) + "\n")
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
