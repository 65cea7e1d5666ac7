"""A full disk under a sweep: it pauses, and what was saved elsewhere is put where it belongs when there is room."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from deepobs_func import records
from deepobs_func.errors import UserError

ROOM = 32 * 2**20  # bytes that must be free before it goes on
FULL = (errno.ENOSPC, errno.EDQUOT)  # the errors that pass when somebody makes room


class Disk:
    """Watches whether the results tree, and each folder that was full, can be written.

    Args:
        output_dir: the results tree.
        tell: is told when it pauses and when it goes on.
    """

    def __init__(self, output_dir: str | Path, tell: Callable[[str], None]) -> None:
        self._output_dir, self._tell = output_dir, tell
        self._misplaced: list[str] = []
        self._places = {records.output_path(output_dir)}
        self.is_full = False

    def placed(self, path: str, note: str) -> str:
        """Where a record is: one that lies elsewhere, since its place could not be written, makes the sweep pause.

        Args:
            path: of the record.
            note: why it is elsewhere; "" where it is not.
        """
        if note:
            self._misplaced.append(path)
            self.fill(note)
        return path

    def fill(self, note: str, place: str = "") -> None:
        """Pauses, and says so once: of a population every member may find the disk full.

        Args:
            note: what could not be written.
            place: the folder that is full, where it is not the results tree.
        """
        if place:
            self._places.add(Path(place))
        if self.is_full:
            return
        self.is_full = True
        self._tell(f"{note} The sweep is paused; it goes on when {place or 'the results tree'} can be written again.")

    def look(self) -> None:
        """Goes on as soon as there is room: first of all, misplaced records are put where they belong."""
        if not self.is_full or not self._has_room():
            return
        while self._misplaced:
            path = self._misplaced[-1]
            try:
                record = records.read(path)
                records.write(record, self._output_dir)
            except (OSError, UserError):
                return
            self._misplaced.pop()
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.is_full = False
        self._tell("It can be written again; the sweep goes on.")

    def _has_room(self) -> bool:
        return all(map(_has_room, self._places))


def _has_room(place: Path) -> bool:
    """Whether a folder can be written; of a quota, the free bytes of the disk say nothing."""
    existing = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(bytes(2**16))
        return shutil.disk_usage(existing).free > ROOM
    except OSError:
        return False
