"""CIFAR-10 and CIFAR-100: the python version (pickles), the binary version, and their archives.

Source of the formats: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepobs_func.datasets.archive import unpack
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError

Arrays = tuple[np.ndarray, np.ndarray]
_PIXELS = 3 * 32 * 32


class _Version(NamedTuple):
    """One of the two forms in which a data set is published."""

    archive: str
    folder: str  # what the archive unpacks to
    files: Mapping[str, tuple[str, ...]]  # by split
    binary: bool


class _Layout(NamedTuple):
    torchvision: str  # the class that lists the MD5 of every pickle
    label_key: str  # in a pickle
    label_bytes: int  # before the pixels of a binary record; the last one counts
    versions: tuple[_Version, ...]  # in the order in which they are looked for


def _ten(suffix: str) -> dict[str, tuple[str, ...]]:
    return {"train": tuple(f"data_batch_{i}{suffix}" for i in range(1, 6)), "test": (f"test_batch{suffix}",)}


_LAYOUTS = {
    "cifar10": _Layout(
        "CIFAR10",
        "labels",
        1,
        (
            _Version("cifar-10-python.tar.gz", "cifar-10-batches-py", _ten(""), False),
            _Version("cifar-10-binary.tar.gz", "cifar-10-batches-bin", _ten(".bin"), True),
        ),
    ),
    "cifar100": _Layout(
        "CIFAR100",
        "fine_labels",
        2,
        (
            _Version("cifar-100-python.tar.gz", "cifar-100-python", {"train": ("train",), "test": ("test",)}, False),
            _Version(
                "cifar-100-binary.tar.gz", "cifar-100-binary", {"train": ("train.bin",), "test": ("test.bin",)}, True
            ),
        ),
    ),
}


def read(spec: DatasetSpec, folder: Path, split: str, checksums: Mapping[str, str] | None = None) -> Arrays:
    """Reads one split of the python or the binary version.

    An archive that is not unpacked yet is unpacked beside itself first.

    Args:
        spec: the data set, whose sizes the files must have.
        folder: where the batch files, their folder or the archive lie.
        split: `"train"` or `"test"`.
        checksums: the MD5 of every pickle by its file name; None for those of the official files, as torchvision
            lists them. Unpickling can run any code, so no other pickle is opened.

    Returns:
        Images `(N, 3, 32, 32)` uint8 and class ids `(N,)` int64, the fine ones for CIFAR-100.

    Raises:
        DataError: a file is missing, truncated, of another kind or size, or a pickle that is not the official one.
    """
    layout, size = _LAYOUTS[spec.name], spec.train_size if split == "train" else spec.test_size
    version, home = _find(spec, folder, split)
    names = version.files[split]
    sizes = spec.file_sizes if split == "train" and spec.file_sizes else (size,)
    if version.binary:
        parts = [_binary(home / name, n, layout.label_bytes) for name, n in zip(names, sizes, strict=True)]
    else:
        known = _official(layout) if checksums is None else checksums
        parts = [_pickled(home / name, n, layout.label_key, known) for name, n in zip(names, sizes, strict=True)]
    images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    wrong = labels[(labels < 0) | (labels >= (spec.num_classes or 0))]
    if len(wrong):
        raise DataError(f"{home}: expected class ids from 0 to below {spec.num_classes}, found {wrong[0]}.")
    return images.reshape(size, *spec.shape), labels


def _find(spec: DatasetSpec, folder: Path, split: str) -> tuple[_Version, Path]:
    """The version of which there is a file, and where; an archive is unpacked."""
    versions = _LAYOUTS[spec.name].versions
    for version in versions:
        for home in (folder, folder / version.folder):
            if any((home / name).is_file() for names in version.files.values() for name in names):
                return version, home
    for version in versions:
        if (folder / version.archive).is_file():
            names = [name for names in version.files.values() for name in names]
            return version, unpack(folder / version.archive, version.folder, names)
    wanted = ", ".join(f"{version.files[split][0]} or {version.archive}" for version in versions)
    raise DataError(f"{folder} has no file of {spec.title}: {wanted}. Put them there, or name another folder.")


def _official(layout: _Layout) -> dict[str, str]:
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    kind = getattr(torchvision_datasets(), layout.torchvision)
    return dict(kind.train_list + kind.test_list)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: expected a readable file, found: {error}. Put the missing file there.") from error


def _binary(path: Path, size: int, label_bytes: int) -> Arrays:
    """Records of label bytes and pixels, `C, H, W` row by row."""
    content, record = _content(path), label_bytes + _PIXELS
    if len(content) != size * record:
        raise DataError(
            f"{path}: expected {size * record} bytes ({size} records of {record}), found {len(content)}. "
            "The file is cut off or of another kind; get it again."
        )
    records = np.frombuffer(content, np.uint8).reshape(size, record)
    return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)


def _pickled(path: Path, size: int, label_key: str, checksums: Mapping[str, str]) -> Arrays:
    """A dictionary of `data`, `(n, 3072)` uint8, and a list of labels; these very bytes are checked, then unpickled."""
    content = _content(path)
    expected, found = checksums[path.name], hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{path}: expected the MD5 {expected} of the official file, found {found}. It is cut off or from "
            "elsewhere, and such a pickle can run any code, so it is not opened; get the official archive again."
        )
    entry = pickle.loads(content, encoding="latin1")
    data, labels = np.asarray(entry["data"]), np.asarray(entry[label_key], np.int64)
    if data.shape != (size, _PIXELS) or data.dtype != np.uint8 or labels.shape != (size,):
        raise DataError(
            f"{path}: expected {size} images of {_PIXELS} bytes and their labels, "
            f"found {data.shape} {data.dtype} and {labels.shape}."
        )
    return data, labels
