"""Results trees of runs that were never made: records with the curves that a test asks for."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepobs_func.records import RunRecord


def record(
    problem: str,
    optimizer: str,
    curve: Sequence[float],
    *,
    seed: int = 42,
    lr: float = 0.1,
    accuracy: bool = False,
    **extra: Any,
) -> RunRecord:
    """A record whose test loss, or accuracy, is a curve; the training loss is twice the test loss."""
    losses = [1.0 - value if accuracy else value for value in curve]
    accuracies = list(curve) if accuracy else None
    status = "finished" if all(map(math.isfinite, curve)) else "diverged"
    return RunRecord(
        train_losses=[2 * value for value in losses],
        test_losses=losses,
        minibatch_train_losses=[],
        train_accuracies=accuracies,
        test_accuracies=accuracies,
        optimizer=optimizer,
        testproblem=problem,
        weight_decay=None,
        batch_size=128,
        num_epochs=len(curve) - 1,
        learning_rate=lr,
        lr_sched_epochs=None,
        lr_sched_factors=None,
        random_seed=seed,
        train_log_interval=10,
        hyperparams={},
        extra={
            "status": status,
            "protocol": "default",
            "configuration": {"problem": problem, "optimizer": optimizer, "lr": lr, "hyperparams": {}, "seed": seed},
            "environment": {"deepobs_func": "0.1.0", "torch": "2.13.0"},
            "timings": {"train": [0.5] * (len(curve) - 1)},
            "calls": {"gradients": [7 * (epoch + 1) for epoch in range(len(curve) - 1)]},
            **extra,
        },
    )


def write(folder: Path, records: Sequence[RunRecord]) -> Path:
    """Writes records, each under a name of its own.

    Returns:
        The folder.
    """
    for number, each in enumerate(records):
        path = folder / each.testproblem / f"optimizer {number}" / f"random_seed__{each.random_seed}__{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(each.to_json()), encoding="utf-8")
    return folder


def curves(level: float, seeds: int, *, epochs: int = 6, spread: float = 0.02, key: int = 0) -> list[list[float]]:
    """Curves from 1 that end near a level, one a seed."""
    draw = np.random.default_rng([key, seeds, epochs])
    ends = level + spread * draw.normal(size=(seeds, 1))
    shape = np.linspace(1.0, 0.0, epochs + 1) ** 2
    noise = 0.2 * spread * draw.normal(size=(seeds, epochs + 1))
    noise[:, 0] = 0.0
    return (ends + (1.0 - ends) * shape + noise).tolist()


def benchmark(
    levels: Mapping[str, Mapping[str, float]], *, seeds: int = 4, accuracy: Sequence[str] = (), **how: Any
) -> list[RunRecord]:
    """Runs of several optimizers on several problems.

    Args:
        levels: `levels[problem][optimizer]`, near which curves end.
        seeds: of each.
        accuracy: the problems that are judged by the accuracy.
        how: as for `curves`.
    """
    found = []
    for number, (problem, row) in enumerate(levels.items()):
        for place, (optimizer, level) in enumerate(row.items()):
            for seed, curve in enumerate(curves(level, seeds, key=100 * number + place, **how)):
                values = [1.0 - value for value in curve] if problem in accuracy else curve
                found.append(record(problem, optimizer, values, seed=42 + seed, accuracy=problem in accuracy))
    return found
