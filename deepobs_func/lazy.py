"""Names of a package that are imported when they are first used, so that listing things imports no torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from typing import Any

Attached = tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]


def attach(package: str, paths: Mapping[str, str], also: Iterable[str] = ()) -> Attached:
    """Makes what a package needs to offer names that are imported on use, to `dir()`, `help()` and completion as well.

    The names are looked up at each use, so a replaced function is seen. For type checkers, the package imports them
    under `TYPE_CHECKING`.

    Args:
        package: its `__name__`.
        paths: from each name to `module:name`, where it is found.
        also: the names of `__all__` that the package has itself.

    Returns:
        `__getattr__`, `__dir__` and `__all__` of the package.
    """
    names = [*also, *paths]

    def get(name: str) -> Any:
        if name in paths:
            module, _, attribute = paths[name].partition(":")  # `pkgutil.resolve_name` takes 15 microseconds
            return getattr(import_module(module), attribute) if attribute else import_module(module)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def listed() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names})

    return get, listed, names
