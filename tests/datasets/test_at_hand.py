"""What is at hand, by the names of files; and what is read to be sure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from deepobs_func import datasets
from deepobs_func.datasets.at_hand import at_hand
from deepobs_func.datasets.loading import load
from deepobs_func.datasets.verifying import digest, verify
from deepobs_func.errors import DataError
from tests.datasets.idx_files import tiny_spec, write_files
from tests.datasets.imagenet_files import tiny_spec as tiny_imagenet
from tests.datasets.imagenet_files import write_images


def test_the_states(tmp_path: Path) -> None:
    spec = datasets.spec("mnist")
    assert at_hand(spec, tmp_path).state == "no"
    write_files(tmp_path / "mnist", tiny_spec(), gzipped=True)
    found = at_hand(spec, tmp_path)
    size = sum(path.stat().st_size for path in (tmp_path / "mnist").iterdir())
    assert (found.state, found.folder, found.size) == ("yes", tmp_path / "mnist", size)
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    assert at_hand(spec, tmp_path)[1:3] == ("part", tmp_path / "mnist")
    assert at_hand(spec, tmp_path).missing == ("t10k-labels-idx1-ubyte",)
    assert at_hand(datasets.spec("quadratic"), tmp_path).state == "generated"


def test_one_of_several_layouts_is_enough(tmp_path: Path) -> None:
    (tmp_path / "cifar-10").mkdir()
    (tmp_path / "cifar-10" / "cifar-10-python.tar.gz").write_bytes(b"12345")
    assert at_hand(datasets.spec("cifar10"), tmp_path)[1:4] == ("yes", tmp_path / "cifar-10", 5)


def test_other_data_than_the_published_ones_are_told(tmp_path: Path) -> None:
    write_files(tmp_path, tiny_spec())
    found = load(tiny_spec(), tmp_path)
    right = digest(array.numpy() for split in (found.train, found.test) for array in split)
    assert verify(replace(tiny_spec(), digest=right), tmp_path) == "6 + 4 read, equal to the published data"
    write_files(tmp_path, tiny_spec(), seed=1)
    with pytest.raises(DataError, match=f"expected data of the SHA-256 {right}"):
        verify(replace(tiny_spec(), digest=right), tmp_path)


def test_streamed_files_are_counted(tmp_path: Path) -> None:
    write_images(tmp_path / "imagenet", tiny_imagenet())
    assert verify(tiny_imagenet(), tmp_path) == "6 + 3 files counted, none decoded"
    next((tmp_path / "imagenet").rglob("*.JPEG")).unlink()
    from deepobs_func.datasets.imagenet import list_images

    list_images.cache_clear()  # a process does not look twice
    with pytest.raises(DataError, match="images"):
        verify(tiny_imagenet(), tmp_path)
