"""How the command line reads values: numbers, lists, names, and hyperparameters of any type."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem


def complete(*kinds: Iterable[str]) -> Any:
    """Completes one of some names, which are looked up when completion asks for them."""

    def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for names in kinds for name in names if name.startswith(incomplete)]

    return complete_name


class Value(click.ParamType[Any]):
    """A hyperparameter's value, read as its default's type: `True`, `0.9`, `(0.9, 0.99)`, `None` or text."""

    name = "value"

    def __init__(self, default: Any) -> None:
        self.default = default

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Booleans are never truthy text: `false`, `no` and `0` are false."""
        if not isinstance(value, str):
            return value
        if isinstance(self.default, bool):
            return click.BOOL.convert(value, param, ctx)
        if isinstance(self.default, float):
            return _float(value, self, param, ctx)
        if value.lower() in ("true", "false", "none"):
            return {"true": True, "false": False, "none": None}[value.lower()]
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value


def _float(value: str, kind: click.ParamType[Any], param: click.Parameter | None, ctx: click.Context | None) -> float:
    try:
        return float(value)
    except ValueError:
        return kind.fail(f"{value!r} is not a number.", param, ctx)


class Numbers(click.ParamType[tuple[float, ...]]):
    """Several numbers, separated by spaces or commas."""

    name = "numbers"

    def __init__(self, kind: type[int] | type[float]) -> None:
        self.kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of numbers."""
        if not isinstance(value, str):
            return value
        try:
            return tuple(self.kind(part) for part in value.replace(",", " ").split())
        except ValueError:
            return self.fail(f"{value!r} is no list of {self.kind.__name__} numbers.", param, ctx)


class Names(click.ParamType[tuple[str, ...]]):
    """Names with commas between them."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of names."""
        return tuple(part for part in value.replace(",", " ").split()) if isinstance(value, str) else value


class Whole(click.ParamType[int | bool]):
    """A whole number; True where the flag stands alone."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int, or True."""
        try:
            return value if isinstance(value, bool) else int(value)
        except ValueError:
            return self.fail(f"{value!r} is no whole number.", param, ctx)


class Every(click.ParamType[int | str]):
    """A whole number, or `log`."""

    name = "steps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An int, or `"log"`."""
        try:
            return value if value == "log" else int(value)
        except ValueError:
            return self.fail(f"{value!r} is neither a whole number nor log.", param, ctx)
