"""ImageNet's tar files: sorted by class, inside their folder, whole or not at all, resumed after an interruption."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from deepobs_func.datasets.imagenet_archives import DEVKIT, TRAIN, VAL, prepare
from deepobs_func.errors import DataError
from tests.datasets.idx_files import snapshot
from tests.datasets.imagenet_files import tiny_spec
from tests.datasets.imagenet_tars import CLASSES, TRUTH, tar, train_tar, write_archives

EXPECTED = {f"train/{wnid}/{wnid}_{i}.JPEG": f"{wnid} {i}".encode() for wnid in CLASSES for i in (2, 10)} | {
    f"val/{CLASSES[label - 1]}/ILSVRC2012_val_{i:08}.JPEG": f"val {i}".encode() for i, label in enumerate(TRUTH, 1)
}


def files(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in snapshot(folder).items() if content is not None}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_archives(tmp_path / "tars")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "imagenet"


def test_every_image_lies_in_the_folder_of_its_class(source: Path, folder: Path) -> None:
    said: list[str] = []
    prepare(tiny_spec(), source, folder, said.append)
    assert files(folder) == EXPECTED
    assert said[-2:] == ["train: 6 images in 3 classes", "test: 3 images in 3 classes"]
    assert sorted(path.name for path in source.iterdir()) == sorted((TRAIN, VAL, DEVKIT))


def test_it_goes_on_where_it_was_interrupted(source: Path, folder: Path) -> None:
    """Classes that are there are not read again: what is in them stays."""
    prepare(tiny_spec(), source, folder)
    kept = folder / "train" / CLASSES[0] / f"{CLASSES[0]}_2.JPEG"
    kept.write_bytes(b"mine")
    for path in ("train/" + CLASSES[1], "val"):
        shutil.rmtree(folder / path)
    prepare(tiny_spec(), source, folder)
    assert files(folder) == EXPECTED | {str(kept.relative_to(folder)): b"mine"}


def test_nothing_is_needed_where_all_is_laid_out(source: Path, folder: Path) -> None:
    prepare(tiny_spec(), source, folder)
    prepare(tiny_spec(), folder / "nowhere", folder)


@pytest.mark.parametrize("name", ["../../evil.JPEG", "/tmp/evil/n00000001_1.JPEG", "n00000001/../../../n1.tar"])
def test_nothing_leaves_the_folder(tmp_path: Path, source: Path, folder: Path, name: str) -> None:
    inner = tar({f"../../{CLASSES[0]}_3.JPEG": b"evil", name: b"evil"}, links={f"{CLASSES[0]}_4.JPEG": "/etc/hostname"})
    (source / TRAIN).write_bytes(train_tar({f"../{CLASSES[0]}.tar": inner, name: b"evil"}))
    before = files(source)
    prepare(tiny_spec(), source, folder)
    assert files(tmp_path) == {f"tars/{name}": content for name, content in before.items()} | {
        f"data/imagenet/{name}": content for name, content in EXPECTED.items()
    }
    assert not Path("/tmp/evil").exists()


@pytest.mark.parametrize("name", [TRAIN, VAL, DEVKIT])
def test_a_missing_archive_is_named_with_its_source(source: Path, folder: Path, name: str) -> None:
    (source / name).unlink()
    with pytest.raises(DataError, match=rf"lacks {name}\. .*https://image-net.org"):
        prepare(tiny_spec(), source, folder)
    assert not folder.exists()


@pytest.mark.parametrize(("name", "size"), [(TRAIN, 15_000), (VAL, 2_100), (VAL, 2_048), (DEVKIT, 300)])
def test_a_cut_archive_leaves_nothing_half(source: Path, folder: Path, name: str, size: int) -> None:
    (source / name).write_bytes((source / name).read_bytes()[:size])
    with pytest.raises(DataError, match=f"{source / name}: expected ImageNet's own archive"):
        prepare(tiny_spec(), source, folder)
    assert files(folder.parent).items() <= {f"imagenet/{name}": content for name, content in EXPECTED.items()}.items()
    assert not list(folder.parent.rglob(".deepobs*"))


def test_an_archive_of_fewer_classes_is_no_imagenet(source: Path, folder: Path) -> None:
    (source / TRAIN).write_bytes(tar({"n00000007.tar": tar({"n00000007_1.JPEG": b"1"})}))
    with pytest.raises(DataError, match="expected 3 folders"):
        prepare(tiny_spec(), source, folder)


def test_too_little_room_is_said_before_anything_is_unpacked(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(DataError, match="Make room"):
        prepare(tiny_spec(), source, folder)
    assert not folder.exists()
