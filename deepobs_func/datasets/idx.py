"""The IDX files of MNIST and Fashion-MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np

from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError

_UBYTE = 0x08  # IDX's code for unsigned bytes, the only kind that these data sets use
_PARTS = {"train": "train", "test": "t10k"}

# Both sets use the same file names, so a folder can hold the wrong one. The test labels tell, by MD5: MNIST's unpacked,
# Fashion-MNIST's as they are published, gzipped (torchvision lists the latter).
_OWNERS = {"27ae3e4e09519cfbb04c329615203637": "mnist", "bb300cfdad3c16e7a12a480ee83cd310": "fmnist"}


def read(spec: DatasetSpec, folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split.

    Args:
        spec: the data set, whose sizes the files must have.
        folder: where the four files lie.
        split: `"train"` or `"test"`.

    Returns:
        Images `(N, 1, 28, 28)` uint8 and class ids `(N,)` int64.

    Raises:
        DataError: a file is missing, truncated, of another kind or size, or belongs to another data set.
    """
    size = spec.train_size if split == "train" else spec.test_size
    images_path = find(folder, f"{_PARTS[split]}-images-idx3-ubyte")
    labels_path = find(folder, f"{_PARTS[split]}-labels-idx1-ubyte")
    _check_owner(spec, find(folder, "t10k-labels-idx1-ubyte"))
    images = read_idx(images_path, (size, *spec.shape[1:])).reshape(size, *spec.shape)
    labels = read_idx(labels_path, (size,))
    if labels.max() >= (spec.num_classes or 0):
        raise DataError(f"{labels_path}: expected class ids below {spec.num_classes}, found {labels.max()}.")
    return images, labels.astype(np.int64)


def find(folder: Path, name: str) -> Path:
    """The file of that name, unpacked or gzipped.

    Raises:
        DataError: there is neither.
    """
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder} has neither {name} nor {name}.gz. Put the missing file there, or name another folder.")


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads an IDX file of unsigned bytes.

    The format: a magic number of four bytes (two zeros, the type, the number of axes), the length of each axis as a
    big-endian 32-bit number, then the values.

    Args:
        path: the file, gzipped if its name ends in `.gz`.
        shape: what the file must hold.

    Raises:
        DataError: anything else is there; the message names the file, what was expected and what was found.
    """
    content = _content(path)
    magic, header = bytes((0, 0, _UBYTE, len(shape))), 4 + 4 * len(shape)
    if content[:4] != magic:
        raise DataError(
            f"{path}: expected the magic number 0x{magic.hex()} of an IDX file of {len(shape)} axes of bytes, "
            f"found 0x{content[:4].hex()}. Get the original file."
        )
    if len(content) < header:
        raise DataError(f"{path}: expected a header of {header} bytes, found a file of {len(content)}. It is cut off.")
    found = tuple(int(length) for length in np.frombuffer(content, ">u4", len(shape), 4))
    if found != shape:
        raise DataError(f"{path}: expected the shape {shape}, found {found} in its header. Get the original file.")
    if len(content) != header + math.prod(shape):
        raise DataError(
            f"{path}: expected {header + math.prod(shape)} bytes for the shape {shape}, found {len(content)}. "
            "The file is cut off or has something appended; get it again."
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _content(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: expected a readable IDX file, found: {error}. Get the file again.") from error


def _check_owner(spec: DatasetSpec, labels_path: Path) -> None:
    sums = [
        hashlib.md5(data, usedforsecurity=False).hexdigest()
        for data in (_content(labels_path), labels_path.read_bytes())
    ]
    owner = next((_OWNERS[md5] for md5 in sums if md5 in _OWNERS), spec.name)
    if owner != spec.name:
        raise DataError(
            f"{labels_path.parent}: expected {spec.title}, found the files of {owner}. Both have the same file names; "
            f"put those of {spec.title} into a folder named {spec.folders[0]!r} and name the folder above it."
        )
