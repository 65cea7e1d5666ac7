"""Downloads on first use, through torchvision, which holds the addresses and the checksums."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from deepobs_func.datasets.spec import DatasetSpec

_TORCHVISION = {"mnist": "MNIST", "fmnist": "FashionMNIST"}


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
