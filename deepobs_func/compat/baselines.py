"""The published runs of DeepOBS 1.1.2 as files, in its own layout: what `deepobs_get_baselines.sh` does."""

from __future__ import annotations

import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from deepobs_func.compat import config
from deepobs_func.errors import DataError
from deepobs_func.files import publish

URL = "https://github.com/fsschneider/DeepOBS_Baselines/archive/v1.1.tar.gz"
_BESIDE = "convergence_performance.json"
_TIMEOUT = 60.0  # seconds without an answer
_CHUNK = 1 << 20
_MOST, _MOST_OF_A_RECORD = 1 << 30, 1 << 26  # bytes: no archive and no record of runs comes near


def fetch_baselines(folder: str | Path | None = None, url: str = URL) -> int:
    """Downloads the published runs. A file that is there already stays.

    Args:
        folder: where they go; by default `config.get_baseline_dir()`.
        url: of the archive.

    Returns:
        How many records are new.

    Raises:
        DataError: the archive could not be fetched, is larger than 1 GiB, holds a record of more than 64 MiB, or holds
            no record.
    """
    target = Path(folder or config.get_baseline_dir())
    target.mkdir(parents=True, exist_ok=True)
    new = found = 0
    try:
        with tempfile.TemporaryDirectory(prefix=".deepobs-baselines-", dir=target) as name:
            archive = Path(name, "baselines.tar.gz")
            _download(url, archive)
            with tarfile.open(archive) as content:
                for member, path in _records(content):
                    found += path.name != _BESIDE
                    draft = Path(name, "draft.json")
                    draft.write_bytes(member)
                    (target / path).parent.mkdir(parents=True, exist_ok=True)
                    new += publish(draft, target / path) and path.name != _BESIDE
                    draft.unlink(missing_ok=True)
    except (OSError, HTTPException, tarfile.TarError) as error:
        raise DataError(
            f"The baselines could not be fetched from {url} ({error}). The analysis has them condensed without that: "
            "deepobs compare published."
        ) from error
    if not found:
        raise DataError(f"{url} holds no record of a run.")
    return new


def _download(url: str, target: Path) -> None:
    """Writes what an address answers into a file, piece by piece."""
    with urllib.request.urlopen(url, timeout=_TIMEOUT) as response, target.open("wb") as file:
        while piece := response.read(_CHUNK):
            file.write(piece)
            _check_size(url, file.tell(), _MOST)


def _check_size(name: str, size: int, most: int) -> None:
    if size > most:
        raise DataError(f"{name} has more than {most} bytes, which no published run has.")


def _records(content: tarfile.TarFile) -> Iterator[tuple[bytes, Path]]:
    """The JSON files of an archive, without its outermost folder, and none that would lie elsewhere."""
    for member in content:
        parts = PurePosixPath(member.name).parts[1:]
        file = content.extractfile(member) if member.isfile() and member.name.endswith(".json") else None
        if file is not None and parts and ".." not in parts:
            _check_size(member.name, member.size, _MOST_OF_A_RECORD)
            yield file.read(), Path(*parts)
