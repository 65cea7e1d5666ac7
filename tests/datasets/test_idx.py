"""The IDX reader, on real files that are whole and on every kind that is not."""

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st

from deepobs_func.datasets import idx
from deepobs_func.errors import DataError
from tests.datasets.idx_files import idx_bytes, snapshot, tiny_arrays, tiny_spec, write_files

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
BODY = 6 * 28 * 28
Damage = Callable[[bytes], bytes]


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_reads_what_the_files_hold(tmp_path: Path, split: str, gzipped: bool) -> None:
    spec = tiny_spec()
    write_files(tmp_path, spec, gzipped=gzipped)
    images, labels = idx.read(spec, tmp_path, split)
    expected_images, expected_labels = tiny_arrays(spec, split)
    assert (images.dtype, labels.dtype) == (np.uint8, np.int64)
    np.testing.assert_array_equal(images, expected_images)
    np.testing.assert_array_equal(labels, expected_labels)


def test_arrays_are_the_callers_own(tmp_path: Path) -> None:
    spec = tiny_spec()
    write_files(tmp_path, spec)
    images, labels = idx.read(spec, tmp_path, "train")
    assert images.flags.writeable
    assert labels.flags.writeable


@settings(deadline=None, max_examples=30)
@given(
    array=np_st.arrays(np.uint8, np_st.array_shapes(min_dims=1, max_dims=4, max_side=5)),
    gzipped=st.booleans(),
)
def test_any_bytes_survive(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray, gzipped: bool) -> None:
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if gzipped else "file")
    path.write_bytes(gzip.compress(idx_bytes(array)) if gzipped else idx_bytes(array))
    np.testing.assert_array_equal(idx.read_idx(path, array.shape), array)


@settings(deadline=None, max_examples=25)
@given(data=st.data(), gzipped=st.booleans())
def test_every_cut_is_seen(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, gzipped: bool) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)
    content = gzip.compress(idx_bytes(array)) if gzipped else idx_bytes(array)
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    path = tmp_path_factory.mktemp("idx") / ("file.gz" if gzipped else "file")
    path.write_bytes(cut)
    with pytest.raises(DataError, match=str(path)):
        idx.read_idx(path, array.shape)


DAMAGES: dict[str, tuple[str, Damage, list[str]]] = {
    "wrong magic number": (IMAGES, lambda b: b"\x00\x00\x0d\x03" + b[4:], ["0x00000803", "0x00000d03"]),
    "labels in place of images": (IMAGES, lambda b: idx_bytes(np.zeros(6, np.uint8)), ["0x00000803", "0x00000801"]),
    "empty file": (IMAGES, lambda b: b"", ["0x00000803", "found 0x"]),
    "header cut off": (IMAGES, lambda b: b[:10], ["header of 16 bytes", "found a file of 10"]),
    "body cut off": (IMAGES, lambda b: b[:-1], [f"expected {16 + BODY} bytes", f"found {16 + BODY - 1}"]),
    "something appended": (IMAGES, lambda b: b + b"??", [f"expected {16 + BODY} bytes", f"found {16 + BODY + 2}"]),
    "fewer images": (IMAGES, lambda b: idx_bytes(np.zeros((5, 28, 28), np.uint8)), ["(6, 28, 28)", "(5, 28, 28)"]),
    "images of another size": (
        IMAGES,
        lambda b: idx_bytes(np.zeros((6, 32, 32), np.uint8)),
        ["(6, 28, 28)", "(6, 32, 32)"],
    ),
    "fewer labels": (LABELS, lambda b: idx_bytes(np.zeros(5, np.uint8)), ["(6,)", "(5,)"]),
    "label out of range": (LABELS, lambda b: b[:-1] + b"\x0a", ["below 10", "found 10"]),
}


@pytest.mark.parametrize("gzipped", [False, True])
@pytest.mark.parametrize("kind", list(DAMAGES))
def test_damaged_file(tmp_path: Path, kind: str, gzipped: bool) -> None:
    name, damage, fragments = DAMAGES[kind]
    write_files(tmp_path, tiny_spec(), gzipped=gzipped)
    path = tmp_path / (f"{name}.gz" if gzipped else name)
    content = path.read_bytes()
    path.write_bytes(gzip.compress(damage(gzip.decompress(content))) if gzipped else damage(content))
    assert_refused(tmp_path, [str(path), "expected", "found", *fragments])


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda b: b[:-20], "end-of-stream"),
        (lambda b: b[:-8] + bytes(4) + b[-4:], "CRC"),
        (lambda b: b"<html>404</html>", "Not a gzipped file"),
    ],
    ids=["cut off", "wrong checksum", "no gzip"],
)
def test_corrupt_gzip(tmp_path: Path, damage: Damage, found: str) -> None:
    write_files(tmp_path, tiny_spec(), gzipped=True)
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    assert_refused(tmp_path, [str(path), "expected a readable IDX file", "found", found])


@pytest.mark.parametrize("name", tiny_spec().files)
def test_missing_file(tmp_path: Path, name: str) -> None:
    write_files(tmp_path, tiny_spec())
    (tmp_path / name).unlink()
    split = "train" if name.startswith("train") else "test"
    assert_refused(tmp_path, [str(tmp_path), name, f"{name}.gz"], split)


def test_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    write_files(tmp_path, tiny_spec())
    (tmp_path / IMAGES).unlink()
    (tmp_path / IMAGES).mkdir()
    assert_refused(tmp_path, [str(tmp_path), IMAGES])


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_offered_as_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    write_files(tmp_path, tiny_spec())
    digest = hashlib.md5((tmp_path / "t10k-labels-idx1-ubyte").read_bytes()).hexdigest()
    monkeypatch.setattr(idx, "_OWNERS", {digest: "mnist"})
    assert len(idx.read(tiny_spec("mnist"), tmp_path, split)[0]) > 0
    assert_refused(tmp_path, [str(tmp_path), "expected Fashion-MNIST", "found the files of mnist"], split, "fmnist")


def assert_refused(folder: Path, fragments: list[str], split: str = "train", name: str = "mnist") -> None:
    """A DataError whose message has all fragments, and the files as they were."""
    before = snapshot(folder)
    with pytest.raises(DataError) as caught:
        idx.read(tiny_spec(name), folder, split)
    missing = [fragment for fragment in fragments if fragment not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"
    assert snapshot(folder) == before
