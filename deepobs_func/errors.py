"""Mistakes of a user: each names the value, what is allowed, and how to fix it.

The command line turns every `UserError` into one line on standard error and exit code 2; anything else is a
defect of ours and keeps its traceback.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

_OPTION = re.compile(r"⟦([A-Za-z_][\w.]*)⟧")


class UserError(ValueError):
    """A mistake that the user can fix: a wrong name, value, file or folder.

    A message may hold `option(name)`. `str(error)` shows the name as Python has it; `told` shows it otherwise, as the
    command line does with its flags.

    Attributes:
        field: the first option in the message; None where there is none.
    """

    def __init__(self, message: str = "") -> None:
        found = _OPTION.search(message)
        self.field: str | None = found[1] if found else None
        self._message = message
        super().__init__(_OPTION.sub(lambda match: _in_python(match[1]), message))

    def told(self, name: Callable[[str], str]) -> str:
        """The message, with each option under the name that the function gives it."""
        return _OPTION.sub(lambda match: name(match[1]), self._message)


class ConfigError(UserError):
    """A configuration that cannot be run."""


class ResumeError(ConfigError):
    """A checkpoint that a run cannot go on from: of another run, version or machine, or asked for something else."""


class DataError(UserError):
    """A data file that is missing, truncated or of another kind than it should be."""


def option(name: str) -> str:
    """Marks an option in the message of a `UserError`: a field of `RunConfig`, or `hyperparams.NAME`.

    >>> error = ConfigError(f"{option('lr')} -1.0: it must be positive.")
    >>> str(error), error.field
    ('lr -1.0: it must be positive.', 'lr')
    >>> error.told(as_flag)
    '--lr -1.0: it must be positive.'
    """
    return f"⟦{name}⟧"


def as_flag(name: str) -> str:
    """The flag of an option on the command line.

    >>> as_flag("batch_size"), as_flag("hyperparams.momentum"), as_flag("problem")
    ('--batch-size', '--opt.momentum', 'PROBLEM')
    """
    if name.startswith("hyperparams."):
        return f"--opt.{name.removeprefix('hyperparams.')}"
    return "PROBLEM" if name == "problem" else f"--{name.replace('_', '-')}"


def _in_python(name: str) -> str:
    whole, _, part = name.partition(".")
    return f"{whole}[{part!r}]" if part else whole


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to what a user wrote, whatever the case of its letters; None if none is near."""
    import difflib  # when a name is wrong

    options = list(known)
    lower: dict[str, str] = {}
    for candidate in options:
        lower.setdefault(candidate.lower(), candidate)
    if name.lower() in lower:
        return lower[name.lower()]
    exact = difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    if exact:
        return exact[0]
    near = difflib.get_close_matches(name.lower(), list(lower), n=1, cutoff=0.6)
    return lower[near[0]] if near else None


def unknown(kind: str, name: str, known: Iterable[str], *, listing: str = "") -> str:
    """Says that `name` is not a known `kind`, with the nearest known name, or all of them where none is near.

    Args:
        kind: what was asked for, e.g. `"problem"`.
        name: what the user wrote.
        known: the allowed names.
        listing: where all names are listed, e.g. `"deepobs list"`; without it they are in the message.

    Returns:
        A sentence for the message of an error.

    >>> unknown("problem", "cifar_3c3d", ["cifar10_3c3d", "mnist_mlp"])
    "Unknown problem 'cifar_3c3d'. Did you mean 'cifar10_3c3d'?"
    >>> unknown("optimizer", "AdamW", ["adam", "adamw"])
    "Unknown optimizer 'AdamW'. Did you mean 'adamw'?"
    """
    options = list(known)
    near = nearest(name, options)
    if near is not None:
        return f"Unknown {kind} {name!r}. Did you mean {near!r}?"
    if listing:
        return f"Unknown {kind} {name!r}. `{listing}` shows those that there are."
    return f"Unknown {kind} {name!r}. Known: {', '.join(options) or 'none'}."
