"""SVHN: MATLAB files and DeepOBS's binary files, and every kind of file that is not what it should be."""

import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from deepobs_func import datasets, random
from deepobs_func.datasets import DatasetSpec, svhn
from deepobs_func.datasets.loading import load
from deepobs_func.datasets.torchvision_parts import torchvision_datasets
from deepobs_func.errors import DataError
from tests.datasets import cifar_files
from tests.datasets.idx_files import snapshot

KINDS = ["matlab", "binary"]
NAMES = {("matlab", "train"): "train_32x32.mat", ("matlab", "test"): "test_32x32.mat"}
NAMES |= {("binary", "train"): "data_batch_0.bin", ("binary", "test"): "test_batch.bin"}


def tiny_spec() -> DatasetSpec:
    return replace(datasets.spec("svhn"), train_size=10, test_size=4, file_sizes=(2,) * 5)


def tiny_arrays(split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images `(N, H, W, C)` and labels 1..10."""
    generator = np.random.default_rng(0 if split == "train" else 1)
    images = generator.integers(0, 256, (size, 32, 32, 3), np.uint8)
    return images, 1 + np.arange(size, dtype=np.uint8)[::-1] % 10


def write_matlab(folder: Path, extra: int = 3, *, compressed: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for split, size in (("train", 10 + extra), ("test", 4)):
        x, y = tiny_arrays(split, size)
        content = {"X": x.transpose(1, 2, 3, 0), "y": y[:, None]}
        savemat(folder / f"{split}_32x32.mat", content, do_compression=compressed)


def write_binary(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = [("train", i, f"data_batch_{i}.bin") for i in range(5)] + [("test", 0, "test_batch.bin")]
    for split, i, name in names:
        x, y = tiny_arrays(split, 13 if split == "train" else 4)
        rows = range(2 * i, 2 * i + 2) if split == "train" else range(4)
        (folder / name).write_bytes(b"".join(struct.pack("B", y[row]) + x[row].tobytes() for row in rows))


def md5s(folder: Path) -> dict[str, str]:
    return cifar_files.md5s({path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".mat"})


def read(folder: Path, split: str, checksums: dict[str, str] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """What is in the folder, every MATLAB file being as good as the official one unless checksums are given."""
    return svhn.read(tiny_spec(), folder, split, md5s(folder) if checksums is None else checksums)


def write(folder: Path, kind: str) -> None:
    write_matlab(folder) if kind == "matlab" else write_binary(folder)


@pytest.mark.parametrize("layout", ["svhn", "."])
@pytest.mark.parametrize("kind", KINDS)
def test_layouts(tmp_path: Path, kind: str, layout: str) -> None:
    write(tmp_path / layout, kind)
    loaded = load(replace(tiny_spec(), reader=partial(svhn.read, checksums=md5s(tmp_path / layout))), tmp_path)
    for split, part, size in (("train", loaded.train, 10), ("test", loaded.test, 4)):
        images, labels = tiny_arrays(split, 13 if split == "train" else 4)
        assert (part.x.shape, part.x.dtype, part.y.dtype) == ((size, 3, 32, 32), torch.uint8, torch.int64)
        np.testing.assert_array_equal(part.x.permute(0, 2, 3, 1).numpy(), images[:size])
        np.testing.assert_array_equal(part.y.numpy(), labels[:size] % 10)


def test_label_ten_is_the_digit_zero(tmp_path: Path) -> None:
    write_matlab(tmp_path)
    _, y = read(tmp_path, "train")
    assert 10 in tiny_arrays("train", 13)[1][:10]
    assert set(y.tolist()) <= set(range(10))
    assert 0 in y


def test_uncompressed_matlab_file(tmp_path: Path) -> None:
    write_matlab(tmp_path, compressed=False)
    assert read(tmp_path, "test")[0].shape == (4, 3, 32, 32)


def assert_refused(folder: Path, split: str, fragments: list[str], checksums: dict[str, str] | None = None) -> None:
    before = snapshot(folder)
    with pytest.raises(DataError) as caught:
        read(folder, split, checksums)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert snapshot(folder) == before


@settings(max_examples=25)
@given(data=st.data(), split=st.sampled_from(["train", "test"]), compressed=st.booleans())
@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_is_seen(
    tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject, split: str, compressed: bool
) -> None:
    folder = tmp_path_factory.mktemp("svhn")
    write_matlab(folder, compressed=compressed) if kind == "matlab" else write_binary(folder)
    path, checksums = folder / NAMES[kind, split], md5s(folder)
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert_refused(folder, split, [str(path), "expected", "found"], checksums)


def test_the_official_checksums_are_the_default(tmp_path: Path) -> None:
    write_matlab(tmp_path)
    with pytest.raises(DataError, match=torchvision_datasets().SVHN.split_list["train"][2]):
        svhn.read(tiny_spec(), tmp_path, "train")


def test_a_damaged_file_does_not_reach_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_matlab(tmp_path)
    checksums, path = md5s(tmp_path), tmp_path / "test_32x32.mat"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("SciPy was asked"))
    assert_refused(tmp_path, "test", [str(path), "expected the MD5", "found"], checksums)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>" * 20, bytes(1000), b"\x89HDF\r\n\x1a\n" + bytes(600)])
def test_no_matlab_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train_32x32.mat").write_bytes(content)
    assert_refused(tmp_path, "train", [str(tmp_path / "train_32x32.mat"), "expected a MATLAB 5 file"])


@pytest.mark.parametrize("variables", [{"X": np.zeros((32, 32, 3, 10), np.uint8)}, {"other": np.zeros(3)}])
def test_missing_variable(tmp_path: Path, variables: dict[str, np.ndarray]) -> None:
    savemat(tmp_path / "train_32x32.mat", variables)
    assert_refused(tmp_path, "train", ["expected a MATLAB 5 file with X and y"])


@pytest.mark.parametrize("shape", [(10, 32, 32, 3), (32, 32, 3, 9), (28, 28, 3, 10), (32, 32, 10)])
def test_matlab_arrays_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = {"X": np.zeros(shape, np.uint8), "y": np.ones((10, 1), np.uint8)}
    savemat(tmp_path / "train_32x32.mat", content)
    assert_refused(tmp_path, "train", ["(32, 32, 3, n)", str(shape)])


@pytest.mark.parametrize(
    ("split", "size", "expected"), [("train", 9, "at least 10"), ("test", 5, "4"), ("test", 3, "4")]
)
def test_wrong_number_of_images(tmp_path: Path, split: str, size: int, expected: str) -> None:
    x, y = tiny_arrays(split, size)
    savemat(tmp_path / f"{split}_32x32.mat", {"X": x.transpose(1, 2, 3, 0), "y": y[:, None]})
    assert_refused(tmp_path, split, [f"expected {expected} images, found {size}"])


def test_label_out_of_range(tmp_path: Path) -> None:
    write_binary(tmp_path)
    path = tmp_path / "test_batch.bin"
    path.write_bytes(b"\x0b" + path.read_bytes()[1:])
    assert_refused(tmp_path, "test", ["from 0 to 10", "to 11"])


def test_missing_binary_file(tmp_path: Path) -> None:
    write_binary(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    assert_refused(tmp_path, "train", ["data_batch_3.bin", "missing"])


def test_empty_folder(tmp_path: Path) -> None:
    assert_refused(tmp_path, "train", [str(tmp_path), "train_32x32.mat", "data_batch_0.bin"])


def test_download_with_checksums(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(torchvision_datasets().utils, "download_url", lambda *arguments: calls.append(arguments))
    spec = datasets.spec("svhn")
    spec.function("download")(spec, tmp_path)
    listed = torchvision_datasets().SVHN.split_list
    assert calls == [(url, str(tmp_path), name, md5) for url, name, md5 in (listed["train"], listed["test"])]


def test_digits_are_not_mirrored() -> None:
    draw = datasets.spec("svhn").function("draw")
    assert not draw(random.key(0), 100, torch.float32).flipped.any()
