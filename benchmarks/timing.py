"""Times that can be compared on a machine that does other things too: functions take turns, round by round."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple, TypeVar

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[], object]
Clock = Callable[[], float]


class Times(NamedTuple):
    """What one function took.

    Attributes:
        seconds: of one call, by the round of its turn.
    """

    seconds: dict[int, float]

    @property
    def median(self) -> float:
        """In seconds."""
        return statistics.median(self.seconds.values())

    def ratio(self, other: Times) -> float:
        """How many times as long as the other it takes: the median of the ratios whose quartiles `spread` gives."""
        return statistics.median(self._ratios(other))

    def spread(self, other: Times) -> tuple[float, float]:
        """The quartiles of the ratios within a round, to another's turn in it or, where it sat out, the one before."""
        low, _, high = statistics.quantiles(self._ratios(other), n=4, method="inclusive")
        return low, high

    def _ratios(self, other: Times) -> list[float]:
        before = (max(other_turn for other_turn in other.seconds if other_turn <= turn) for turn in self.seconds)
        return [mine / other.seconds[turn] for mine, turn in zip(self.seconds.values(), before, strict=True)]


def clock_for(threads: int, device: str = "cpu") -> Clock:
    """The thread's own time where there is one, which leaves out that others had the processor; else the wall's.

    On a GPU the clock waits until it has done what it was told to do.
    """
    if device == "cuda":
        return _clock_of_the_gpu
    return time.thread_time if threads == 1 else time.perf_counter


def _clock_of_the_gpu() -> float:
    import torch

    torch.cuda.synchronize()
    return time.perf_counter()


def interleaved(
    calls: Mapping[Key, Call],
    rounds: int,
    clock: Clock = time.perf_counter,
    *,
    least: float = 0.02,
    budget: float = 20.0,
) -> dict[Key, Times]:
    """Times functions in turn, so that whatever slows the machine down slows all of them alike.

    Args:
        calls: what to time; each has been called before and is warm.
        rounds: how many there are, 2 or more.
        clock: what it is timed with.
        least: seconds that a turn lasts at least; a function that is faster is called several times.
        budget: seconds that a function has in all; one that is slower sits out rounds, but has three turns.
    """
    once = {key: _seconds(call, 1, clock) for key, call in calls.items()}

    def timed(key: Key) -> Callable[[], float]:
        return lambda: _seconds(calls[key], max(1, round(least / once[key])), clock)

    return in_turns({key: timed(key) for key in calls}, once, rounds, budget=budget)


def in_turns(
    timed: Mapping[Key, Callable[[], float]], once: Mapping[Key, float], rounds: int, *, budget: float
) -> dict[Key, Times]:
    """Lets functions take turns that time themselves.

    Args:
        timed: each returns the seconds that it took.
        once: what each took before.
        rounds, budget: as for `interleaved`.
    """
    found: dict[Key, dict[int, float]] = {key: {} for key in timed}
    for turn in range(rounds):
        for key, call in timed.items():
            turns = min(rounds, max(3, int(budget / once[key])))
            if turn * turns % rounds < turns:  # spreads its turns over the rounds
                found[key][turn] = call()
    return {key: Times(seconds) for key, seconds in found.items()}


def _seconds(call: Call, repeats: int, clock: Clock) -> float:
    """Of one call, on average, without the collection of garbage."""
    gc.collect()
    gc.disable()
    start = clock()
    for _ in range(repeats):
        call()
    end = clock()
    gc.enable()
    return (end - start) / repeats
