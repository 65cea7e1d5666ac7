"""What a run may know of the study that it is part of. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Series:
    """The study that a run is part of.

    Attributes:
        runs: how many runs of its structure are to come, this one included: what compiling costs is shared by all.
        choices: the folder in which the executions of the study are kept, so that all its runs are executed alike;
            None for that of the user.
    """

    runs: int = 1
    choices: Path | None = None


ALONE = Series()
"""Of a run that is part of none."""
