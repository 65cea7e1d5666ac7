"""Packages of the extras, which are imported where they are used; a command that lacks one says how to get it."""

from __future__ import annotations

import importlib
from types import ModuleType

from deepobs_func.errors import ConfigError

_EXTRAS = {"pandas": "analysis"}


def need(package: str, what: str) -> ModuleType:
    """A package of an extra.

    Args:
        package: its name, e.g. `"pandas"`.
        what: what needs it, for the message.

    Returns:
        The module.

    Raises:
        ConfigError: it is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        extra = _EXTRAS.get(package.partition(".")[0], "report")
        raise ConfigError(f"{what} needs {package}: pip install 'deepobs-func[{extra}]'") from error
