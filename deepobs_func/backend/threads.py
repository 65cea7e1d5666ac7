"""The number of threads that torch shares an operation among."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def num_threads(count: int | None) -> Generator[None]:
    """As many as are given, and as before afterwards; None changes nothing.

    Compiled code is made for a number of threads: what is compiled here is called here.
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
