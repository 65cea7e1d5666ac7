"""The problems on MNIST and Fashion-MNIST: two data sets, four nets."""

from __future__ import annotations

from deepobs_func.probes.rows import HVPMode
from deepobs_func.problems.rows import KEYED_EVALUATION, ONE_FILE, WRONG_DATA, Row

_CROSS_ENTROPY = "deepobs_func.problems.measures:cross_entropy"
_VAE = "deepobs_func.problems.measures:vae"
_DENSE: HVPMode = "reverse-over-reverse"  # the faster one without convolutions

ROWS = (
    Row(
        "mnist_logreg",
        "mnist",
        "deepobs_func.nets.mlp:logreg",
        _CROSS_ENTROPY,
        7_850,
        50,
        128,
        hvp_mode=_DENSE,
        deviations=ONE_FILE,
    ),
    Row(
        "mnist_mlp",
        "mnist",
        "deepobs_func.nets.mlp:mlp",
        _CROSS_ENTROPY,
        1_336_610,
        100,
        128,
        hvp_mode=_DENSE,
        deviations=ONE_FILE,
    ),
    Row(
        "mnist_2c2d", "mnist", "deepobs_func.nets.cnn:Net2c2d", _CROSS_ENTROPY, 3_274_634, 100, 128, deviations=ONE_FILE
    ),
    Row(
        "mnist_vae",
        "mnist",
        "deepobs_func.nets.vae:VAE",
        _VAE,
        10_151_489,
        50,
        64,
        accuracy=False,
        deviations=(*ONE_FILE, KEYED_EVALUATION),
    ),
    Row(
        "fmnist_logreg",
        "fmnist",
        "deepobs_func.nets.mlp:logreg",
        _CROSS_ENTROPY,
        7_850,
        50,
        128,
        defaults_chosen_here=True,
        hvp_mode=_DENSE,
        deviations=ONE_FILE,
    ),
    Row(
        "fmnist_mlp",
        "fmnist",
        "deepobs_func.nets.mlp:mlp",
        _CROSS_ENTROPY,
        1_336_610,
        100,
        128,
        hvp_mode=_DENSE,
        deviations=(*ONE_FILE, WRONG_DATA),
    ),
    Row(
        "fmnist_2c2d",
        "fmnist",
        "deepobs_func.nets.cnn:Net2c2d",
        _CROSS_ENTROPY,
        3_274_634,
        100,
        128,
        deviations=ONE_FILE,
    ),
    Row(
        "fmnist_vae",
        "fmnist",
        "deepobs_func.nets.vae:VAE",
        _VAE,
        10_151_489,
        100,
        64,
        accuracy=False,
        deviations=(*ONE_FILE, KEYED_EVALUATION),
    ),
)
