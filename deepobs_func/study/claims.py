"""Claims: who runs what, as locks of the operating system, which a killed process gives back at once."""

from __future__ import annotations

import warnings
from pathlib import Path

from filelock import FileLock, Timeout

from deepobs_func.errors import ConfigError, option


class Claim:
    """The right to run one run, held by a process until `release` or its death.

    Args:
        path: the lock file, which stays: to remove it would let two processes lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path, thread_local=False)

    def acquire(self) -> bool:
        """Takes it, if nobody holds it.

        Returns:
            Whether it is held now.

        Raises:
            OSError: the file cannot be locked.
        """
        try:
            self._lock.acquire(blocking=False)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Gives it back."""
        self._lock.release()


def check_locks(folder: Path) -> None:
    """Checks that files in a folder can be locked.

    Args:
        folder: made if it is not there.

    Raises:
        ConfigError: they cannot, as on some network file systems.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first, second = (Claim(folder / ".lock-test") for _ in range(2))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a lock that the kernel does not free is none
            works = first.acquire() and not second.acquire()
            if works:
                first.release()
    except (OSError, Warning) as error:
        raise _no_locks(folder, str(error)) from error
    if not works:
        raise _no_locks(folder, "two processes can hold one lock")


def _no_locks(folder: Path, why: str) -> ConfigError:
    return ConfigError(
        f"Files in {folder} cannot be locked ({why}), so that two sweeps could run one run twice. Name a folder on a "
        f"local disk with {option('output_dir')}, or let one scheduler give out the runs: {option('engine')} ray or "
        "slurm."
    )
