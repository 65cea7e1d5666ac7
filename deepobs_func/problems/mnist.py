"""The problems on MNIST and Fashion-MNIST: two data sets, four nets."""

from __future__ import annotations

from typing import Any

from deepobs_func.probes.catalog import HVPMode
from deepobs_func.problems.spec import KEYED_EVALUATION, ONE_FILE, WRONG_DATA, Deviation, ProblemSpec

_DENSE: HVPMode = "reverse-over-reverse"  # the faster one without convolutions


def _classifier(dataset: str, name: str, net: str, parameters: int, epochs: int, **options: Any) -> ProblemSpec:
    loss = "deepobs_func.problems.measures:cross_entropy"
    return ProblemSpec(
        f"{dataset}_{name}", dataset, f"deepobs_func.nets.{net}", loss, parameters, epochs, 128, **options
    )


def _logreg(dataset: str, *, chosen: bool) -> ProblemSpec:
    return _classifier(
        dataset,
        "logreg",
        "mlp:logreg",
        7_850,
        50,
        defaults_chosen_here=chosen,
        hvp_mode=_DENSE,
        deviations=ONE_FILE,
    )


def _mlp(dataset: str, *quirks: Deviation) -> ProblemSpec:
    return _classifier(
        dataset,
        "mlp",
        "mlp:mlp",
        1_336_610,
        100,
        hvp_mode=_DENSE,
        deviations=(*ONE_FILE, *quirks),
    )


def _2c2d(dataset: str) -> ProblemSpec:
    return _classifier(dataset, "2c2d", "cnn:Net2c2d", 3_274_634, 100, deviations=ONE_FILE)


def _vae(dataset: str, epochs: int) -> ProblemSpec:
    return ProblemSpec(
        f"{dataset}_vae",
        dataset,
        "deepobs_func.nets.vae:VAE",
        "deepobs_func.problems.measures:vae",
        10_151_489,
        epochs,
        64,
        accuracy=False,
        deviations=(*ONE_FILE, KEYED_EVALUATION),
    )


SPECS = (
    _logreg("mnist", chosen=False),
    _mlp("mnist"),
    _2c2d("mnist"),
    _vae("mnist", 50),
    _logreg("fmnist", chosen=True),
    _mlp("fmnist", WRONG_DATA),
    _2c2d("fmnist"),
    _vae("fmnist", 100),
)
