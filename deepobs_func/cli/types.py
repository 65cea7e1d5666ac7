"""How the command line reads values: numbers, lists, names, and hyperparameters of any type."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

DEVICES = ("auto", "cpu", "cuda")
"""What completion offers for `--device`, which takes `cuda:1` and the like, too."""


def complete(*kinds: Iterable[str]) -> Any:
    """Completes one of some names, which are looked up when completion asks for them."""

    def complete_name(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for names in kinds for name in names if name.startswith(incomplete)]

    return complete_name


def complete_list(*kinds: Iterable[str]) -> Any:
    """Completes the last one of several names with commas between them."""

    def complete_last(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{name}") for names in kinds for name in names if name.startswith(last)]

    return complete_last


def folders(*names: str) -> Any:
    """Completes the path of a folder, or one of some names that stand in its place."""
    return _paths("dir", names)


def files(*names: str) -> Any:
    """Completes the path of a file, or one of some names that stand in its place."""
    return _paths("file", names)


def _paths(kind: str, names: Iterable[str]) -> Any:
    def complete_path(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        plain = [CompletionItem(name) for name in names if name.startswith(incomplete)]
        return [CompletionItem(incomplete, type=kind), *plain]

    return complete_path


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


class Share(click.ParamType[tuple[int, int]]):
    """A part of the runs, `I/N`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`(i, n)`."""
        if isinstance(value, tuple):
            return value
        index, _, parts = value.partition("/")
        if not (index.isdecimal() and parts.isdecimal()):
            return self.fail(f"{value!r} is no share of the runs, such as 0/4.", param, ctx)
        return int(index), int(parts)


class Seeds(click.ParamType[tuple[int, ...]]):
    """Whole numbers: `43..52` for all from one to the other, or several with commas."""

    name = "seeds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A tuple of numbers."""
        if not isinstance(value, str):
            return value
        try:
            ends = [[int(end) for end in part.split("..")] for part in value.replace(",", " ").split()]
            return tuple(seed for part in ends for seed in range(part[0], part[-1] + 1))
        except ValueError:
            return self.fail(f"{value!r} is neither 43..52 nor 43,44.", param, ctx)


class Search(click.ParamType[tuple[str, Any]]):
    """A name and where to look for its value: `lr=loguniform:1e-5:1e-1`, `momentum=0.9,0.99`."""

    name = "search"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, and what `study.spaces.space` takes."""
        if not isinstance(value, str):
            return value
        name, equals, text = value.partition("=")
        if not (equals and name and text):
            return self.fail(f"{value!r} must be NAME=SPACE, such as lr=loguniform:1e-5:1e-1.", param, ctx)
        word, colon, rest = text.partition(":")
        if colon:
            return name, {word: [Value(None).convert(part, param, ctx) for part in rest.split(":")]}
        try:
            return name, [*ast.literal_eval(f"[{text}]")]  # tuples have commas of their own
        except (ValueError, SyntaxError):
            return name, [Value(None).convert(part, param, ctx) for part in text.split(",")]
