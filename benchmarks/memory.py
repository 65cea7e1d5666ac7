"""The memory that a function takes beyond what is held before it is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that torch's allocator had handed out at once during a call, its result included.

    On a GPU it is that of the GPU. It counts every tensor, whoever allocates it, and neither code nor what a library
    allocates by itself.
    """
    return _of_the_gpu(call) if torch.cuda.is_available() else _of_the_cpu(call)


def _of_the_cpu(call: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    del result  # it has lived until here
    return max(itertools.accumulate(changes), default=0)


def _of_the_gpu(call: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held
