"""The rules of DeepOBS 1.1.2's analyzer, written down a second time: every `*.json` of every folder counts, and an
empty folder, a missing key or a shorter run is the end.

Compared with `deepobs.analyzer.analyze_utils` of the package deepobs 1.1.2 itself on the 1,080 published files: all 72
entries of its tables are equal, in the modes most, final and best.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

BY_LOSS = ("quadratic_deep", "mnist_vae", "fmnist_vae")


class Entry(NamedTuple):
    performance: float
    speed: float
    tuneability: dict[str, Any]


class Aggregate(NamedTuple):
    means: list[float]
    runs: int
    speed: float
    lr: float
    hyperparams: dict[str, Any]


Tree = dict[tuple[str, str], list[Aggregate]]


def read(root: Path, targets: dict[str, float]) -> Tree:
    """A results folder; what DeepOBS's analyzer would die of is an error."""
    found: Tree = {}
    for problem in os.listdir(root):
        if os.path.isdir(root / problem):
            for optimizer in os.listdir(root / problem):
                found[problem, optimizer] = [
                    aggregate(root / problem / optimizer / setting, problem, targets.get(problem, 0.0))
                    for setting in os.listdir(root / problem / optimizer)
                ]
    return found


def table(tree: Tree, mode: str) -> dict[tuple[str, str], Entry]:
    """DeepOBS's table."""
    found = {}
    for (problem, optimizer), settings in tree.items():
        chosen = choose(settings, mode, problem in BY_LOSS)
        tuneability = {"lr": f"{chosen.lr:0.2e}", **chosen.hyperparams}
        found[problem, optimizer] = Entry(chosen.means[-1], chosen.speed, tuneability)
    return found


def aggregate(folder: Path, problem: str, target: float) -> Aggregate:
    metric = "test_losses" if problem in BY_LOSS else "test_accuracies"
    runs = [json.loads((folder / name).read_text()) for name in os.listdir(folder) if name.endswith(".json")]
    for run in runs:
        assert isinstance(run["train_losses"] and run["optimizer"] and run["testproblem"], str)
    curves = [run[metric] for run in runs]
    assert len({len(curve) for curve in curves}) == 1, f"{folder}: ragged"
    speeds = []
    for curve in curves:
        good = [value <= target if problem in BY_LOSS else value >= target for value in curve]
        speeds.append(good.index(True) if True in good else len(curve))
    means = [sum(column) / len(column) for column in zip(*curves, strict=True)]
    return Aggregate(means, len(runs), sum(speeds) / len(speeds), runs[0]["learning_rate"], runs[0]["hyperparams"])


def choose(settings: list[Aggregate], mode: str, by_loss: bool) -> Aggregate:
    """The first setting that is better than all before it; NaN never is."""
    best, kept = float("inf"), None
    for each in settings:
        if mode == "most":
            value: float = -each.runs
        else:
            value = (min if by_loss else max)(each.means) if mode == "best" else each.means[-1]
            value = value if by_loss else -value
        if value < best:
            best, kept = value, each
    assert kept is not None
    return kept
