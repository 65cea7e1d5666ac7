"""The published DeepOBS baselines: 8 problems, 3 optimizers, 10 seeds each, condensed (MIT licence).

Source: the published runs of DeepOBS 1.1.2 (Schneider, Balles and Hennig, ICLR 2019), condensed by
`benchmarks/make_published.py`. They visit the mini-batches in a fixed order, so a comparison with them is honest only
under `protocol="deepobs-1.1.2"`. Their rates were tuned on the test set with seed 42, which is among the reported ones.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from deepobs_func.analysis.parsing import Parsed

SOURCE = "published"
"""The `source` of their runs."""
_PROTOCOL = "deepobs-1.1.2"
_QUANTITIES = {"test_losses": "test_loss", "test_accuracies": "test_accuracy"}
_NAMES = {  # of the same method elsewhere: ours, TensorFlow's, PyTorch's
    "sgd": ("sgd", "GradientDescentOptimizer", "SGD"),
    "momentum": ("momentum", "MomentumOptimizer"),
    "adam": ("adam", "AdamOptimizer", "Adam"),
}


class Facts(NamedTuple):
    """What is published of a problem.

    Attributes:
        quantity: by which it is judged, `"test_loss"` or `"test_accuracy"`.
        convergence_performance: the target of Speed.
        epochs, batch_size, steps_per_epoch: of every run.
    """

    quantity: str
    convergence_performance: float
    epochs: int
    batch_size: int
    steps_per_epoch: int


class Rate(NamedTuple):
    """One learning rate of the published grid, seed 42.

    Attributes:
        lr: the rate.
        final, best: of the metric after the last epoch, and the best after any, before training included.
    """

    lr: float
    final: float
    best: float


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
        curves: by `"train_losses"`, `"test_losses"` and, where there are, accuracies: a curve for each seed.
        seed_numbers: of the runs.
        rates: the grid that was searched.
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
    curves: dict[str, list[list[float]]] = field(repr=False)
    seed_numbers: list[int] = field(repr=False)
    rates: list[Rate] = field(repr=False)


@functools.cache
def _content() -> dict[str, Any]:
    text = resources.files("deepobs_func.analysis").joinpath("published.json").read_text(encoding="utf-8")
    return json.loads(text)


def problems() -> list[str]:
    """The problems for which runs are published."""
    return list(_content())


def facts(problem: str) -> Facts | None:
    """What is published of a problem; None where nothing is.

    >>> facts("mnist_vae").quantity, round(facts("mnist_vae").convergence_performance, 4)
    ('test_loss', 73.4982)
    """
    entry = _content().get(problem)
    if entry is None:
        return None
    names = ("convergence_performance", "epochs", "batch_size", "steps_per_epoch")
    return Facts(_QUANTITIES[entry["metric"]], *(entry[name] for name in names))


def counterpart(optimizer: str) -> str | None:
    """The published optimizer that is the same method as one of another name; None where there is none.

    >>> counterpart("GradientDescentOptimizer"), counterpart("lion")
    ('sgd', None)
    """
    return next((ours for ours, names in _NAMES.items() if optimizer in names), None)


@functools.cache
def baselines(problem: str) -> list[Baseline]:
    """The published settings of a problem, one for each optimizer; empty where nothing is published."""
    entry = _content().get(problem, {"optimizers": {}})
    return [_baseline(problem, entry, name) for name in entry["optimizers"]]


def _baseline(problem: str, entry: Mapping[str, Any], name: str) -> Baseline:
    values = entry["optimizers"][name]
    curves = values["curves"][entry["metric"]]
    columns = list(zip(*curves, strict=True))
    finals = columns[-1]
    return Baseline(
        problem=problem,
        optimizer=name,
        **{key: entry[key] for key in ("metric", "epochs", "batch_size")},
        **{key: values[key] for key in ("lr", "hyperparams", "curves")},
        seeds=len(curves),
        final_mean=fmean(finals),
        final_sd=stdev(finals),
        speed=fmean(_speed(curve, entry) for curve in curves),
        curve_mean=list(map(fmean, columns)),
        curve_sd=list(map(stdev, columns)),
        seed_numbers=values["seeds"],
        rates=[Rate(*each) for each in values["rates"]],
    )


def _speed(curve: Sequence[float], entry: Mapping[str, Any]) -> int:
    target, is_loss = entry["convergence_performance"], entry["metric"] == "test_losses"
    reached = (index for index, value in enumerate(curve) if (value <= target if is_loss else value >= target))
    return next(reached, len(curve))


def initial_test_loss(problem: str) -> float:
    """The published mean test loss before training, penalty included."""
    curves = [curve for baseline in baselines(problem) for curve in baseline.curves["test_losses"]]
    return fmean(curve[0] for curve in curves)


def parsed_runs() -> list[Parsed]:
    """The published runs as `reading.load` has those of files."""
    from deepobs_func.analysis.parsing import Parsed, curves_of

    return [
        Parsed(_row(baseline, number), curves_of({name: runs[number] for name, runs in baseline.curves.items()}), {})
        for problem in sorted(problems())
        for baseline in baselines(problem)
        for number in range(baseline.seeds)
    ]


def _row(baseline: Baseline, number: int) -> dict[str, Any]:
    """The facts of a run."""
    from deepobs_func.analysis.parsing import GENERATED
    from deepobs_func.records import float2str

    about = facts(baseline.problem)
    assert about is not None
    settings = "".join(f"{name}__{float2str(value)}__" for name, value in sorted(baseline.hyperparams.items()))
    return {
        "path": f"{SOURCE}/{baseline.problem}/{baseline.optimizer}/seed {baseline.seed_numbers[number]}",
        "problem": baseline.problem,
        "seed": baseline.seed_numbers[number],
        "status": "finished",
        "lr": baseline.lr,
        "hyperparams": dict(baseline.hyperparams),
        "schedule": "",
        "epochs": baseline.epochs,
        "batch_size": baseline.batch_size,
        "weight_decay": math.nan,
        "protocol": _PROTOCOL,
        "data": "generated" if baseline.problem.startswith(GENERATED) else "files",
        "precision": "float32",
        "version": "deepobs 1.1.2",
        "machine": "",
        "waiting": math.nan,
        "source": SOURCE,
        "study": {
            "budget": "published",
            "unit": "trials",
            "amount": len(baseline.rates),
            "metric": f"final {about.quantity.replace('_', ' ')}",
            "tuning_seed": 42,
            "reported_seeds": baseline.seed_numbers,
        },
        "reported": True,
        "reason": "",
        "run_id": "",
        "execution_id": "",
        "steps_per_epoch": float(about.steps_per_epoch),
        "log_interval": 1,
        "has_accuracy": "test_accuracies" in baseline.curves,
        "name": baseline.optimizer,
        "label": "",
        "family": (),
        "folder": f"num_epochs__{baseline.epochs}__batch_size__{baseline.batch_size}__{settings}"
        f"lr__{float2str(baseline.lr)}",
    }
