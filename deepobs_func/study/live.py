"""What a sweep shows while it goes: one live table on a terminal, a line for each run elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table as Grid
from rich.text import Text

from deepobs_func.study.scheduler import Outcome, Scheduler

MOST_ROWS = 12  # of runs under way
PERIOD = 0.5  # seconds between two drawings


class Table:
    """A context manager that shows a sweep.

    Args:
        total: how many runs it has; None where that is not known.
        quiet: whether nothing but what went wrong is shown.
        console: where.
    """

    def __init__(self, total: int | None, *, quiet: bool = False, console: Console | None = None) -> None:
        self._total, self._quiet = total, quiet
        self._console = console or Console(stderr=quiet)
        self._live: Live | None = None
        self._start, self._drawn, self._told = time.monotonic(), -PERIOD, 0

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        if self._live is not None:
            self._live.__exit__(*exception)
            self._live = None

    def tell(self, line: str) -> None:
        """Prints a line above the table."""
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def show(self, scheduler: Scheduler, outcomes: Sequence[Outcome]) -> None:
        """Draws how far it is."""
        if self._live is None:
            new, self._told = outcomes[self._told :], len(outcomes)
            for outcome in new if not self._quiet else ():
                if outcome.new:
                    self.tell(f"{self._position(len(outcomes))} {outcome.status}  {_name(outcome)}")
            return
        if time.monotonic() - self._drawn >= PERIOD:
            self._drawn = time.monotonic()
            self._live.update(self.drawn(scheduler, outcomes), refresh=True)

    def drawn(self, scheduler: Scheduler, outcomes: Sequence[Outcome]) -> Group:
        """The table: a line on the whole, and one for each run under way."""
        counts = Counter(outcome.status for outcome in outcomes)
        words = ", ".join(f"{number} {status}" for status, number in counts.items())
        head = Text(f"{self._position(len(outcomes))} {words}  {self._left(scheduler, outcomes)}".rstrip())
        grid = Grid.grid(padding=(0, 1))
        for entry in scheduler.running[:MOST_ROWS]:
            share = float(entry.progress.get("share", 0.0))
            last = entry.progress.get("last", {})
            loss = f"test {last['test_loss']:.4g}" if "test_loss" in last else ""
            epoch = f"{entry.progress.get('epoch', 0)}/{entry.progress.get('epochs', '?')}"
            grid.add_row(ProgressBar(total=1.0, completed=share, width=20), epoch, loss, Text(entry.label))
        return Group(head, grid)

    def _position(self, ended: int) -> str:
        return f"{ended}/{self._total}" if self._total is not None else str(ended)

    def _left(self, scheduler: Scheduler, outcomes: Sequence[Outcome]) -> str:
        """Runs a minute, and the time that is left, of what was computed here."""
        done = sum(outcome.new for outcome in outcomes)
        done_share = done + sum(float(entry.progress.get("share", 0.0)) for entry in scheduler.running)
        seconds = time.monotonic() - self._start
        if not done_share or seconds < 1:
            return ""
        waiting = sum(len(entry.jobs) for entry in (*scheduler.waiting, *scheduler.running))
        left = seconds / done_share * max(waiting - (done_share - done), 0)
        return f"{60 * done / seconds:.1f} runs a minute, {left / 60:.1f} min left"


def _name(outcome: Outcome) -> str:
    config, record = outcome.config, outcome.record
    result = f"  test {record.test_losses[-1]:.4g}" if record and record.test_losses else ""
    return f"{config.problem} {config.optimizer} lr {config.lr:g} seed {config.seed}{result}"
