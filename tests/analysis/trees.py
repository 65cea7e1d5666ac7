"""Results trees of every dialect, made by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.analysis import published
from deepobs_func.records import RunRecord, float2str, setting_name
from tests.records.test_names import BASELINES

FORMAT = "%Y-%m-%d-%H-%M-%S"
WHEN = datetime(2019, 2, 14, 12, 0, 0)
NAMES = {"sgd": "GradientDescentOptimizer", "momentum": "MomentumOptimizer", "adam": "AdamOptimizer"}


def record(
    problem: str = "mnist_mlp",
    optimizer: str = "sgd",
    *,
    lr: float = 0.1,
    seed: int = 42,
    losses: Any = (2.0, 1.0, 0.5),
    accuracies: Any = (0.1, 0.8, 0.9),
    status: str | None = "finished",
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> RunRecord:
    """A record; without a status, one of DeepOBS 1.1.2."""
    about: dict[str, Any] = {}
    if status is not None:
        configuration = {"problem": problem, "optimizer": optimizer, "lr": lr, "seed": seed}
        about = {"status": status, "protocol": "deepobs-1.1.2", "configuration": configuration}
    values = list(losses)
    found = RunRecord(
        train_losses=values,
        test_losses=values,
        minibatch_train_losses=[],
        train_accuracies=None if accuracies is None else list(accuracies),
        test_accuracies=None if accuracies is None else list(accuracies),
        optimizer=optimizer,
        testproblem=problem,
        weight_decay=None,
        batch_size=128,
        num_epochs=len(values) - 1,
        learning_rate=lr,
        lr_sched_epochs=None,
        lr_sched_factors=None,
        random_seed=seed,
        train_log_interval=10,
        hyperparams={},
        extra=about | (extra or {}),
    )
    return replace(found, **changes)


def write(root: Path, *found: RunRecord) -> list[Path]:
    """The records where `records.write` puts them, without its care: of one seed, a second later each."""
    return [_write(root, each) for each in found]


def _write(root: Path, each: RunRecord) -> Path:
    whole = each.status in ("finished", "diverged")
    folder = (root if whole else records.state_dir(root)) / records.relative_folder(each)
    for later in count():
        when = WHEN + timedelta(seconds=later)
        path = folder / f"random_seed__{each.random_seed}__{when:{FORMAT}}{'.json' if whole else '.json.partial'}"
        if not path.exists():
            return write_json(path, each.to_json())
    raise AssertionError


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def of_1_2(run: RunRecord, decay: str = "l2_reg", lr: str = "lr") -> dict[str, Any]:
    """The content of a file of DeepOBS 1.2.0-beta."""
    content = {
        "testproblem": run.testproblem,
        "batch_size": run.batch_size,
        "num_epochs": run.num_epochs,
        "random_seed": run.random_seed,
        decay: run.weight_decay,
        "optimizer_name": run.optimizer,
        "optimizer_hyperparams": {lr: run.learning_rate, **run.hyperparams},
        "training_params": {"lr_sched_epochs": [], "lr_sched_factors": []},
        "train_losses": run.train_losses,
        "valid_losses": run.test_losses,
        "test_losses": run.test_losses,
        "minibatch_train_losses": run.minibatch_train_losses,
    }
    if run.test_accuracies is not None:
        names = ("train_accuracies", "valid_accuracies", "test_accuracies")
        content |= dict.fromkeys(names, run.test_accuracies)
    return content


def name_1_2(run: RunRecord, lr: str = "lr") -> str:
    """The folder of a setting in DeepOBS 1.2.0-beta: the learning rate among the hyperparameters, sorted."""
    values = sorted({lr: run.learning_rate, **run.hyperparams}.items())
    words = [f"{name}__{float2str(value) if isinstance(value, float) else value}" for name, value in values]
    return "__".join([f"num_epochs__{run.num_epochs}", f"batch_size__{run.batch_size}", *words])


def port_path(root: Path, run: RunRecord) -> Path:
    """The file of the PyTorch port, whose numbers have no dot where none is needed."""
    name = setting_name(run).replace(".e", "e")
    return (
        root / run.testproblem / run.optimizer / name / f"random_seed__{run.random_seed}__{WHEN:%Y-%m-%d-%H-%M-%S}.json"
    )


def published_tree(root: Path) -> Path:
    """The published runs in DeepOBS's layout, as the package has them.

    There are ten seeds of one rate, and of every other rate two epochs with its best and its final value.
    """
    for problem in published.problems():
        for each in published.baselines(problem):
            for index, seed in enumerate(each.seed_numbers):
                curves = {name: runs[index] for name, runs in each.curves.items()}
                _write_published(root, each, each.lr, seed, curves)
            for lr, final, best in each.rates:
                if not math.isclose(lr, each.lr):
                    _write_published(root, each, lr, 42, {name: [best, best, final] for name in each.curves})
    return root


def _write_published(
    root: Path, each: published.Baseline, lr: float, seed: int, curves: dict[str, list[float]]
) -> None:
    about = record(
        each.problem,
        NAMES[each.optimizer],
        lr=lr,
        seed=seed,
        status=None,
        losses=curves["test_losses"],
        accuracies=curves.get("test_accuracies"),
        train_losses=curves["train_losses"],
        train_accuracies=curves.get("train_accuracies"),
        batch_size=each.batch_size,
        hyperparams=dict(each.hyperparams),
    )
    write(root, about)


def trees(sample: Path) -> list[Path]:
    """The sample, and the 1,080 published files where they lie beside the project."""
    return [sample] if BASELINES is None else [sample, BASELINES]
