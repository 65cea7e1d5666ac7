"""The import path of a class or a function, by which every process of a study finds it."""

from __future__ import annotations

import sys
from typing import Any

from deepobs_func.errors import ConfigError


def import_path(value: Any, kind: str) -> str:
    """The import path of a value; a text is one, or a name, already.

    Args:
        value: a class, a function, or a text.
        kind: what it is, for messages: `"problem"`, `"optimizer"`.

    Returns:
        `package.module:name`, or the text.

    Raises:
        ConfigError: another process cannot import it; the message says why, and what to give.

    >>> import_path(import_path, "optimizer")
    'deepobs_func.study.import_paths:import_path'
    """
    if isinstance(value, str):
        return value
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    mend = f"Give the name of the {kind}, or an import path, such as my_file:make."
    if not (callable(value) and isinstance(module, str) and isinstance(name, str)):
        raise ConfigError(f"{_shown(value)} has no import path, by which worker processes could make it. {mend}")
    if module == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is None:
            raise ConfigError(
                f"{name} is defined in the script itself, where worker processes do not find it. "
                "Move it into a file of its own and import it."
            )
        module = spec.name
    if "." in name or "<" in name or getattr(sys.modules.get(value.__module__), name, None) is not value:
        raise ConfigError(
            f"{name} of {module} is not at the top level of its module, so worker processes cannot import it. {mend}"
        )
    return f"{module}:{name}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."
