"""Where something stands in a study's specification, for messages: a name in Python, a line of a file."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from deepobs_func.errors import ConfigError

Where = tuple[str | int, ...]
"""The keys and indices that lead to a value, e.g. `("optimizers", "sgd", "lr", 0)`."""


@dataclass(frozen=True)
class Origin:
    """The file of a study.

    Attributes:
        file: its name.
        lines: the line of each value, from 1.
        names: what the file calls a value, where that is not what a study calls it.
    """

    file: str
    lines: Mapping[Where, int] = field(default_factory=dict)
    names: Mapping[Where, str] = field(default_factory=dict)

    def line(self, where: Where) -> int | None:
        """The line of a value, or of the nearest one around it that has one."""
        return next((self.lines[part] for part in _prefixes(where) if part in self.lines), None)

    def name(self, where: Where) -> str:
        """What the file calls a value."""
        for part in _prefixes(where):
            if part in self.names:
                return self.names[part]
        return name_of(where)

    def told(self, where: Where) -> str:
        """File, line and name of a value, for the head of a message."""
        line = self.line(where)
        return ": ".join(
            part for part in (f"{self.file}, line {line}" if line else self.file, self.name(where)) if part
        )


class SpecError(ConfigError):
    """A specification of a study that cannot be run.

    Attributes:
        where: the keys and indices of the value that is wrong.
        reason: what is wrong with it.
        origin: the file that the message tells; None where it tells none.
    """

    def __init__(self, where: Where, reason: str, origin: Origin | None = None) -> None:
        self.where: Where = where
        self.reason: str = reason
        self.origin: Origin | None = origin
        head = name_of(where) if origin is None else origin.told(where)
        told = reason if origin is None else in_yaml(reason)
        super().__init__(f"{head}: {told}" if head else told)

    def __reduce__(self) -> tuple[type[SpecError], tuple[Where, str, Origin | None]]:
        return SpecError, (self.where, self.reason, self.origin)


@contextmanager
def at(where: Where) -> Iterator[None]:
    """Within it, a mistake is one of the value at a place.

    Raises:
        SpecError: in the place of a ConfigError that does not say its place.
    """
    try:
        yield
    except SpecError:
        raise
    except ConfigError as error:
        raise SpecError(where, reason_of(error, where)) from error


@contextmanager
def told_by(origin: Origin | None) -> Iterator[None]:
    """Within it, mistakes are told with the file and the line of what they are about.

    Raises:
        SpecError: the same one, with file and line in its message.
    """
    try:
        yield
    except SpecError as error:
        if origin is None or error.origin is not None:
            raise
        raise SpecError(error.where, error.reason, origin) from error


def reason_of(error: ConfigError, where: Where) -> str:
    """The words of an error, without a name in front that the place ends in.

    >>> reason_of(ConfigError("epochs 0: it must be a whole number from 1."), ("overrides", "mnist_mlp", "epochs"))
    '0: it must be a whole number from 1.'
    """
    keys = [key for key in where if isinstance(key, str)]
    return str(error).removeprefix(f"{keys[-1]} " if keys else "")


_YAML = {True: "true", False: "false", None: "null"}


def in_yaml(reason: str) -> str:
    """A reason with the value that it begins with as YAML has it; names, paths and the words after it stay.

    >>> in_yaml("epochs (1, None): it must be a whole number from 1.")
    'epochs [1, null]: it must be a whole number from 1.'
    >>> in_yaml("None.Opt: it must be an import path.")
    'None.Opt: it must be an import path.'
    """
    for end in (found.start() for found in re.finditer(": ", reason)):
        word, space, rest = reason[:end].partition(" ")
        for before, text in (("", reason[:end]), (word + space, rest)):
            with suppress(ValueError, SyntaxError):
                return before + value_in_yaml(ast.literal_eval(text)) + reason[end:]
    return reason


def value_in_yaml(value: object) -> str:
    """A value as YAML has it: its constants, and lists for tuples.

    >>> value_in_yaml({"track": ("loss", None), "None": True})
    "{'track': ['loss', null], 'None': true}"
    """
    if value is None or isinstance(value, bool):
        return _YAML[value]
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{value_in_yaml(key)}: {value_in_yaml(each)}' for key, each in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(value_in_yaml, value))}]"
    return repr(value)


def name_of(where: Where) -> str:
    """A place as text.

    >>> name_of(("optimizers", "sgd", "lr", 0))
    'optimizers.sgd.lr[0]'
    """
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in where)
    return text.removeprefix(".")


def _prefixes(where: Where) -> Iterator[Where]:
    for length in range(len(where), -1, -1):
        yield where[:length]
