"""From a data folder to tensors: layouts, precedence, download on first use, stand-in."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deepobs_func import datasets
from deepobs_func.datasets import DatasetSpec
from deepobs_func.datasets.at_hand import locate
from deepobs_func.datasets.loading import load
from deepobs_func.errors import DataError
from tests.datasets.idx_files import snapshot, tiny_arrays, tiny_spec, write_files

Download = Callable[[DatasetSpec, Path], None]


def no_download(spec: DatasetSpec, folder: Path) -> None:
    raise AssertionError("nothing may be downloaded here")


def failing_download(spec: DatasetSpec, folder: Path) -> None:
    (folder / spec.files[0]).write_bytes(b"half a file")
    raise OSError("no route to host")


def with_download(download: Download, name: str = "mnist") -> DatasetSpec:
    return replace(tiny_spec(name), download=download)


@pytest.mark.parametrize(
    ("name", "layout"),
    [("mnist", "mnist"), ("mnist", "MNIST/raw"), ("mnist", "."), ("fmnist", "fmnist"), ("fmnist", "FashionMNIST/raw")],
)
def test_layouts(tmp_path: Path, name: str, layout: str) -> None:
    spec = with_download(no_download, name)
    write_files(tmp_path / layout, spec)
    loaded = load(spec, tmp_path)
    assert (loaded.source, loaded.synthetic) == ("files", False)
    for split, (x, y) in (("train", loaded.train), ("test", loaded.test)):
        images, labels = tiny_arrays(spec, split)
        assert torch.equal(x, torch.from_numpy(images))
        assert torch.equal(y, torch.from_numpy(labels).long())


def test_precedence(tmp_path: Path) -> None:
    spec = with_download(no_download)
    found = []
    for seed, layout in enumerate([".", "MNIST/raw", "mnist"]):
        write_files(tmp_path / layout, spec, seed=seed)
        assert torch.equal(load(spec, tmp_path).train.x, torch.from_numpy(tiny_arrays(spec, "train", seed)[0]))
        found.append(locate(spec, tmp_path))
    assert found == [tmp_path, tmp_path / "MNIST/raw", tmp_path / "mnist"]


def test_a_set_is_not_taken_for_the_other(tmp_path: Path) -> None:
    write_files(tmp_path / "mnist", tiny_spec())
    with pytest.raises(DataError, match="Fashion-MNIST is not in"):
        load(with_download(failing_download, "fmnist"), tmp_path)


@pytest.mark.parametrize("data", ["files", "synthetic"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_tensors_are_on_the_device(tmp_path: Path, data: str, device: str) -> None:
    spec = with_download(no_download)
    write_files(tmp_path, spec)
    loaded = load(spec, "synthetic" if data == "synthetic" else tmp_path, device)
    for (x, y), size in ((loaded.train, 6), (loaded.test, 4)):
        assert (x.shape, x.dtype, x.device.type) == ((size, 1, 28, 28), torch.uint8, device)
        assert (y.shape, y.dtype, y.device.type) == ((size,), torch.int64, device)


def test_synthetic_reads_and_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load(with_download(no_download), "synthetic")
    assert (loaded.source, loaded.synthetic) == ("synthetic", True)
    assert snapshot(tmp_path) == {}


@pytest.mark.parametrize("data", ["/nowhere", "synthetic"])
@pytest.mark.parametrize(("name", "shape"), [("quadratic", (1000, 100)), ("two_d", (10000,))])
def test_generated_sets_ignore_the_data_folder(name: str, shape: tuple[int, ...], data: str) -> None:
    loaded = load(datasets.spec(name), data)
    assert (loaded.source, loaded.synthetic) == ("generated", False)
    assert (loaded.train.x.shape, loaded.test.x.shape) == (shape, shape)
    assert loaded.train.x.dtype == loaded.train.y.dtype == torch.float32


@pytest.mark.parametrize("data", [".", "new/folder"])
def test_download_on_first_use(tmp_path: Path, data: str) -> None:
    calls = []

    def download(spec: DatasetSpec, folder: Path) -> None:
        assert list(folder.iterdir()) == []
        calls.append(folder)
        write_files(folder, spec, gzipped=True)

    spec = with_download(download)
    first, second = load(spec, tmp_path / data), load(spec, tmp_path / data)
    assert len(calls) == 1
    assert not calls[0].exists()
    assert torch.equal(first.train.x, second.train.x)
    files = {path.relative_to(tmp_path / data) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {Path("mnist") / f"{name}.gz" for name in spec.files}


@pytest.mark.parametrize("data", [".", "new/folder"])
@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("File not found or corrupted.")])
def test_failed_download_leaves_nothing_behind(tmp_path: Path, data: str, error: Exception) -> None:
    def download(spec: DatasetSpec, folder: Path) -> None:
        (folder / spec.files[0]).write_bytes(b"half a file")
        raise error

    with pytest.raises(DataError) as caught:
        load(with_download(download), tmp_path / data)
    message = str(caught.value)
    assert all(part in message for part in ("MNIST", str(tmp_path / data), str(error), "mnist", "data synthetic"))
    assert snapshot(tmp_path) == {}


def test_download_overwrites_no_file(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    (tmp_path / "mnist" / "notes.txt").write_text("mine")

    def download(spec: DatasetSpec, folder: Path) -> None:
        (folder / "notes.txt").write_text("theirs")

    before = snapshot(tmp_path)
    with pytest.raises(DataError):
        load(with_download(download), tmp_path)
    assert snapshot(tmp_path) == before


def test_two_downloads_at_once(tmp_path: Path) -> None:
    """Two runs started together on a fresh machine: the second finds the files of the first when it is done."""

    def download(spec: DatasetSpec, folder: Path) -> None:
        write_files(folder, spec)
        write_files(tmp_path / "mnist", spec)  # the other process is a little faster

    spec = with_download(download)
    assert torch.equal(load(spec, tmp_path).train.x, torch.from_numpy(tiny_arrays(spec, "train")[0]))


def test_half_present_folder_is_not_downloaded_over(tmp_path: Path) -> None:
    spec = with_download(no_download)
    write_files(tmp_path / "mnist", spec)
    (tmp_path / "mnist" / spec.files[3]).unlink()
    before = snapshot(tmp_path)
    with pytest.raises(DataError, match=f"{spec.files[3]}.gz"):
        load(spec, tmp_path)
    assert snapshot(tmp_path) == before


def test_data_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mnist.zip"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"mnist\.zip is no folder.*synthetic"):
        load(with_download(no_download), path)
