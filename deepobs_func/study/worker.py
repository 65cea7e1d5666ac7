"""A worker process of a sweep: `python -m deepobs_func.study.worker`.

It stays alive, so that torch is imported once, a step is compiled once and data are loaded once for many runs. A sweep
and its worker say a line of JSON each, over the worker's standard input and output; nothing is pickled. When the sweep
dies, its end of the pipe closes, and the worker ends its run as a signal would: with a checkpoint.
"""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from deepobs_func.datasets.loading import kept_in_memory
from deepobs_func.runner import signals
from deepobs_func.study.ledger import Ledger
from deepobs_func.study.task import Ended, Task, execute


class Worker:
    """Does what comes in, one task after the other.

    Args:
        commands: lines of JSON: `{"do": "run", "task": ...}`, `{"do": "answer", "reason": ...}`, `{"do": "interrupt"}`.
        replies: where lines of JSON go: `ready`, `progress`, `evaluated`, `ended`.
    """

    def __init__(self, commands: TextIO, replies: TextIO) -> None:
        self._commands, self._replies = commands, replies
        self._tasks, self._answers = queue.SimpleQueue[Any](), queue.SimpleQueue[Any]()
        self._busy = threading.Event()
        self._is_to_end = threading.Event()  # what came last: said before a run can hear a signal, it is not lost

    def work(self) -> None:
        """Until the sweep closes its end."""
        threading.Thread(target=self._listen, daemon=True).start()
        self._reply("ready", {"pid": os.getpid()})
        with kept_in_memory():
            while (values := self._tasks.get()) is not None:
                ended = self._done(Task.from_plain_data(values))
                self._reply("ended", {"runs": [dataclasses.asdict(each) for each in ended]})

    def _done(self, task: Task) -> list[Ended]:
        while not self._answers.empty():  # to a run that was interrupted
            self._answers.get()
        with printing_to_log(task), signals.caught(), signals.SHIELD.raised():
            self._busy.set()
            try:
                if self._is_to_end.is_set():
                    raise KeyboardInterrupt
                return execute(task, lambda progress: self._reply("progress", progress), self._ask)
            except KeyboardInterrupt:
                return [Ended("interrupted")] * len(task.jobs)
            finally:
                self._busy.clear()

    def _ask(self, state: Mapping[str, Any]) -> str | None:
        self._reply("evaluated", state)
        reason: str | None = None if self._is_to_end.is_set() else self._answers.get()
        if self._is_to_end.is_set():
            raise signals.Unanswered
        return reason

    def _reply(self, kind: str, values: Mapping[str, Any]) -> None:
        try:
            self._replies.write(json.dumps({"kind": kind, **values}) + "\n")
            self._replies.flush()
        except OSError:  # the sweep is gone: what is done is in files
            return

    def _listen(self) -> None:
        """In a thread of its own, so that an interruption comes while a run is under way."""
        for line in self._commands:
            command = json.loads(line)
            if command["do"] == "run":
                self._is_to_end.clear()
                self._tasks.put(command["task"])
            elif command["do"] == "answer":
                self._answers.put(command["reason"])
            else:
                self._interrupt()
        self._tasks.put(None)
        self._interrupt()

    def _interrupt(self) -> None:
        """Ends the run under way, once: a second signal comes within a step, and costs what is not kept yet."""
        if self._is_to_end.is_set():
            return
        self._is_to_end.set()
        if self._busy.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            self._answers.put(None)  # wakes a run that asks


@contextmanager
def printing_to_log(task: Task) -> Iterator[None]:
    """Within it, what this process and its libraries print is added to the log of a task's first run.

    Args:
        task: what is run.

    Yields:
        Nothing; afterwards all is printed where it was before.
    """
    file = _opened(Ledger(task.output_dir).log(task.jobs[0].run_id))
    if file is None:
        yield
        return
    before = os.dup(1), os.dup(2)
    with file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        yield
    finally:
        for text in (sys.stdout, sys.stderr):
            with suppress(OSError):  # a disk that is full costs the log alone
                text.flush()
        for stream, copy in zip((1, 2), before, strict=True):
            os.dup2(copy, stream)
            os.close(copy)


def _opened(path: Path) -> BinaryIO | None:
    """A log, to be added to; None where the disk has no room for one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError:
        return None


def main() -> None:
    """The process: its standard output is for the sweep alone."""
    sys.path.append("")  # as the command line has it
    signal.signal(signal.SIGTERM, lambda number, frame: None)  # between two runs; a run hears it
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints when it is imported
    Worker(sys.stdin, replies).work()


if __name__ == "__main__":
    main()
