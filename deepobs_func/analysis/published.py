"""The published DeepOBS baselines: 8 problems, 3 optimizers, 10 seeds each, condensed (MIT licence).

Source: the published runs of DeepOBS 1.1.2 (Schneider, Balles and Hennig, ICLR 2019), condensed by
`benchmarks/make_published.py`. They visit the mini-batches in a fixed order, so a comparison with them is honest only
under `protocol="deepobs-1.1.2"`.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Baseline:
    """One published setting, over its seeds.

    Attributes:
        problem, optimizer: names of ours (`"momentum"` for `MomentumOptimizer`).
        lr, hyperparams: as published.
        epochs, batch_size: of the run.
        metric: `"test_losses"` or `"test_accuracies"`.
        seeds: how many runs.
        final_mean, final_sd: of the metric after the last epoch; sample standard deviation (ddof 1).
        speed: the mean number of epochs to the convergence performance.
        curve_mean, curve_sd: of the metric before training and after each epoch, `epochs + 1` entries.
    """

    problem: str
    optimizer: str
    metric: str
    epochs: int
    batch_size: int
    lr: float
    hyperparams: dict[str, float]
    seeds: int
    final_mean: float
    final_sd: float
    speed: float
    curve_mean: list[float]
    curve_sd: list[float]


@functools.cache
def _content() -> dict[str, Any]:
    text = resources.files("deepobs_func.analysis").joinpath("published.json").read_text(encoding="utf-8")
    return json.loads(text)


def problems() -> list[str]:
    """The problems for which runs are published."""
    return list(_content())


def baselines(problem: str) -> list[Baseline]:
    """The published settings of a problem, one for each optimizer; empty where nothing is published."""
    entry = _content().get(problem)
    if entry is None:
        return []
    common = {key: entry[key] for key in ("metric", "epochs", "batch_size")}
    return [
        Baseline(problem=problem, optimizer=name, **common, **values) for name, values in entry["optimizers"].items()
    ]


def initial_test_loss(problem: str) -> float:
    """The published mean test loss before training, penalty included."""
    return float(_content()[problem]["initial_test_loss"])
