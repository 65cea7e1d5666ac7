"""The memory that a function takes beyond what is held before it is called."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], object]) -> int:
    """The most that torch's CPU allocator had handed out at once during a call, its result included.

    It counts every tensor, whoever allocates it, and neither code nor what a library allocates by itself.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = call()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    del result  # it has lived until here
    return max(itertools.accumulate(changes), default=0)
