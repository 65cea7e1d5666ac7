"""ImageNet from tar files: the batches are those of the folders, and what is wrong with a file is said."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch

from deepobs_func import random
from deepobs_func.datasets import imagenet, shards
from deepobs_func.datasets.loading import check_stream, stream
from deepobs_func.errors import DataError
from tests.datasets.idx_files import snapshot
from tests.datasets.imagenet_files import cut, tiny_spec, write_images

ROWS = torch.tensor([[0, 5], [3, 1], [4, 2]])


def packed(images: Path, target: Path, per_shard: int = 4) -> Path:
    """The images of folders in tar files of so many each, in another order, as shards are shuffled when written."""
    for split in ("train", "val"):
        (target / split).mkdir(parents=True)
        paths = sorted((images / split).rglob("*.JPEG"))
        classes = sorted({path.parent.name for path in paths})
        paths = paths[1::2] + paths[::2][::-1]
        assert len(set(paths)) == len(paths)
        for number, start in enumerate(range(0, len(paths), per_shard)):
            members: list[tuple[str, bytes]] = []
            for path in paths[start : start + per_shard]:
                members.append((f"{path.stem}.jpg", path.read_bytes()))
                members.append((f"{path.stem}.cls", b"%d\n" % classes.index(path.parent.name)))
            write(target / split / f"{split}-{number:03}.tar", members)
    return target


def write(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> None:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]  # of any mode
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    images = write_images(tmp_path / "images", tiny_spec())
    return images, packed(images, tmp_path / "shards")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("split", ["train", "test"])
def test_batches_are_those_of_the_folders(folders: tuple[Path, Path], split: str, workers: int) -> None:
    """In any order of all images, across files; so are shares of several processes, which are rows."""
    rows = ROWS if split == "train" else torch.tensor([[2, 0], [1, 1]])
    expected, found = (
        list(stream(tiny_spec(), each, split, rows, random.key(1), augment=split == "train", workers=count))
        for each, count in zip(folders, (0, workers), strict=True)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_nothing_is_unpacked_and_nothing_changes(folders: tuple[Path, Path]) -> None:
    before = snapshot(folders[1])
    check_stream(tiny_spec(), folders[1])
    list(stream(tiny_spec(), folders[1], "train", ROWS, random.key(1), augment=True))
    assert snapshot(folders[1]) == before


def test_members_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    members = [("README.txt", b"hello"), ("a/0.JPEG", b"abc"), ("a/0.cls", b" 2 "), ("a/0.json", b"{}")]
    write(tmp_path / "0.tar", members)
    with tarfile.open(tmp_path / "0.tar", "a") as archive:
        link = tarfile.TarInfo("a/1.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    found = shards.index([tmp_path / "0.tar"], 3)
    assert found.labels.tolist() == [2]
    assert shards.read(str(tmp_path / "0.tar"), tuple(found.spans[0].tolist())) == b"abc"


WRONG = {
    "0 has no class beside it": [("0.jpg", b"abc"), ("1.jpg", b"abc"), ("1.cls", b"0")],
    "1 has no class beside it": [("0.jpg", b"abc"), ("0.cls", b"0"), ("1.jpg", b"abc")],
    "0 has no image beside it": [("0.cls", b"1")],
    "0.cls says b'3', which is no number from 0 to 2": [("0.jpg", b"abc"), ("0.cls", b"3")],
    "0.cls says b'cat'": [("0.jpg", b"abc"), ("0.cls", b"cat")],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, message: str) -> None:
    path = tmp_path / "0.tar"
    write(path, WRONG[message])
    with pytest.raises(DataError) as caught:
        shards.index([path], 3)
    assert str(caught.value).startswith(f"{path}: expected a whole tar file")
    assert message in str(caught.value)


def test_a_file_that_is_cut_off_or_compressed_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first = cut(sorted((folders[1] / "train").glob("*.tar"))[0])
    with pytest.raises(DataError, match=str(first)):
        shards.index([first], 3)
    path = tmp_path / "compressed.tar"
    write(path, [("0.jpg", b"abc"), ("0.cls", b"0")], "w:gz")
    with pytest.raises(DataError, match="not compressed"):
        shards.index([path], 3)


def test_a_missing_file_is_seen(folders: tuple[Path, Path]) -> None:
    sorted((folders[1] / "train").glob("*.tar"))[-1].unlink()
    imagenet.list_images.cache_clear()
    with pytest.raises(DataError, match="expected 6 images in 1 tar files, found 4"):
        check_stream(tiny_spec(), folders[1])


def test_an_image_that_is_none_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "0.tar", [("0.jpg", b"abc"), ("0.cls", b"0")])
    batches = imagenet.stream(tiny_spec(train=1), tmp_path, "train", torch.tensor([[0]]), random.key(0), augment=True)
    with pytest.raises(DataError, match=r"0\.tar, byte 512: expected a whole JPEG image"):
        next(batches)
