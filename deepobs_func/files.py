"""Files that appear whole or not at all, and never over another one."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path

_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def publish(source: Path, target: Path) -> bool:
    """Gives a finished file a name that nothing has yet, atomically.

    Args:
        source: a whole file; it stays where it is.
        target: the name; its folder exists.

    Returns:
        False where the name is taken; then nothing was changed.

    Raises:
        OSError: the file system refused, or is full; what was half written is removed.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _publish_copy(source, target)
    return True


def write_new(path: Path, content: bytes) -> None:
    """Writes a file that is not there yet, down to the disk; one that cannot be written whole is removed.

    Raises:
        OSError: the file system refused, or is full.
    """
    try:
        with path.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    except FileExistsError:
        raise
    except BaseException:  # an interrupt too: no half file stays
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
        raise


def _publish_copy(source: Path, target: Path) -> bool:
    """The same from another disk, or on a file system without hard links, by way of a copy beside the target."""
    copy = target.with_name(f".{uuid.uuid4().hex}.tmp")
    write_new(copy, source.read_bytes())
    try:
        os.link(copy, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _rename(copy, target)
    finally:
        copy.unlink(missing_ok=True)
    return True


def _rename(source: Path, target: Path) -> bool:
    """Renames, but not over another file: whoever makes the claim first has the name."""
    claim = target.with_name(f".{uuid.uuid5(uuid.NAMESPACE_URL, target.name).hex}.claim")
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    try:
        if target.exists():
            return False
        source.rename(target)
    finally:
        claim.unlink()
    return True


def replace(path: Path, content: bytes) -> None:
    """Writes a file that nobody ever sees half of, in the place of one that may be there.

    Raises:
        OSError: the file system refused, or is full; what was there before stays.
    """
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    write_new(draft, content)
    try:
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
