"""The memory that a function takes beyond what is held before it is called."""

from __future__ import annotations

from collections.abc import Callable

import torch

from deepobs_func.backend.allocations import allocations


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that torch's allocator had handed out at once during a call, its result included; of the GPU, if any."""
    return allocations(call, torch.device("cuda" if torch.cuda.is_available() else "cpu")).peak
