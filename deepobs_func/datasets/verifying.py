"""Whether the files of a data set are whole and hold the published data: everything is read once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from deepobs_func.datasets.loading import check_stream, load
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError


def verify(spec: DatasetSpec, data: str | Path) -> str:
    """Reads a data set, as a run does, and compares it with the published one where that can be done.

    The readers of CIFAR and SVHN compare each file with its published MD5; that of War and Peace compares length and
    symbols. Of a streamed set the images are counted, none is decoded.

    Args:
        spec: the data set; its files are at hand.
        data: the data folder.

    Returns:
        What was read, in words.

    Raises:
        DataError: a file is missing, cut off or of another kind, or the data are others than the published ones.
    """
    counts = f"{spec.train_size:,} + {spec.test_size:,}"
    if spec.streamed:
        check_stream(spec, data)
        return f"{counts} files counted, none decoded"
    found = load(spec, data)
    splits = f"{len(found.train.x):,} + {len(found.test.x):,} read"
    if not spec.digest:
        return splits
    seen = digest(array.numpy() for split in (found.train, found.test) for array in split)
    if seen != spec.digest:
        raise DataError(
            f"{spec.title} in {data}: expected data of the SHA-256 {spec.digest}, found {seen}. The files are whole, "
            "but hold other data than the published ones; get them again."
        )
    return f"{splits}, equal to the published data"


def digest(arrays: Iterable[np.ndarray]) -> str:
    """The SHA-256 of the types, the shapes and the numbers of some arrays, in order."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.dtype.str} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()
