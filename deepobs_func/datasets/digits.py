"""Handwritten digits of 8 x 8 pixels, which come with this package."""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path

import numpy as np

from deepobs_func.datasets.spec import DatasetSpec

FILE = "digits.csv.gz"


def read(spec: DatasetSpec, folder: Path | None, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split: the first `train_size` of the 1,797 digits are for training, the others for testing.

    They come in the order of the source, people one after the other, so that the test set has other hands than most of
    the training set.

    Args:
        spec: the data set, whose sizes are taken.
        folder: not looked at.
        split: `"train"` or `"test"`.

    Returns:
        Images `(N, 1, 8, 8)` uint8 with values 0..16, how many of 4 x 4 pixels are black, and class ids `(N,)` int64.

    Source: the test set of E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, 1998, doi:10.24432/C50P49, under CC BY 4.0; the file is the one of scikit-learn.
    """
    packed = resources.files("deepobs_func.datasets").joinpath(FILE).read_bytes()
    table = np.loadtxt(gzip.decompress(packed).decode("ascii").splitlines(), np.uint8, delimiter=",")
    part = table[: spec.train_size] if split == "train" else table[spec.train_size :][: spec.test_size]
    return part[:, :-1].reshape(-1, *spec.shape), part[:, -1].astype(np.int64)
