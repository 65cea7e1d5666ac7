"""CIFAR-10 and CIFAR-100: both versions, all layouts, and every kind of file that is not what it should be."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import datasets
from deepobs_func.datasets import cifar
from deepobs_func.datasets.at_hand import locate
from deepobs_func.datasets.loading import load
from deepobs_func.datasets.torchvision_parts import torchvision_datasets
from deepobs_func.errors import DataError
from tests.datasets import cifar_files
from tests.datasets.cifar_files import FOLDERS, tiny_arrays, tiny_spec, write_archive, write_files
from tests.datasets.idx_files import snapshot

SETS = ["cifar10", "cifar100"]
VERSIONS = ["python", "binary"]
RECORD = {"cifar10": 3073, "cifar100": 3074}
FIRST = {"cifar10": "data_batch_1", "cifar100": "train"}


def layouts(name: str, version: str) -> list[str]:
    home, inner = datasets.spec(name).folders[0], FOLDERS[name, version]
    return [home, inner, f"{home}/{inner}", "."]


@pytest.mark.parametrize(
    ("name", "version", "layout"), [(n, v, layout) for n in SETS for v in VERSIONS for layout in layouts(n, v)]
)
def test_layouts(tmp_path: Path, name: str, version: str, layout: str) -> None:
    spec = tiny_spec(name)
    write_files(tmp_path / layout, spec, version)
    loaded = load(spec, tmp_path)
    for split, part in (("train", loaded.train), ("test", loaded.test)):
        images, labels = tiny_arrays(spec, split)
        assert (part.x.dtype, part.y.dtype) == (torch.uint8, torch.int64)
        np.testing.assert_array_equal(part.x.numpy(), images)
        np.testing.assert_array_equal(part.y.numpy(), labels)


@pytest.mark.parametrize("layout", ["home", "."])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_archives(tmp_path: Path, name: str, version: str, layout: str) -> None:
    spec = tiny_spec(name)
    archive = write_archive(tmp_path / (spec.folders[0] if layout == "home" else layout), spec, version)
    for _ in range(2):  # the second time from the unpacked files
        np.testing.assert_array_equal(load(spec, tmp_path).train.x.numpy(), tiny_arrays(spec, "train")[0])
    there = {path.name for path in archive.parent.iterdir()}
    assert there == {archive.name, FOLDERS[name, version]}
    archive.unlink()
    assert locate(spec, tmp_path) == archive.parent / FOLDERS[name, version]
    np.testing.assert_array_equal(load(spec, tmp_path).test.y.numpy(), tiny_arrays(spec, "test")[1])


@pytest.mark.parametrize("name", SETS)
def test_the_official_checksums_are_the_default(tmp_path: Path, name: str) -> None:
    """Our small pickles are foreign to the published reader, which says so and opens none of them."""
    spec = tiny_spec(name)
    write_files(tmp_path, spec, "python")
    kind = getattr(torchvision_datasets(), name.upper())
    with pytest.raises(DataError, match=kind.train_list[0][1]):
        cifar.read(spec, tmp_path, "train")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", SETS)
def test_a_foreign_pickle_is_not_opened(tmp_path: Path, name: str) -> None:
    spec = tiny_spec(name)
    write_files(tmp_path / "set", spec, "python")
    (tmp_path / "set" / FIRST[name]).write_bytes(pickle.dumps(Bomb(tmp_path / "opened")))
    with pytest.raises(DataError, match=f"{FIRST[name]}: expected the MD5 .*, found .* not opened"):
        spec.function("reader")(spec, tmp_path / "set", "train")
    assert not (tmp_path / "opened").exists()


def test_cifar10_is_read_in_the_order_of_its_files(tmp_path: Path) -> None:
    spec = tiny_spec("cifar10")
    write_files(tmp_path, spec, "binary")
    x, _ = spec.function("reader")(spec, tmp_path, "train")
    for i in range(5):
        record = (tmp_path / f"data_batch_{i + 1}.bin").read_bytes()[1:3073]
        assert x[2 * i].tobytes() == record


def test_the_fine_label_counts(tmp_path: Path) -> None:
    spec = tiny_spec("cifar100")
    write_files(tmp_path, spec, "binary")
    _, y = spec.function("reader")(spec, tmp_path, "test")
    records = np.frombuffer((tmp_path / "test.bin").read_bytes(), np.uint8).reshape(4, 3074)
    np.testing.assert_array_equal(y, records[:, 1])


def assert_refused(spec: datasets.DatasetSpec, folder: Path, fragments: list[str], split: str = "train") -> None:
    before = snapshot(folder)
    with pytest.raises(DataError) as caught:
        spec.function("reader")(spec, folder, split)
    assert all(fragment in str(caught.value) for fragment in fragments), str(caught.value)
    assert snapshot(folder) == before


@settings(max_examples=15)
@given(data=st.data())
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_every_cut_is_seen(
    tmp_path_factory: pytest.TempPathFactory, name: str, version: str, data: st.DataObject
) -> None:
    spec, folder = tiny_spec(name), tmp_path_factory.mktemp("cifar")
    write_files(folder, spec, version)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert_refused(spec, folder, [str(path), "expected", "found"], "test" if "test" in path.name else "train")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_missing_file(tmp_path: Path, name: str, version: str) -> None:
    spec = tiny_spec(name)
    write_files(tmp_path, spec, version)
    path = tmp_path / (FIRST[name] + ("" if version == "python" else ".bin"))
    path.unlink()
    assert_refused(spec, tmp_path, [str(path), "missing"])


@pytest.mark.parametrize("name", SETS)
def test_empty_folder(tmp_path: Path, name: str) -> None:
    assert_refused(tiny_spec(name), tmp_path, [str(tmp_path), "python.tar.gz", "binary.tar.gz"])


@pytest.mark.parametrize("name", SETS)
def test_something_appended(tmp_path: Path, name: str) -> None:
    spec = tiny_spec(name)
    write_files(tmp_path, spec, "binary")
    path = tmp_path / f"{FIRST[name]}.bin"
    path.write_bytes(path.read_bytes() + b"?")
    size = 2 * RECORD[name] if name == "cifar10" else 10 * RECORD[name]
    assert_refused(spec, tmp_path, [str(path), f"expected {size} bytes", f"found {size + 1}"])


@pytest.mark.parametrize(("name", "label"), [("cifar10", 10), ("cifar100", 100)])
def test_label_out_of_range(tmp_path: Path, name: str, label: int) -> None:
    spec = tiny_spec(name)
    write_files(tmp_path, spec, "binary")
    path = tmp_path / f"{FIRST[name]}.bin"
    content = bytearray(path.read_bytes())
    content[RECORD[name] - 3073] = label
    path.write_bytes(bytes(content))
    assert_refused(spec, tmp_path, [str(tmp_path), f"below {label}", f"found {label}"])


def test_pickle_of_another_size(tmp_path: Path) -> None:
    spec = tiny_spec("cifar100")
    content = cifar_files.pickled("cifar100", *(array[:9] for array in tiny_arrays(spec, "train")))
    (tmp_path / "train").write_bytes(content)
    with pytest.raises(DataError, match=r"expected 10 images of 3072 bytes.*found \(9, 3072\)"):
        cifar.read(spec, tmp_path, "train", cifar_files.md5s({"train": content}))


@pytest.mark.parametrize("name", SETS)
def test_augmented_in_training_standardized_in_evaluation(name: str) -> None:
    spec = datasets.spec(name)
    assert spec.function("draw").__name__ == "draw"
    assert spec.function("augment").__name__ == "distort"
    assert spec.function("prepare").__name__ == "standardized"
    assert spec.shuffle
