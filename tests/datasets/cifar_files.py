"""Small CIFAR data sets in the real formats: pickles, binary records and archives."""

import hashlib
import io
import pickle
import tarfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from deepobs_func import datasets
from deepobs_func.datasets import DatasetSpec, cifar

Arrays = tuple[np.ndarray, np.ndarray]
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}
TRAIN = {"cifar10": [f"data_batch_{i}" for i in range(1, 6)], "cifar100": ["train"]}
TEST = {"cifar10": "test_batch", "cifar100": "test"}


def tiny_arrays(spec: DatasetSpec, split: str, seed: int = 0) -> Arrays:
    """Images `(N, 3, 32, 32)` uint8 and class ids `(N,)` int64."""
    size = spec.train_size if split == "train" else spec.test_size
    generator = np.random.default_rng([seed, size])
    return (
        generator.integers(0, 256, (size, 3, 32, 32), np.uint8),
        generator.integers(0, spec.num_classes, size, np.int64),
    )


def pickled(name: str, x: np.ndarray, y: np.ndarray) -> bytes:
    """A batch as the python version holds it; CIFAR-100 has coarse labels too."""
    entry: dict[str, object] = {"data": x.reshape(len(x), -1)}
    if name == "cifar10":
        entry |= {"labels": y.tolist()}
    else:
        entry |= {"coarse_labels": (y // 5).tolist(), "fine_labels": y.tolist()}
    return pickle.dumps(entry, protocol=2)


def binary(name: str, x: np.ndarray, y: np.ndarray) -> bytes:
    """A batch as the binary version holds it, one record at a time."""
    heads = [bytes((int(label),)) if name == "cifar10" else bytes((int(label) // 5, int(label))) for label in y]
    return b"".join(head + image.tobytes() for head, image in zip(heads, x, strict=True))


def contents(spec: DatasetSpec, version: str, seed: int = 0) -> dict[str, bytes]:
    """All batch files of a set by name."""
    files, encode = {}, pickled if version == "python" else binary
    suffix = "" if version == "python" else ".bin"
    x, y = tiny_arrays(spec, "train", seed)
    names = TRAIN[spec.name]
    for name, images, labels in zip(names, np.split(x, len(names)), np.split(y, len(names)), strict=True):
        files[name + suffix] = encode(spec.name, images, labels)
    files[TEST[spec.name] + suffix] = encode(spec.name, *tiny_arrays(spec, "test", seed))
    return files


def md5s(files: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in files.items()}


def tiny_spec(name: str, seed: int = 0) -> DatasetSpec:
    """Ten and four examples; its reader knows the MD5s of the files that the tests write."""
    sizes = (2,) * 5 if name == "cifar10" else ()
    spec = replace(datasets.spec(name), train_size=10, test_size=4, file_sizes=sizes)
    return replace(spec, reader=partial(cifar.read, checksums=md5s(contents(spec, "python", seed))))


def write_files(folder: Path, spec: DatasetSpec, version: str, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents(spec, version, seed).items():
        (folder / name).write_bytes(content)


def tar(members: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """A `.tar.gz` of files by path, after symbolic links to the given targets."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path, target in (links or {}).items():
            link = tarfile.TarInfo(path)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
        for path, content in members.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_archive(folder: Path, spec: DatasetSpec, version: str) -> Path:
    """Writes the official archive: the batch files in their folder, and a readme."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = FOLDERS[spec.name, version]
    members = {f"{inner}/{name}": content for name, content in contents(spec, version).items()}
    path = folder / f"{spec.folders[0]}-{version}.tar.gz"
    path.write_bytes(tar({f"{inner}/readme.html": b"hello", **members}))
    return path
