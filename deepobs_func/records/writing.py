"""Writing records: whole or not at all, over nothing, and somewhere else rather than nowhere."""

from __future__ import annotations

import contextlib
import json
import tempfile
import uuid
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from deepobs_func.errors import UserError
from deepobs_func.files import publish, write_new
from deepobs_func.records.names import relative_folder
from deepobs_func.records.places import output_path, state_dir
from deepobs_func.records.record import RunRecord

_ATTEMPTS = 20  # at a folder that another process, whose write failed, takes away as it is made


class Written(NamedTuple):
    """Where a record is.

    Attributes:
        path: the file.
        note: why it is not where it should be, in a sentence; "" where it is.
    """

    path: Path
    note: str = ""


def write(record: RunRecord, output_dir: str | Path, when: datetime | None = None) -> Path:
    """Writes the record where it belongs, under DeepOBS's name, atomically, beside whatever is there.

    Finished and diverged runs are `random_seed__<s>__<YYYY-mm-dd-HH-MM-SS>.json` in the results tree. All others are
    `<name>.json.partial` in the state folder, under the same relative path: DeepOBS's analyzer averages every `*.json`
    of a setting, and dies of a setting without one. Where the name is taken, the next free second is used.

    Args:
        record: what to write. A value that JSON does not know is written as its `repr`.
        output_dir: the results tree.
        when: the time in the name; now by default.

    Returns:
        The path of the file.

    Raises:
        OSError: it cannot be written. What was begun is removed, folders included.
    """
    root = output_path(output_dir) if _is_whole(record) else state_dir(output_dir)
    return _write_below(root, record, state_dir(output_dir), when)


def write_anywhere(record: RunRecord, output_dir: str | Path, when: datetime | None = None) -> Written:
    """Writes the record where it belongs or, if that fails, into the state folder or the temporary folder.

    Args:
        record, output_dir, when: as in `write`.

    Returns:
        The path of the file, and why it is not where it should be.

    Raises:
        UserError: every place failed.
    """
    state = state_dir(output_dir)
    places: list[Callable[[], Path]] = [lambda: state, lambda: Path(tempfile.mkdtemp(prefix="deepobs_func-"))]
    if _is_whole(record):
        places.insert(0, lambda: output_path(output_dir))
    failures = []
    for place in places:
        root = None
        try:
            root = place()
            path = _write_below(root, record, state, when)
        except OSError as error:
            failures.append(f"{root or 'the temporary folder'} cannot be written ({error.strerror or error})")
            if root is not None and root.is_relative_to(tempfile.gettempdir()):
                _remove_empty([root])
            continue
        return Written(path, f"{'; '.join(failures)}; the record is in {path}." if failures else "")
    raise UserError(f"The record is lost: {'; '.join(failures)}.")


def _is_whole(record: RunRecord) -> bool:
    return record.status in ("finished", "diverged")


def _write_below(root: Path, record: RunRecord, state: Path, when: datetime | None) -> Path:
    """Writes a draft into the state folder, or where that cannot be, beside the target; and gives it its name."""
    folder = root / relative_folder(record)
    suffix = ".json" if _is_whole(record) else ".json.partial"
    content = json.dumps(record.to_json(), default=repr).encode()
    try:
        state.mkdir(parents=True, exist_ok=True)
        return _draft_and_publish(state, content, folder, record.random_seed, suffix, when)
    except OSError:
        if state in (root, folder):
            raise
    made = _make_folders(folder)
    try:
        return _draft_and_publish(folder, content, folder, record.random_seed, suffix, when)
    except OSError:
        _remove_empty(made)
        raise


def _draft_and_publish(
    place: Path, content: bytes, folder: Path, seed: int, suffix: str, when: datetime | None
) -> Path:
    draft = place / f".{uuid.uuid4().hex}.tmp"
    write_new(draft, content)
    try:
        return _publish(draft, folder, seed, suffix, when or datetime.now())
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, folder: Path, seed: int, suffix: str, when: datetime) -> Path:
    """Names the draft. Its folder is made only now, so that there is none without a record."""
    for attempt in range(_ATTEMPTS):
        made: list[Path] = []
        try:
            made = _make_folders(folder)
            while not publish(draft, path := folder / f"random_seed__{seed}__{when:%Y-%m-%d-%H-%M-%S}{suffix}"):
                when += timedelta(seconds=1)
            return path
        except BaseException as error:  # an interrupt too: no empty folder stays
            _remove_empty(made)
            if not isinstance(error, FileNotFoundError) or attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _make_folders(folder: Path) -> list[Path]:
    """Makes a folder and those above it.

    Returns:
        What was not there, the deepest first.
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except BaseException:  # an interrupt too
        _remove_empty(made)
        raise
    return made


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
