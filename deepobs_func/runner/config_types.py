"""The types of a configuration's fields: each value is converted, or refused with the name of its field."""

from __future__ import annotations

import numbers
import operator
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.records.places import output_path

Convert = Callable[[str, Any], Any]
"""`(field, value) -> value`, or a ConfigError that names the field."""

_LONGEST = 80  # letters of a value in a message


def without_addresses(value: Any) -> str:
    """The `repr` of a value, the same in every process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def text(field: str, value: Any) -> str:
    """A name, a word."""
    if not isinstance(value, str):
        raise _refused(field, value, "it must be text")
    return str(value)


def problem(field: str, value: Any) -> str:
    """The name of a problem.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, str):
        return str(value)
    name = getattr(value, "name", None)
    if isinstance(name, str) and hasattr(value, "loss"):
        raise ConfigError(
            f"{option(field)} is a problem; it must be the name of one, here {name!r}. "
            "Give the problem itself to run(config, problem=...)."
        )
    raise _refused(field, value, "it must be the name of a problem, such as 'mnist_mlp'")


def optimizer(field: str, value: Any) -> str:
    """The name of a functional optimizer, or the import path of a class.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, type):
        path = f"{value.__module__}.{value.__qualname__}"
        raise ConfigError(f"{option(field)} is a class; it must be a name, or an import path, here {path!r}.")
    raise _refused(field, value, "it must be a name, such as 'adam', or an import path, such as 'torch.optim.AdamW'")


def whole(field: str, value: Any) -> int:
    """Python's and NumPy's whole numbers, as an int."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise _refused(field, value, "it must be a whole number")


def whole_or(word: str) -> Convert:
    """A whole number, or a word."""

    def convert(field: str, value: Any) -> int | str:
        if isinstance(value, str) and value == word:
            return word
        try:
            return whole(field, value)
        except ConfigError:
            raise _refused(field, value, f"it must be a whole number, or {word!r}") from None

    return convert


def flag(field: str, value: Any) -> bool:
    """True or False."""
    if isinstance(value, bool):
        return value
    raise _refused(field, value, "it must be True or False")


def whole_or_flag(field: str, value: Any) -> int | bool:
    """A whole number from 0, or True or False."""
    if isinstance(value, bool):
        return value
    count = whole(field, value)
    if count < 0:
        raise _refused(field, value, "it must be a whole number from 0, or True")
    return count


_EVERY = re.compile(r"([1-9]\d*)(steps|epochs)?")


def every(field: str, value: Any) -> Any:
    """`"auto"`, `"never"`, or a number of epochs or steps: `20`, `"20"`, `"500steps"`; as `(20, "epochs")`."""
    if isinstance(value, str) and value in ("auto", "never"):
        return value
    if isinstance(value, tuple | list) and len(value) == 2:
        value = f"{value[0]}{value[1]}"
    found = None if isinstance(value, bool) else _EVERY.fullmatch(str(value))
    if found is None:
        raise _refused(
            field, value, "it must be a number of epochs, such as 20, of steps, such as 500steps, auto or never"
        )
    return int(found[1]), found[2] or "epochs"


def number(field: str, value: Any) -> float:
    """Python's and NumPy's real numbers, as a float."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise _refused(field, value, "it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise _refused(field, value, "it must be a number that a float can hold") from None


def path(field: str, value: Any) -> str:
    """A path, with the user's home instead of `~`."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise _refused(field, value, "it must be a path")
    return str(output_path(value)) if value.startswith("~") else value


def device(field: str, value: Any) -> str:
    """`"auto"`, or a device of torch's, as text or as it is."""
    if isinstance(value, str) or (type(value).__name__, type(value).__module__) == ("device", "torch"):
        return str(value)
    raise _refused(field, value, "it must be 'auto', or a device such as 'cpu' or 'cuda:1'")


def mapping(field: str, value: Any) -> dict[str, Any]:
    """Values by name."""
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise _refused(field, value, "it must be a mapping from names to values, such as {'momentum': 0.9}, or {}")
    return dict(value)


def names(field: str, value: Any) -> tuple[str, ...]:
    """Several names, also as one text with commas or spaces between them."""
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    found = list(value) if isinstance(value, Iterable) else [value]
    if not all(isinstance(name, str) for name in found):
        raise _refused(field, value, "it must be several names, such as ['grad_norm', 'alpha'], or []")
    return tuple(found)


def several(convert: Convert) -> Convert:
    """Several values of one type, as a tuple."""

    def convert_all(field: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
            raise _refused(field, value, "it must be a sequence of numbers")
        return tuple(convert(field, item) for item in value)

    return convert_all


def choice(allowed: Sequence[str]) -> Convert:
    """One of some words."""

    def convert(field: str, value: Any) -> str:
        if not isinstance(value, str):
            raise _refused(field, value, f"it must be one of {', '.join(map(repr, allowed))}")
        if value not in allowed:
            raise ConfigError(unknown(f"choice for {option(field)}", value, allowed))
        return str(value)

    return convert


def optional(convert: Convert) -> Convert:
    """The same, or None."""
    return lambda field, value: None if value is None else convert(field, value)


def _refused(field: str, value: Any, allowed: str) -> ConfigError:
    try:
        shown = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        shown = f"of type {type(value).__name__}"
    shown = shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}..."
    return ConfigError(f"{option(field)} {shown}: {allowed}.")
