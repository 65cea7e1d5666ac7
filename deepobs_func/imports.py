"""Objects by import path, as a user writes them: `package.module:name` or `package.module.name`."""

from __future__ import annotations

import importlib
import traceback
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
    try:
        module = importlib.import_module(module_path)
    except Exception as error:  # a user's module may raise anything while it is imported
        raise ConfigError(
            f"The {kind} {path!r} cannot be imported: {cause(error)}. Give package.module:name, importable from the "
            "current folder or installed."
        ) from error
    if not hasattr(module, name):
        raise ConfigError(unknown(f"name in {module_path}:", name, [key for key in vars(module) if key[:1] != "_"]))
    return getattr(module, name)


def cause(error: BaseException) -> str:
    """An error's own words, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"
