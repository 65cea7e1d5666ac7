"""Condenses the published DeepOBS baselines into the package's `analysis/published.json`.

    python benchmarks/make_published.py BASELINES_DIR

BASELINES_DIR holds the 1,080 published runs in their original layout and `convergence_performance.json`. For each
problem and optimizer the curves of the setting that was rerun with ten seeds are kept, and of every learning rate the
final and the best value of the metric. Test curves have the seven digits of the published files, training curves five.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from deepobs_func import records

TARGET = Path(__file__).parents[1] / "deepobs_func" / "analysis" / "published.json"
NAMES = {"GradientDescentOptimizer": "sgd", "MomentumOptimizer": "momentum", "AdamOptimizer": "adam"}
STEPS = {  # an epoch
    "quadratic_deep": 7,
    "mnist_vae": 937,
    "fmnist_2c2d": 468,
    "cifar10_3c3d": 390,
    "fmnist_vae": 937,
    "cifar100_allcnnc": 195,
    "svhn_wrn164": 500,
    "tolstoi_char_rnn": 1045,
}
DIGITS = {"train_losses": 5, "train_accuracies": 5, "test_losses": 7, "test_accuracies": 7}


def settings_of(folder: Path) -> list[list[records.RunRecord]]:
    """The runs of each setting, by seed."""
    found = [[records.read(path) for path in sorted(setting.glob("*.json"))] for setting in folder.iterdir()]
    return sorted(found, key=lambda runs: runs[0].learning_rate)


def rounded(values: list[float], digits: int) -> list[float]:
    """Values to so many digits."""
    return [float(f"{value:.{digits}g}") for value in values]


def condense(settings: list[list[records.RunRecord]], metric: str) -> dict[str, Any]:
    """The setting with the most seeds, and the final and the best value of each learning rate with the first seed."""
    kept = max(settings, key=len)
    best = max if metric == "test_accuracies" else min
    curves = {name: [getattr(run, name) for run in kept] for name in DIGITS if getattr(kept[0], name) is not None}
    rates = [(runs[0].learning_rate, getattr(runs[0], metric)) for runs in settings]
    return {
        "lr": kept[0].learning_rate,
        "hyperparams": {k: v for k, v in kept[0].hyperparams.items() if k != "use_nesterov"},
        "seeds": [run.random_seed for run in kept],
        "rates": [[lr, *rounded([values[-1], best(values)], 7)] for lr, values in rates],
        "curves": {name: [rounded(run, DIGITS[name]) for run in runs] for name, runs in curves.items()},
    }


def main(baselines: Path) -> None:
    """Writes the file."""
    performances = json.loads((baselines / "convergence_performance.json").read_text())
    content = {}
    for name, performance in performances.items():
        settings = {ours: settings_of(baselines / name / theirs) for theirs, ours in NAMES.items()}
        first = settings["sgd"][0][0]
        metric = "test_losses" if first.test_accuracies is None else "test_accuracies"
        content[name] = {
            "metric": metric,
            "epochs": first.num_epochs,
            "batch_size": first.batch_size,
            "steps_per_epoch": STEPS[name],
            "convergence_performance": performance,
            "optimizers": {ours: condense(found, metric) for ours, found in settings.items()},
        }
    text = json.dumps(content, indent=1)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\s+", "", match[0]), text)  # a line for each list
    TARGET.write_text(text + "\n")
    print(f"{TARGET}: {TARGET.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
