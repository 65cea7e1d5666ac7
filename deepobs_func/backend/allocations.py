"""What torch's allocator hands out during a call."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile


@dataclass(frozen=True)
class Allocations:
    """What a call allocates.

    Attributes:
        peak: bytes at once, at most, beyond what was held before; the result of the call counts.
        count: how many blocks of memory.
    """

    peak: int
    count: int


def allocations(call: Callable[[], object], device: torch.device) -> Allocations:
    """Watches one call. Every tensor counts, whoever allocates it, but not what a library allocates by itself.

    Args:
        call: what is watched.
        device: where its tensors live.

    Returns:
        Peak and count, of the GPU where it runs on one.
    """
    return _of_the_gpu(call, device) if device.type == "cuda" else _of_the_cpu(call)


def _of_the_cpu(call: Callable[[], object]) -> Allocations:
    with _silent(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    del result  # it has lived until here
    return Allocations(max(itertools.accumulate(changes), default=0), sum(change > 0 for change in changes))


@contextlib.contextmanager
def _silent() -> Generator[None]:
    """Torch's profiler writes notes of its own to the process's standard error, which no logger controls."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _of_the_gpu(call: Callable[[], object], device: torch.device) -> Allocations:
    torch.cuda.synchronize(device)
    held, before = torch.cuda.memory_allocated(device), _blocks(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    torch.cuda.synchronize(device)
    return Allocations(torch.cuda.max_memory_allocated(device) - held, _blocks(device) - before)


def _blocks(device: torch.device) -> int:
    return int(torch.cuda.memory_stats(device)["allocation.all.allocated"])
