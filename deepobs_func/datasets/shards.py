"""Images in tar files, a few large ones in the place of a million small ones, as WebDataset lays them out.

An image and its class are two members that follow each other, of one name and two endings: `0017.jpg` and `0017.cls`,
the class as a decimal number. Nothing is unpacked: the place of each image in its file is found once, and the image is
read from there.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from deepobs_func.errors import DataError

ENDINGS = (".jpg", ".jpeg")  # of an image, in any case of letters
CLASS = ".cls"
LONGEST = 16  # bytes of a class that is read


class Shards(NamedTuple):
    """The images of some tar files, by class and then by their own name, as those of folders are.

    Attributes:
        paths: of the files, as bytes.
        files: which of them each image is in.
        spans: where its bytes begin there, and how many they are, `(images, 2)`.
        labels: the numbers of the classes, as they are written.
    """

    paths: np.ndarray
    files: np.ndarray
    spans: np.ndarray
    labels: np.ndarray


def shards_in(folder: Path) -> list[Path]:
    """The tar files of a folder, by name."""
    return sorted(path for path in folder.glob("*.tar") if path.is_file()) if folder.is_dir() else []


def index(paths: list[Path], classes: int) -> Shards:
    """Finds every image in some tar files, by their headers.

    The images are numbered alike however they are spread over files, so that a run is the same one.

    Args:
        paths: the files; images of one class and name are in their order.
        classes: numbers of classes are below it.

    Raises:
        DataError: a file is cut off, compressed or no tar file, or an image has no class or another one than there are;
            the message names both.
    """
    found: list[tuple[int, str, int, tuple[int, int]]] = []
    for number, path in enumerate(paths):
        try:
            found += [(label, name, number, span) for name, span, label in _samples(path, classes)]
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            raise DataError(
                f"{path}: expected a whole tar file, not compressed, of images with their classes (KEY.jpg, KEY.cls), "
                f"found: {error}. Get or make the file again."
            ) from error
    found.sort()
    names = np.array([os.fsencode(path) for path in paths])
    labels, files, spans = (np.array([each[part] for each in found], np.int64) for part in (0, 2, 3))
    return Shards(names, files.astype(np.int32), spans.reshape(-1, 2), labels)


_Sample = tuple[str, tuple[int, int], int]


def _samples(path: Path, classes: int) -> Iterator[_Sample]:
    """The name without its ending, the place and the class of each image."""
    size = path.stat().st_size
    key, image, label = "", None, None
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if not member.isreg():
                continue
            name, ending = os.path.splitext(member.name)
            if name != key:
                yield from _whole(key, image, label)
                key, image, label = name, None, None
            if member.offset_data + member.size > size:
                raise ValueError(f"{member.name} is cut off")
            if ending.lower() in ENDINGS:
                image = (member.offset_data, member.size)
            elif ending.lower() == CLASS:
                label = _label(archive, member, classes)
    yield from _whole(key, image, label)


def _whole(key: str, image: tuple[int, int] | None, label: int | None) -> Iterator[_Sample]:
    """An image that has a class; a name that has neither, such as a readme's, is passed over."""
    if image is None and label is None:
        return
    if image is None or label is None:
        raise ValueError(f"{key} has no {'image' if image is None else 'class'} beside it")
    yield key.rpartition("/")[2], image, label


def _label(archive: tarfile.TarFile, member: tarfile.TarInfo, classes: int) -> int:
    stream = archive.extractfile(member)
    assert stream is not None, "it is a regular file"
    with stream:
        text = stream.read(LONGEST).strip()
    if not text.isdigit() or int(text) >= classes:
        raise ValueError(f"{member.name} says {text!r}, which is no number from 0 to {classes - 1}")
    return int(text)


def read(path: str, span: tuple[int, int]) -> bytes:
    """The bytes of an image.

    Raises:
        OSError: the file ends before.
    """
    offset, size = span
    with open(path, "rb") as file:
        file.seek(offset)
        found = file.read(size)
    if len(found) < size:
        raise OSError(f"{len(found)} bytes of {size}")
    return found
