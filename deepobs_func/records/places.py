"""Where records lie: the results tree, and the state folder for everything but finished runs."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

from deepobs_func.errors import ConfigError, option

STATE_SUFFIX = ".state"
"""Of the name of a state folder, after that of the results tree."""


def output_path(output_dir: str | Path) -> Path:
    """The results tree; `~` is the user's home."""
    try:
        return Path(os.path.expanduser(output_dir))
    except ValueError:  # a user's name that no system can have
        return Path(output_dir)


def state_dir(output_dir: str | Path) -> Path:
    """The folder for everything but finished runs: nothing else lies in the results tree.

    It is `<output_dir>.state`, where that can be written. Else, as beside the mount point of a container, it is a
    folder of the same name and a hash of the whole path, in the user's folder for state or in the temporary folder.

    Returns:
        Its path; the folder need not be there.

    Raises:
        ConfigError: the output folder is the root of the file system.
    """
    path = Path(os.path.abspath(output_path(output_dir)))
    if not path.name:
        raise ConfigError(
            f"The output folder cannot be {output_dir}. Name a folder below it with {option('output_dir')}."
        )
    candidates = list(_candidates(path))
    return next(filter(_can_be_written, candidates), candidates[0])


def check_writable(folder: Path, output_dir: str | Path) -> None:
    """Checks, before a run starts, that its record can be written when it ends. Leaves nothing in the results tree.

    Args:
        folder: of the record.
        output_dir: the results tree.

    Raises:
        ConfigError: the folder, or the state folder, cannot be made or written.
    """
    root = Path(os.path.abspath(output_path(output_dir)))
    try:
        existing = _existing(Path(os.path.abspath(folder)))
        if not existing.is_dir():
            raise NotADirectoryError(f"{existing} is no folder")
        if not os.access(existing, os.W_OK | os.X_OK):
            raise PermissionError(f"{existing} is read-only")
        if not existing.is_relative_to(root):  # a listing of the tree never shows the trial
            _try_to_write(existing)
        _try_to_write(_existing(state_dir(output_dir)))  # nothing is made: a run that cannot start leaves nothing
    except OSError as error:
        raise ConfigError(
            f"The output folder {output_dir} cannot be written ({error}). Name another one with {option('output_dir')}."
        ) from error


def _candidates(path: Path) -> Iterator[Path]:
    yield path.with_name(path.name + STATE_SUFFIX)
    name = f"{path.name[:40]}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    yield platformdirs.user_state_path("deepobs_func") / name
    yield Path(tempfile.gettempdir(), "deepobs_func.state", name)


def _can_be_written(path: Path) -> bool:
    existing = _existing(path)
    return len(os.fsencode(path.name)) <= 255 and existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(place for place in (path, *path.parents) if os.path.lexists(place))


def _try_to_write(folder: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".writable-"):
        pass
