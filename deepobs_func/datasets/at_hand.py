"""Where the files of the data sets lie, and whether they are there. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError

State = Literal["yes", "part", "no", "generated"]


class AtHand(NamedTuple):
    """Whether a data set is at hand, by the names of its files alone.

    Attributes:
        name: of the data set.
        state: `"yes"`; `"part"` where a file is there and others are missing; `"no"`; `"generated"` where no file is
            needed.
        folder: where the files are; None where there are none, or they are part of this package.
        size: bytes of the files of the set; None for a set of more files than can be counted at once.
        missing: the names of missing files, where the set has one layout.
    """

    name: str
    state: State
    folder: Path | None = None
    size: int | None = None
    missing: tuple[str, ...] = ()


def at_hand(spec: DatasetSpec, data: str | Path) -> AtHand:
    """Looks for the files of a data set; none is opened.

    Args:
        spec: the data set.
        data: the data folder; it need not be there.

    Returns:
        What was found. Whether the files are whole is for the reader to say.

    Raises:
        DataError: `data` exists and is no folder.
    """
    if spec.generated:
        return AtHand(spec.name, "yes" if spec.source == "package" else "generated")
    folder = locate(spec, Path(data).expanduser())
    if folder is None:
        return AtHand(spec.name, "no")
    found = {name: path for name in spec.files if (path := _file(folder, name))}
    size = None if spec.streamed else sum(path.stat().st_size for path in found.values())
    missing = () if spec.alternatives else tuple(name for name in spec.files if name not in found)
    return AtHand(spec.name, "part" if missing else "yes", folder, size, missing)


def locate(spec: DatasetSpec, data: Path) -> Path | None:
    """The first folder that has a file of the set, or None. Whether all files are there is for the reader to say.

    Raises:
        DataError: `data` exists and is not a folder.
    """
    if data.exists() and not data.is_dir():
        raise DataError(f"{data} is no folder. Name the folder that holds {spec.folders[0]}/, or 'synthetic'.")
    for folder in (*(data / name for name in spec.folders), data):
        if any(_file(folder, name) for name in spec.files):
            return folder
    return None


def _file(folder: Path, name: str) -> Path | None:
    """The file or folder of a name, or the file gzipped."""
    if name.endswith("/"):
        return folder / name if (folder / name).is_dir() else None
    return next((path for suffix in ("", ".gz") if (path := folder / f"{name}{suffix}").is_file()), None)
