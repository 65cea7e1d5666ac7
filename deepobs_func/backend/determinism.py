"""The same bits from the same numbers: on a GPU, sums whose terms come in any order have kernels that keep one."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import torch

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def prepare() -> None:
    """Asks cuBLAS for workspaces with which its products are the same each time; before the first product."""
    os.environ.setdefault(WORKSPACE, ":4096:8")


@contextmanager
def deterministic(enabled: bool) -> Generator[None]:
    """Within it, torch takes kernels that give the same bits each time, and refuses an operation that has none.

    Args:
        enabled: whether it does anything.

    Yields:
        Nothing; afterwards all is as before.
    """
    if not enabled:
        yield
        return
    cudnn: Any = torch.backends.cudnn
    filling: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        filling.fill_uninitialized_memory,
    )
    try:
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic, cudnn.benchmark = True, False
        filling.fill_uninitialized_memory = False  # nothing here reads memory that was never written
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark, filling.fill_uninitialized_memory = before[2:]
