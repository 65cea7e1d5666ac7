"""Small data sets in the real IDX format, for the tests of the reader and of `load`."""

import gzip
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np

from deepobs_func import datasets
from deepobs_func.datasets import DatasetSpec

Arrays = tuple[np.ndarray, np.ndarray]


def tiny_spec(name: str = "mnist") -> DatasetSpec:
    """MNIST or Fashion-MNIST with six and four examples."""
    return replace(datasets.spec(name), train_size=6, test_size=4)


def tiny_arrays(spec: DatasetSpec, split: str, seed: int = 0) -> Arrays:
    """Images `(N, 1, 28, 28)` and labels `(N,)`, uint8 both, as the files hold them."""
    size = spec.train_size if split == "train" else spec.test_size
    generator = np.random.default_rng([seed, size])
    return generator.integers(0, 256, (size, *spec.shape), np.uint8), generator.integers(0, 10, size, np.uint8)


def idx_bytes(array: np.ndarray) -> bytes:
    """The IDX format: magic number, lengths as big-endian 32-bit numbers, values."""
    lengths = b"".join(struct.pack(">I", length) for length in array.shape)
    return bytes((0, 0, 8, array.ndim)) + lengths + array.tobytes()


def write_files(folder: Path, spec: DatasetSpec, *, gzipped: bool = False, seed: int = 0) -> None:
    """Writes the four files of a data set."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, part in (("train", "train"), ("test", "t10k")):
        images, labels = tiny_arrays(spec, split, seed)
        for name, array in (("images-idx3-ubyte", images[:, 0]), ("labels-idx1-ubyte", labels)):
            content = idx_bytes(array)
            path = folder / (f"{part}-{name}.gz" if gzipped else f"{part}-{name}")
            path.write_bytes(gzip.compress(content) if gzipped else content)


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder: the bytes of its files, None for a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
