"""Worker processes of this machine: started, spoken to, listened to, pinned to cores and devices.

The standard library's `subprocess` is enough here, and more robust than an executor: those break a whole pool when the
kernel kills one process of it, and share locks that a killed process keeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
PATIENCE = 60.0  # seconds for a worker to write a checkpoint when it is told to end


@dataclass(frozen=True)
class Message:
    """What a worker said, or that it ended.

    Attributes:
        worker: its number.
        kind: `"ready"`, `"progress"`, `"evaluated"`, `"ended"`; `"died"` where the process has ended.
        values: of the message; of a process that has ended, `code`, its exit status.
    """

    worker: int
    kind: str
    values: Mapping[str, Any]


class Process:
    """One worker process.

    Args:
        number: of the worker, from 0.
        inbox: where its messages go.
        place: threads, cores and device.
        log: the file of what it prints between runs.
    """

    def __init__(self, number: int, inbox: queue.SimpleQueue[Message], place: Place, log: Path) -> None:
        self._number, self._inbox, self.log = number, inbox, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "deepobs_func.study.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                env=os.environ | place.environment() | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C comes to the sweep, which ends its workers in order
            )
        if place.cores and hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(self._process.pid, place.cores)
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, do: str, **values: Any) -> None:
        """Tells it something; a process that has died is told nothing, and says so itself."""
        assert self._process.stdin is not None, "it has a pipe"
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Tells it to end: at once between two runs, with a checkpoint within one."""
        assert self._process.stdin is not None, "it has a pipe"
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Until it has ended; one that does not is killed."""
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
        self._listener.join()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None, "it has a pipe"
        with self._process.stdout as lines:
            for line in lines:
                with contextlib.suppress(ValueError):  # the last line of a process that was killed
                    values = json.loads(line)
                    self._inbox.put(Message(self._number, values.pop("kind"), values))
        self._inbox.put(Message(self._number, "died", {"code": self._process.wait()}))


@dataclass(frozen=True)
class Place:
    """Where a worker computes.

    Attributes:
        threads: of torch.
        cores: of the machine; empty for any.
        device: a GPU, by its number or UUID, which is the only one that it sees; None for all.
    """

    threads: int
    cores: frozenset[int] = frozenset()
    device: str | None = None

    def environment(self) -> dict[str, str]:
        """The variables that say so to a process."""
        found = dict.fromkeys(_THREADS, str(self.threads))
        return found if self.device is None else found | {"CUDA_VISIBLE_DEVICES": self.device}


def places(jobs: int, threads: int, devices: Sequence[str] = ()) -> list[Place]:
    """Shares the cores of the machine, and its GPUs, among workers.

    Args:
        jobs: how many workers.
        threads: of each.
        devices: the GPUs, given out in turn.

    Returns:
        A place for each worker. Cores are given where there are enough for all; else the system shares them.

    >>> [sorted(place.cores) for place in places(1, 10_000)]
    [[]]
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    given = [frozenset(cores[threads * i : threads * (i + 1)]) for i in range(jobs)]
    enough = jobs * threads <= len(cores)
    return [
        Place(threads, given[i] if enough else frozenset(), devices[i % len(devices)] if devices else None)
        for i in range(jobs)
    ]
