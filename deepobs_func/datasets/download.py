"""Downloads on first use, through torchvision, which holds the addresses and the checksums."""

from __future__ import annotations

from pathlib import Path

from deepobs_func.datasets.spec import DatasetSpec

_TORCHVISION = {"mnist": "MNIST", "fmnist": "FashionMNIST"}


def idx(spec: DatasetSpec, folder: Path) -> None:
    """Fetches the four gzipped IDX files of MNIST or Fashion-MNIST into an empty folder, from the first mirror that has them.

    Raises:
        OSError, RuntimeError: no mirror could be reached, or a checksum was wrong.
    """
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    kind = getattr(torchvision_datasets(), _TORCHVISION[spec.name])
    fetch = torchvision_datasets().utils.download_url
    for filename, md5 in kind.resources:
        _from_first_mirror(fetch, kind.mirrors, folder, filename, md5)


def _from_first_mirror(fetch, mirrors: list[str], folder: Path, filename: str, md5: str) -> None:  # type: ignore[no-untyped-def]
    errors = []
    for mirror in mirrors:
        try:
            return fetch(mirror + filename, str(folder), filename, md5)
        except (OSError, RuntimeError) as error:
            errors.append(error)
    raise errors[0]
