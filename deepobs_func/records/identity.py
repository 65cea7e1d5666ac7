"""What tells two runs apart: hashes of plain data, and the machine."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from typing import Any

_EXPLAINS = ("reason",)  # fields of an execution that say why, and decide nothing


def run_id(configuration: Mapping[str, Any]) -> str:
    """The SHA-256 of the configuration's canonical JSON (keys sorted, no spaces)."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def execution_id(execution: Mapping[str, Any]) -> str:
    """The SHA-256 of how a run is executed.

    Runs of equal `run_id` and `execution_id` have the same numbers, bit for bit.

    Args:
        execution: the fields of the execution, and those of the machine (`runner.identity.machine`). A `reason` is
            left out.

    Returns:
        64 hexadecimal digits.
    """
    return run_id({name: value for name, value in execution.items() if name not in _EXPLAINS})


def environment() -> dict[str, Any]:
    """The machine and the interpreter, as far as they are known without torch."""
    from deepobs_func import __version__

    return {
        "deepobs_func": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
