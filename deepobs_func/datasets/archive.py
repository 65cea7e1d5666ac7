"""Unpacks the archives that data sets are published in: whole or not at all, and never over anything."""

from __future__ import annotations

import errno
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

from deepobs_func.errors import DataError


def unpack(archive: Path, name: str, files: Iterable[str]) -> Path:
    """Unpacks the named files of one folder of an archive beside the archive.

    Nothing but these regular files is taken, each under its own plain name, so no member can leave the folder,
    whatever paths and links the archive has. The folder gets its name when it is complete.

    Args:
        archive: a `.tar.gz`.
        name: of the folder, in the archive and beside it.
        files: their plain names.

    Returns:
        The folder `archive.parent / name`; where another process was faster, the one that it made.

    Raises:
        DataError: the archive is cut off or no archive, lacks a file, or the folder cannot be written.
    """
    target = archive.parent / name
    try:
        with tempfile.TemporaryDirectory(prefix=".deepobs-unpack-", dir=archive.parent) as temporary:
            fresh = Path(temporary) / name
            fresh.mkdir()
            _extract(archive, name, files, fresh)
            fresh.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise DataError(
                f"{archive}: expected to unpack it into {target}, found: {error}. Unpack it by hand and name the "
                "folder that it gives."
            ) from error
    return target


def _extract(archive: Path, name: str, files: Iterable[str], folder: Path) -> None:
    wanted = {f"{name}/{file}": file for file in files}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:  # in the archive's order: it is read once, without going back
                file = wanted.pop(member.name.removeprefix("./"), None) if member.isreg() else None
                stream = tar.extractfile(member) if file else None
                if file and stream:
                    with stream, (folder / file).open("xb") as copy:
                        shutil.copyfileobj(stream, copy)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise DataError(f"{archive}: expected a whole .tar.gz archive, found: {error}. Get it again.") from error
    if wanted:
        raise DataError(f"{archive}: expected {', '.join(wanted)} in it, found none of that name. Get it again.")
