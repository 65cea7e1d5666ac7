"""Objects by import path, as a user writes them: `package.module:name` or `package.module.name`."""

from __future__ import annotations

import importlib
import linecache
import sysconfig
import traceback
from pathlib import Path
from typing import Any

from deepobs_func.errors import ConfigError, unknown


def load_object(path: str, kind: str) -> Any:
    """What an import path names.

    Args:
        path: `package.module:name` or `package.module.name`.
        kind: what it should be, for messages: `"problem"`, `"optimizer"`.

    Raises:
        ConfigError: the path does not exist; the message names the part that does.
    """
    module_path, _, name = path.rpartition(":") if ":" in path else path.rpartition(".")
    if not (module_path and name):
        raise ConfigError(f"The {kind} {path!r} is no import path. Give package.module:name.")
    try:
        module = importlib.import_module(module_path)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"The {kind} {path!r} cannot be imported: {cause(error, FRAMES)}. Give package.module:name, importable "
            "from the current folder or installed."
        ) from error
    if not hasattr(module, name):
        raise ConfigError(unknown(f"name in {module_path}:", name, [key for key in vars(module) if key[:1] != "_"]))
    return getattr(module, name)


FRAMES = 3
"""How much of its traceback is shown of what a user's module raises while it is imported, or a function of it."""


def cause(error: BaseException, frames_shown: int = 1) -> str:
    """An error's own words, and where in the user's code it was raised; elsewhere, if that has no part in it.

    Args:
        error: what was raised.
        frames_shown: how many places, from the outer ones to the innermost; with several, also the line of the latter.
    """
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames, words = [*frames, (error.filename, error.lineno)], error.msg
    else:
        words = str(error)
    real = [frame for frame in frames if not frame[0].startswith("<")]
    found = [frame for frame in real if not _is_of_others(frame[0])]
    if not found and not isinstance(error, ImportError):
        found = real
    places = " -> ".join(f"{file}:{line}" for file, line in dict.fromkeys(found[-frames_shown:]))
    line = linecache.getline(found[-1][0], found[-1][1] or 0).strip() if found and frames_shown > 1 else ""
    where = f" ({places}{f': {line}' if line else ''})" if places else ""
    return f"{type(error).__name__}: {words}{where}"


def _is_of_others(file: str) -> bool:
    """Whether a file belongs to this package, to an installed one or to the standard library."""
    path = Path(file)
    folders = (Path(__file__).parent, Path(sysconfig.get_path("stdlib")))
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or any(map(path.is_relative_to, folders))
