"""The number of threads that torch shares an operation among, and of the cores that there are for them."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def num_threads(count: int | None) -> Generator[None]:
    """As many as are given, and as before afterwards; None changes nothing.

    Compiled code is made for a number of threads: what is compiled here is called here.
    """
    import torch  # not at the top: a study asks for the cores in a process that needs no torch

    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
