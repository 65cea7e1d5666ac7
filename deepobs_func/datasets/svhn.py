"""SVHN's cropped digits: the published MATLAB files, and the binary files of DeepOBS's preparation script.

Source of the formats: http://ufldl.stanford.edu/housenumbers, and DeepOBS 1.1.2, `datasets/svhn.py`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]
_SIDE, _RECORD = 32, 1 + 32 * 32 * 3
_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, NotImplementedError, MemoryError, zlib.error)


def read(spec: DatasetSpec, folder: Path, split: str, checksums: Mapping[str, str] | None = None) -> Arrays:
    """Reads one split from the MATLAB file, or else from DeepOBS's binary files.

    Args:
        spec: the data set; the training files may hold more images than its `train_size`, of which the first count.
        folder: where `train_32x32.mat` and `test_32x32.mat`, or `data_batch_0.bin` .. and `test_batch.bin` lie.
        split: `"train"` or `"test"`.
        checksums: the MD5 of every MATLAB file by its name; None for those of the official files, as torchvision lists
            them. SciPy's reader of MATLAB files can crash the whole process on a damaged one, so it sees no other.

    Returns:
        Images `(N, 3, 32, 32)` uint8 and the digits `(N,)` int64; label 10 of the files is the digit 0.

    Raises:
        DataError: a file is missing, truncated, of another kind or size.
    """
    matlab = folder / f"{split}_32x32.mat"
    sizes = spec.file_sizes if split == "train" else (spec.test_size,)
    names = [f"data_batch_{i}.bin" for i in range(len(sizes))] if split == "train" else ["test_batch.bin"]
    if matlab.is_file():
        _check(matlab, (_official() if checksums is None else checksums)[matlab.name])
        x, y = _matlab(matlab, sum(sizes), exact=split == "test")
    elif (folder / names[0]).is_file():
        parts = [_binary(folder / name, size) for name, size in zip(names, sizes, strict=True)]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    else:
        raise DataError(f"{folder} has neither {matlab.name} nor {names[0]}. Put one there, or name another folder.")
    if y.min() < 0 or y.max() > 10:
        raise DataError(f"{folder}: expected labels from 0 to 10 in {split}, found {y.min()} to {y.max()}.")
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2)), np.where(y == 10, 0, y)


def _official() -> dict[str, str]:
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    return {name: md5 for _, name, md5 in torchvision_datasets().SVHN.split_list.values()}


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(
            f"{path}: expected the MD5 {expected} of the official file, found {found}. It is cut off or from "
            "elsewhere; get it again."
        )


def _matlab(path: Path, size: int, *, exact: bool) -> Arrays:
    """Images `(size, H, W, C)` and labels as they are stored: `X`, `(H, W, C, n)`, and `y`, `(n, 1)`."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path, variable_names=["X", "y"])
        x, y = content["X"], content["y"].ravel().astype(np.int64)
    except (*_DAMAGE, MatReadError) as error:
        raise DataError(f"{path}: expected a MATLAB 5 file with X and y, found: {error!r}. Get it again.") from error
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[:3] != (_SIDE, _SIDE, 3) or x.shape[3:] != y.shape:
        raise DataError(
            f"{path}: expected X of the shape (32, 32, 3, n) uint8 and as many labels y, "
            f"found {x.shape} {x.dtype} and {y.shape}."
        )
    if len(y) < size or (exact and len(y) > size):
        raise DataError(f"{path}: expected {'' if exact else 'at least '}{size} images, found {len(y)}.")
    return x.transpose(3, 0, 1, 2)[:size], y[:size]


def _binary(path: Path, size: int) -> Arrays:
    """Records of a label byte and pixels, `H, W, C` row by row."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error}. Put the missing file there.") from error
    if len(content) != size * _RECORD:
        raise DataError(
            f"{path}: expected {size * _RECORD} bytes ({size} records of {_RECORD}), found {len(content)}. "
            "The file is cut off or of another kind; prepare it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(size, _RECORD)
    return records[:, 1:].reshape(size, _SIDE, _SIDE, 3), records[:, 0].astype(np.int64)
