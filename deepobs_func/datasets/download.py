"""Downloads on first use, through torchvision, which holds the addresses and the checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError, option

_TORCHVISION = {"mnist": "MNIST", "fmnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}

_TOLSTOI = "https://github.com/AllenDowney/fluent-python-notebooks/raw/master/attic/sequences/war-and-peace.txt"
_TOLSTOI_MD5 = "bd1e094502d466b56a711e00b3f71b14"  # of what is left of it, the text behind the published results


def idx(spec: DatasetSpec, folder: Path) -> None:
    """Fetches the four gzipped IDX files into an empty folder, each from the first mirror that has it.

    Raises:
        OSError, RuntimeError, HTTPException: no mirror could be reached, or a checksum was wrong.
    """
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    kind = getattr(torchvision_datasets(), _TORCHVISION[spec.name])
    fetch = torchvision_datasets().utils.download_url
    for filename, md5 in kind.resources:
        _from_first_mirror(fetch, kind.mirrors, folder, filename, md5)


def cifar(spec: DatasetSpec, folder: Path) -> None:
    """Fetches the archive of the python version into an empty folder; the reader unpacks it.

    Raises:
        OSError, RuntimeError, HTTPException: the address could not be reached, or the checksum was wrong.
    """
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    kind = getattr(torchvision_datasets(), _TORCHVISION[spec.name])
    torchvision_datasets().utils.download_url(kind.url, str(folder), kind.filename, kind.tgz_md5)


def svhn(spec: DatasetSpec, folder: Path) -> None:
    """Fetches the two MATLAB files into an empty folder.

    Raises:
        OSError, RuntimeError, HTTPException: the address could not be reached, or a checksum was wrong.
    """
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    for split in ("train", "test"):
        url, filename, md5 = torchvision_datasets().SVHN.split_list[split]
        torchvision_datasets().utils.download_url(url, str(folder), filename, md5)


def tolstoi(spec: DatasetSpec, folder: Path) -> None:
    """Fetches War and Peace and cuts out what DeepOBS's preparation script cuts out.

    Raises:
        OSError, RuntimeError, HTTPException: the address could not be reached, or has another text.
    """
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    torchvision_datasets().utils.download_url(_TOLSTOI, str(folder), "whole.txt", None)
    lines = (folder / "whole.txt").read_bytes().split(b"\n")
    (folder / "whole.txt").unlink()
    # The script deletes lines in three rounds: what Project Gutenberg added, the table of contents, the licence.
    for first, last in ((1, 29), (5, 775), (63_850, 64_207)):
        del lines[first - 1 : last]
    text = b"\n".join(lines)
    if hashlib.md5(text, usedforsecurity=False).hexdigest() != _TOLSTOI_MD5:
        raise RuntimeError(f"{_TOLSTOI} no longer has the text that DeepOBS used")
    (folder / spec.files[0]).write_bytes(text)


def imagenet(spec: DatasetSpec, folder: Path) -> None:
    """Explains what to put where: ImageNet is given to registered users only.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"{spec.title} cannot be downloaded without an account. Get the training and validation images of ILSVRC 2012 "
        f"from https://image-net.org, and lay them out as DIR/{spec.folders[0]}/train/<wnid>/*.JPEG and "
        f"DIR/{spec.folders[0]}/val/<wnid>/*.JPEG, with 1000 folders <wnid> each, DIR being the data folder that you "
        f"name; or take the stand-in: {option('data')} synthetic."
    )


def _from_first_mirror(
    fetch: Callable[[str, str, str, str], None], mirrors: list[str], folder: Path, filename: str, md5: str
) -> None:
    errors: list[Exception] = []
    for mirror in mirrors:
        try:
            fetch(mirror + filename, str(folder), filename, md5)
        except (OSError, RuntimeError, HTTPException) as error:
            errors.append(error)
        else:
            return
    raise errors[0]
