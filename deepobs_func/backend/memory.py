"""The memory that the process has freed."""

from __future__ import annotations

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory for the next allocation and not to return it to the system.

    glibc gives every tensor of 32 MiB or more pages of its own, which the system clears at each allocation. Measured on
    one core at batch size 128: a gradient of All-CNN-C takes 1.33 s in place of 2.21 s, the evaluation of 512 images by
    3c3d half as long. The process then holds as much memory as it ever needed.

    Returns:
        Whether it was done: on Linux with glibc, whatever allocator stands in front of it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_MMAP_MAX, 0) and libc.mallopt(_TRIM_THRESHOLD, -1))
