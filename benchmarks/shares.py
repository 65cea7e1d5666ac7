"""A share of a problem's data, for nets whose epochs take too long to be repeated, and the settings of a comparison."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deepobs_func.datasets.loading import SYNTHETIC
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.problems.problem import Problem

SHARES = {  # of an epoch; all of it where nothing is said
    "mnist_2c2d": 0.1,
    "mnist_vae": 0.05,
    "cifar10_3c3d": 0.05,
    "cifar100_allcnnc": 0.02,
    "svhn_wrn164": 0.01,
    "cifar100_wrn404": 0.01,
    "tolstoi_char_rnn": 0.1,
}
MODERN = ("cifar10_resnet18_gn", "cifar100_vit", "tolstoi_gpt")  # of the modern set, those that are measured
BATCH_SIZES = dict.fromkeys(MODERN, 64)  # where it is not the problem's own
_RATES = {"quadratic_deep": 1e-3, "two_d": 1e-6}  # by data set or problem: nothing may diverge


def learning_rate(problem: Problem) -> float:
    """One with which nothing diverges."""
    return _RATES.get(problem.name, _RATES.get(problem.dataset.name, 1e-3))


def shortened(problem: Problem, share: float) -> Problem:
    """The problem on the first examples of each split: a share of the whole, and a batch at least.

    It keeps the proportion of training to evaluation, so that a run takes that share of the time.
    """
    if share == 1:
        return problem
    spec = problem.dataset
    one = problem.batch_size if spec.sequence_length is None else problem.batch_size * spec.sequence_length + 1
    sizes: dict[str, Any] = {
        field: max(one, round(size * share))
        for field in ("train_size", "test_size", "train_eval_size")
        if (size := getattr(spec, field)) is not None
    }

    def head(short: DatasetSpec, folder: Path | None, split: str) -> tuple[Any, Any]:
        x, y = spec.function("reader")(spec, folder, split)
        size = short.train_size if split == "train" else short.test_size
        size = size if spec.sequence_length is None else size - 1
        return x[:size], y[:size]

    return replace(problem, dataset=replace(spec, reader=head, file_sizes=(), **sizes))


def data_for(problem: Problem, data: str) -> str:
    """The folder, if it has the problem's files, or else the stand-in: nothing is downloaded for a benchmark."""
    spec = problem.dataset
    if spec.generated or data == SYNTHETIC:
        return data
    homes = [Path(data) / folder for folder in spec.folders]
    there = any((home / f"{name}{end}").exists() for home in homes for name in spec.files for end in ("", ".gz"))
    return data if there else SYNTHETIC
