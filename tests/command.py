"""A call of the command line in this process, for the fixture `deepobs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Deepobs = Callable[..., Outcome]
