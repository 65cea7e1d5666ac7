"""What reports are made of: Markdown tables, and targets that are met or missed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]


class Target(NamedTuple):
    """Something that is promised.

    Attributes:
        what: in words.
        value: what was measured.
        bound: what it is held against.
        least: whether the value should be at least the bound, or at most.
    """

    what: str
    value: float
    bound: float
    least: bool = True

    @property
    def met(self) -> bool:
        """Whether it holds."""
        return self.value >= self.bound if self.least else self.value <= self.bound

    def __str__(self) -> str:
        verdict, relation = "met" if self.met else "MISSED", "at least" if self.least else "at most"
        return f"{verdict}: {self.what} {self.value:.3g}, should be {relation} {self.bound:g}"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (header, ["---"] * len(header), *lines))


def ratio(row: Row, digits: int = 2) -> str:
    """A ratio with its quartiles, if it has any."""
    low, high = row.get("quartiles") or (None, None)
    spread = "" if low is None else f" ({low:.{digits}f}-{high:.{digits}f})"
    return f"{row['ratio']:.{digits}f}{spread}"


def heading(run: dict[str, Any], *notes: str) -> str:
    """What a table is about."""
    stand_in = ["stand-in data"] if run.get("synthetic") else []
    share = [f"{run['share']:.0%} of an epoch"] if run.get("share", 1) != 1 else []
    quick = ["a quick look"] if run.get("quick") else []
    return ", ".join([f"**{run['problem']}**", f"{run['threads']} thread(s)", *stand_in, *share, *notes, *quick])


def verdicts(targets: Iterable[Target]) -> str:
    """A line each."""
    return "\n".join(map(str, targets))
