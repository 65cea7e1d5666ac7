"""Worker processes of this machine that share out runs."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from deepobs_func.backend.threads import cores
from deepobs_func.errors import ConfigError, UserError, option
from deepobs_func.runner.config import RunConfig
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.processes import Message, Process, places
from deepobs_func.study.scheduler import Entry, Scheduler, last_words
from deepobs_func.study.task import Ended

LOOK = 0.5  # seconds between two looks at marks and at a full disk
Decide = Callable[[RunConfig, int, dict[str, list[float]]], str | None]


class Pool(Scheduler):
    """Worker processes that run what is submitted. A context manager: they end with it, each with a checkpoint.

    Args:
        output_dir: the results tree.
        jobs: how many runs at a time.
        threads: of torch, for each; by default those of the study so far, at first an equal share of the cores.
        devices: GPUs, given out in turn; by default all that are there.
        decide: `(config, epoch, curves) -> reason or None`, asked after each evaluation of a run that was submitted
            with `prune=True`; a reason ends the run, with status `"stopped"`. `curves` are losses and accuracies so
            far, by names such as `"valid_accuracy"`.
        others: `retries` and `tell`, as `Scheduler` has them.

    Raises:
        ConfigError: files in the state folder cannot be locked, or `jobs` or `threads` are below 1.

    >>> with Pool("results", jobs=1) as pool:
    ...     _ = pool.submit(RunConfig("two_d_beale", "adam", 0.01, epochs=1))
    ...     outcome = pool.next()
    >>> outcome.status, len(outcome.record.test_losses)
    ('finished', 2)
    """

    def __init__(
        self,
        output_dir: str | Path,
        *,
        jobs: int = 1,
        threads: int | None = None,
        devices: tuple[str, ...] | None = None,
        decide: Decide = lambda config, epoch, curves: None,
        **others: Any,
    ) -> None:
        super().__init__(output_dir, **others)
        for name, value in (("jobs", jobs), ("threads", threads)):
            if value is not None and value < 1:
                raise ConfigError(f"{option(name)} {value}: it must be a whole number from 1.")
        self.ledger.check()
        self._decide = decide
        shared = _devices(jobs) if devices is None else devices
        self._places = places(jobs, _threads(self.ledger, threads, jobs), shared)
        self._processes, self._ready = dict[int, Process](), set[int]()
        self._told = set[int]()  # workers that were told to end what they do
        self._entries, self._inbox = dict[int, Entry](), queue.SimpleQueue[Message]()
        self._looked, self._is_closing = -LOOK, False

    @property
    def running(self) -> Sequence[Entry]:
        """What is under way."""
        return list(self._entries.values())

    @property
    def workers(self) -> int:
        """How many processes there are."""
        return len(self._places)

    def advance(self) -> None:
        """Gives out what can be given out, and handles what workers say, for half a second at most.

        Raises:
            UserError: a worker cannot be started.
        """
        self._look()
        self._give_out()
        try:
            message = self._inbox.get(timeout=LOOK)
        except queue.Empty:
            return
        self._handle(message)

    def close(self) -> None:
        """Ends the workers; each keeps what it did. A second interrupt while it waits for them kills them."""
        self._is_closing = True
        for process in self._processes.values():
            process.close()
        try:
            for process in self._processes.values():
                process.wait()
        except KeyboardInterrupt:
            for process in self._processes.values():
                process.kill()
            raise
        self._processes.clear()

    def _look(self) -> None:
        """At what others may have changed: marks of runs that are not to run, the disk."""
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        self._disk.look()
        for number, entry in self._entries.items():
            if number not in self._told and any(self.ledger.is_cancelled(job.run_id) for job in entry.jobs):
                self._told.add(number)
                self._processes[number].send("interrupt")

    def _give_out(self) -> None:
        """Starts as much of what waits as there are idle workers."""
        for number, place in enumerate(self._places):
            entry = None if number in self._entries else self._due()
            if entry is None:
                continue
            if number not in self._processes:
                log = self.ledger.folder / f"worker_{number}.log"
                self._processes[number] = Process(number, self._inbox, place, log)
            self._entries[number] = entry
            self._told.discard(number)
            self._processes[number].send("run", task=self._task(entry).as_plain_data())

    def _handle(self, message: Message) -> None:
        number, values, entry = message.worker, message.values, self._entries.get(message.worker)
        if message.kind == "ready":
            self._ready.add(number)
        elif message.kind == "died":
            self._died(number, values["code"])
        elif entry is None:
            return
        elif message.kind == "progress":
            entry.progress = dict(values)
        elif message.kind == "evaluated":
            reason = self._decide(entry.jobs[0].config, values["epoch"], values["curves"])
            self._processes[number].send("answer", reason=reason)
        elif message.kind == "ended":
            del self._entries[number]
            self._ended(entry, [Ended(**each) for each in values["runs"]])

    def _died(self, number: int, code: int) -> None:
        """A worker process has ended: its run failed, and the others go on."""
        process, entry = self._processes.pop(number, None), self._entries.pop(number, None)
        was_ready = number in self._ready
        self._ready.discard(number)
        if self._is_closing or process is None:
            return
        process.close()
        if not was_ready:
            raise UserError(
                f"A worker process cannot start ({_how(code)}): {last_words(process.log) or 'it said nothing'}"
            )
        if entry is not None:
            said = last_words(self.ledger.log(entry.jobs[0].run_id))
            self._killed(entry, f"The process that ran it {_how(code)}.", said)


def _threads(ledger: Ledger, given: int | None, jobs: int) -> int:
    """Kept with the study: on another number of threads, half-done runs would have to start anew."""
    kept = ledger.setting("threads", given)
    return int(kept or ledger.setting("threads", max(1, cores() // jobs)))


def _devices(jobs: int) -> tuple[str, ...]:
    """The GPUs that this process may use, where several runs share them, by the names that CUDA_VISIBLE_DEVICES has."""
    import torch

    if jobs == 1:
        return ()
    numbers = tuple(map(str, range(torch.cuda.device_count())))
    granted = tuple(name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","))
    return granted[: len(numbers)] if granted != ("",) else numbers


def _how(code: int) -> str:
    """How a process ended, in words."""
    if code == -signal.SIGKILL:
        return "was killed by SIGKILL, as the system does when memory ends"
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit status {code}"
