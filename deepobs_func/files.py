"""Files that appear whole or not at all, and never in the place of another."""

from __future__ import annotations

import errno
import os
from pathlib import Path

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def publish(source: Path, target: Path) -> bool:
    """Gives a finished file a name that nothing has yet, atomically where the file system has hard links.

    Args:
        source: a whole file; it stays where it is.
        target: the name; its folder exists.

    Returns:
        False where the name is taken; then nothing was changed.

    Raises:
        OSError: the file system refused.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _copy(source, target)
    return True


def _copy(source: Path, target: Path) -> bool:
    """The same on another disk, or on a file system without hard links: what is half written is removed."""
    try:
        stream = target.open("xb")
    except FileExistsError:
        return False
    try:
        with stream:
            stream.write(source.read_bytes())
    except BaseException:
        target.unlink()
        raise
    return True
