"""What a signal does to a run: it ends it between two steps, never within one, so that its state is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CAUGHT = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Signalled(KeyboardInterrupt):
    """Ctrl-C, or a signal that ends a process, came.

    Attributes:
        number: of the signal.
        whole: whether the run stands between two steps, so that its state can be kept.
    """

    def __init__(self, number: int, *, whole: bool) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.whole = number, whole


class Unanswered(KeyboardInterrupt):
    """A run is to end while a callback waits for what decides whether it goes on.

    Raised by the callback. No checkpoint of that moment is kept: a run that goes on from an earlier one comes to the
    same event and asks again, where one that went on from there would never be answered.
    """


class _Shield:
    """While it is raised, a signal waits for `check`; a second one comes at once.

    Signals come to the main thread alone. A run in another thread neither waits for one nor changes what the main
    thread's run does about it.
    """

    def __init__(self) -> None:
        self._raised, self._came = False, 0

    @contextmanager
    def raised(self, up: bool = True) -> Iterator[None]:
        """Raises the shield, or lowers it; afterwards it is as before."""
        if not _in_main_thread():
            yield
            return
        before, self._raised = self._raised, up
        try:
            if not up:
                self.check()
            yield
        finally:
            self._raised = before

    def check(self) -> None:
        """Where the state of a run is whole: a signal that has waited comes now."""
        if self._came and _in_main_thread():
            number, self._came = self._came, 0
            raise Signalled(number, whole=True)

    def heard(self, number: int) -> None:
        """A signal came."""
        if self._raised and not self._came:
            self._came = number
            return
        whole, self._came = not self._raised, 0
        raise Signalled(number, whole=whole)

    def forget(self) -> None:
        """Drops a signal that waits: the run has ended."""
        if _in_main_thread():
            self._came = 0


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


SHIELD = _Shield()
"""Of the run in the main thread."""


@contextmanager
def caught() -> Iterator[None]:
    """Within it Ctrl-C, SIGTERM and SIGHUP raise `Signalled` in the main thread; afterwards all is as before.

    A signal that the process ignores, as under `nohup`, stays ignored. Workers that read data may get the same signal
    and die of it, which torch, told of their death by SIGCHLD, would raise in the middle of whatever writes the record:
    SIGCHLD is not heard after the first signal.
    """
    if not _in_main_thread():  # where no handler can be set
        yield
        return
    before = {number: signal.getsignal(number) for number in CAUGHT}
    children = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None

    def heard(number: int, frame: Any) -> None:
        if hasattr(signal, "SIGCHLD"):
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
        SHIELD.heard(number)

    try:
        for number, handler in before.items():
            if handler not in (signal.SIG_IGN, None):  # None is one that Python could not put back
                signal.signal(number, heard)
        yield
    finally:
        SHIELD.forget()
        for number, handler in before.items():
            if handler is not None:
                signal.signal(number, handler)
        if hasattr(signal, "SIGCHLD") and signal.getsignal(signal.SIGCHLD) is not children and children is not None:
            signal.signal(signal.SIGCHLD, children)


@contextmanager
def ignored() -> Iterator[None]:
    """Within it no signal ends the process: what was done is being written."""
    if not _in_main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda number, frame: None) for number in CAUGHT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
