"""Which code is installed, so that its version stands for it, and which is the user's own."""

from __future__ import annotations

import functools
import importlib.metadata
import sys
import sysconfig
from pathlib import Path

import deepobs_func


def installed(module: str | None) -> str | None:
    """The package and the version that a module belongs to.

    Args:
        module: its name; None is the user's own, as code that `exec` made.

    Returns:
        For example `"torch 2.13.0"`; `"python"` for the standard library; None for the user's own code, which may be
        edited without a new version: what runs as `__main__`, and what does not lie in `site-packages`.
    """
    return None if module is None else _package(module.partition(".")[0])


@functools.cache
def _package(top: str) -> str | None:
    if top == deepobs_func.__name__:
        return f"{top} {deepobs_func.__version__}"
    if top == "__main__":
        return None
    folder = _folder(top)
    if folder is None:
        return "python" if top in sys.builtin_module_names or top in sys.stdlib_module_names else None
    if {"site-packages", "dist-packages"} & set(folder.parts):
        return f"{top} {_version(top)}"
    return "python" if folder.is_relative_to(sysconfig.get_path("stdlib")) else None


def _folder(top: str) -> Path | None:
    """Where a module lies; None where it has no file."""
    module = sys.modules.get(top)
    file = getattr(module, "__file__", None)
    if file is not None:
        return Path(file).parent
    paths = list(getattr(module, "__path__", ()))
    return Path(paths[0]) if paths else None


def _version(top: str) -> str:
    """The version of a package, without the part that names a build (`+cpu`)."""
    try:
        found = importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(top, ())  # slow: it reads what every package has
        own = str(getattr(sys.modules.get(top), "__version__", "of no known version"))
        found = importlib.metadata.version(names[0]) if names else own
    return found.partition("+")[0]
