"""ImageNet's official tar files, unpacked and sorted into the folders that the reader takes.

`ILSVRC2012_img_train.tar` holds one tar file for each class, `ILSVRC2012_img_val.tar` 50,000 images without a class,
and `ILSVRC2012_devkit_t12.tar.gz` says which class each of them has. Source: the readme of the development kit.
"""

from __future__ import annotations

import io
import re
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO

from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError

TRAIN, VAL, DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"
PAGE = "https://image-net.org/challenges/LSVRC/2012/2012-downloads.php"
_CLASS = re.compile(r"(n\d{8})\.tar")
_TRAIN_IMAGE = re.compile(r"n\d{8}_\d+\.JPEG")
_VAL_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
_DAMAGE = (tarfile.TarError, EOFError, zlib.error, OSError, ValueError)

Say = Callable[[str], None]


def prepare(spec: DatasetSpec, source: Path, folder: Path, say: Say = lambda line: None) -> None:
    """Unpacks what is not unpacked yet, and checks classes and counts of the result.

    Nothing but regular files with the names of ImageNet's images is taken, each under its own plain name, so nothing
    can leave the folder, whatever paths and links an archive has. A class of the training set, and the whole validation
    set, gets its name when it is complete: after an interruption the same call goes on. Nothing that is there is
    changed, and the tar files stay.

    Args:
        spec: the data set.
        source: where the official tar files lie, under their official names.
        folder: gets `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`.
        say: called with a line for each thing that is done.

    Raises:
        DataError: a tar file is missing, cut off or another one, the disk has too little room, or what was laid out has
            other than the official classes and counts; the message names it.
    """
    from deepobs_func.datasets.imagenet import list_images

    assert spec.num_classes is not None
    train, val = folder / "train", folder / "val"
    lacks_train, lacks_val = _classes(train) < spec.num_classes - 1, not val.is_dir()
    needed = (TRAIN,) * lacks_train + (VAL, DEVKIT) * lacks_val
    missing = [name for name in needed if not (source / name).is_file()]
    if missing:
        raise DataError(f"{source} lacks {', '.join(missing)}. {WHERE_FROM}")
    _check_room(folder, [source / name for name in needed])
    if lacks_train:
        _unpack_train(source / TRAIN, train, say)
    if lacks_val:
        _unpack_val(source / VAL, source / DEVKIT, val, say)
    for split in ("train", "test"):
        list_images.cache_clear()
        say(f"{split}: {len(list_images(spec, folder, split).labels):,} images in {spec.num_classes - 1} classes")


WHERE_FROM = (
    "ImageNet (ILSVRC 2012) is given to registered users for research that is not commercial, and may not be passed "
    f"on: sign in at {PAGE} and get 'Training images (Task 1 & 2)', 'Validation images (all tasks)' and 'Development "
    f"kit (Task 1 & 2)', which are {TRAIN} (138 GB), {VAL} (6 GB) and {DEVKIT} (2 MB)."
)


def _unpack_train(archive: Path, folder: Path, say: Say) -> None:
    """One folder a class, from the tar file of each."""
    with _reading(archive), tarfile.open(archive, "r:") as outer:
        for member in outer:
            found = _CLASS.fullmatch(_plain(member))
            inner = outer.extractfile(member) if found else None
            if found is None or inner is None or (folder / found[1]).is_dir():
                continue
            with inner, _complete(folder / found[1]) as fresh, tarfile.open(fileobj=inner, mode="r:") as images:
                count = sum(_copied(images, image, fresh) for image in images if _TRAIN_IMAGE.fullmatch(_plain(image)))
            say(f"train/{found[1]}: {count:,} images")


def _unpack_val(archive: Path, devkit: Path, folder: Path, say: Say) -> None:
    """Every image into the folder of its class, all at once."""
    classes = _val_classes(devkit)
    with _reading(archive), _complete(folder) as fresh, tarfile.open(archive, "r:") as images:
        count = 0
        for image in images:
            found = _VAL_IMAGE.fullmatch(_plain(image))
            if found is None:
                continue
            number = int(found[1])
            if not 1 <= number <= len(classes):
                raise ValueError(f"image {number}, of which the development kit has no class")
            count += _copied(images, image, fresh / classes[number - 1])
        if count != len(classes):  # cut off between two images, which no reader of tar files notices
            raise ValueError(f"{count:,} images, not {len(classes):,}")
    say(f"val: {count:,} images")


def _val_classes(devkit: Path) -> list[str]:
    """The WordNet id of every validation image, in the order of their numbers."""
    from scipy.io import loadmat

    with _reading(devkit), tarfile.open(devkit, "r:gz") as kit:
        members = {PurePosixPath(member.name).name: member for member in kit if member.isreg()}
        meta, truth = (_content(kit, members, name) for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"))
        synsets = loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        ids = {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
        return [ids[int(line)] for line in truth.split()]


def _content(kit: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> bytes:
    stream = kit.extractfile(members[name]) if name in members else None
    if stream is None:
        raise ValueError(f"no {name} in it")
    return stream.read()


def _copied(tar: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> int:
    """Writes one image under its plain name: 1."""
    folder.mkdir(exist_ok=True)
    stream: IO[bytes] | None = tar.extractfile(member)
    assert stream is not None, "it is a regular file"
    with stream, (folder / _plain(member)).open("xb") as copy:
        shutil.copyfileobj(stream, copy)
    return 1


def _plain(member: tarfile.TarInfo) -> str:
    """The last part of the name of a regular file; "" of anything else."""
    return PurePosixPath(member.name).name if member.isreg() else ""


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """A fresh folder, which gets its name when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".deepobs-unpack-", dir=target.parent.parent) as temporary:
        fresh = Path(temporary, target.name)
        fresh.mkdir()
        yield fresh
        fresh.rename(target)


@contextmanager
def _reading(archive: Path) -> Generator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise DataError(
            f"{archive}: expected ImageNet's own archive, whole, and room to unpack it, found: {error}. Get it again, "
            "or make room."
        ) from error


def _classes(folder: Path) -> int:
    return sum(path.is_dir() for path in folder.iterdir()) if folder.is_dir() else 0


def _check_room(folder: Path, archives: list[Path]) -> None:
    """Whether what is unpacked fits on the disk, beside the archives, less what an earlier call has unpacked."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    is_train = any(path.name == TRAIN for path in archives)
    done = sum(path.stat().st_size for path in (folder / "train").glob("*/*.JPEG")) if is_train else 0
    need, free = sum(path.stat().st_size for path in archives) - done, shutil.disk_usage(existing).free
    if need > free:
        raise DataError(
            f"{existing} has {free / 1e9:.0f} GB of room, and what is to be unpacked takes {need / 1e9:.0f} GB more. "
            "Make room, or name another data folder."
        )
