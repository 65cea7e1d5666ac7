"""Mistakes of a user: each names the value, what is allowed, and the mend.

The command line turns every `UserError` into one line on standard error and exit code 2; anything else is a
defect of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can mend: a wrong name, value, file or folder."""


class ConfigError(UserError):
    """A configuration that cannot be run."""


class DataError(UserError):
    """A data file that is missing, truncated or of another kind than it should be."""


def unknown(kind: str, name: str, known: Iterable[str], *, listing: str = "") -> str:
    """Says that `name` is no known `kind`, with the nearest known name, or all of them where none is near.

    Args:
        kind: what was asked for, e.g. `"problem"`.
        name: what the user wrote.
        known: the allowed names.
        listing: where all names are listed, e.g. `"deepobs list"`; without it they are in the message.

    >>> unknown("problem", "cifar_3c3d", ["cifar10_3c3d", "mnist_mlp"])
    "Unknown problem 'cifar_3c3d'. Did you mean 'cifar10_3c3d'?"
    """
    options = list(known)
    near = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if near:
        return f"Unknown {kind} {name!r}. Did you mean {near[0]!r}?"
    if listing:
        return f"Unknown {kind} {name!r}. `{listing}` shows those that there are."
    return f"Unknown {kind} {name!r}. Known: {', '.join(options) or 'none'}."
