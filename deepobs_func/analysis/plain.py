"""Results as plain data, for strict JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any


def as_plain(value: Any) -> Any:
    """A value as strict JSON can hold it.

    Args:
        value: numbers of NumPy's, frames (a list of rows), dataclasses, mappings, sequences, or anything as text.

    Returns:
        The same as plain data. What is not finite is None.
    """
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [as_plain(row) for row in value.to_dict("records")]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if hasattr(value, "_asdict"):
        return as_plain(value._asdict())
    if hasattr(value, "tolist"):
        return as_plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): as_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [as_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def as_json(value: Any) -> str:
    """A value as strict JSON: what is not finite is null."""
    return json.dumps(as_plain(value), indent=1, ensure_ascii=False, allow_nan=False)
