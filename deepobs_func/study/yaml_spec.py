"""The YAML of a study: the arguments of `Study` by name, and settings beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepobs_func.errors import unknown
from deepobs_func.study import port_yaml
from deepobs_func.study.axes import LISTING, SETTINGS
from deepobs_func.study.places import Origin, SpecError, told_by
from deepobs_func.study.spec import KEYS, Study
from deepobs_func.study.yaml_file import read_yaml

_NEEDED = ("problems", "optimizers")


def read(path: str | Path) -> Study:
    """The study of a YAML file: ours, or one of the PyTorch port, which is told apart by its keys.

    Args:
        path: of the file.

    Raises:
        ConfigError: the file is no readable YAML, or no study; the message has the line.
    """
    data, origin = read_yaml(path)
    with told_by(origin):
        if not isinstance(data, dict):
            raise SpecError((), f"It holds {_kind(data)}, not a mapping; see docs/studies.md for what a study says.")
        if port_yaml.is_port(data):
            return port_yaml.study(data, origin)
    return _study(data, origin)


def _study(data: dict[str, Any], origin: Origin) -> Study:
    with told_by(origin):
        for key, value in data.items():
            if key not in (*KEYS, *SETTINGS):
                raise SpecError((key,), unknown("key of a study", key, (*KEYS, *SETTINGS), listing=LISTING))
            if value is None and key not in SETTINGS:
                raise SpecError((key,), "It is empty; give a value, or leave the key out.")
        for key in _NEEDED:
            if key not in data:
                raise SpecError((), f"The study has no {key}; add the key.")
    return Study(**data, origin=origin)


def _kind(data: Any) -> str:
    known = {"list": "a list", "str": "a text"}
    return known.get(type(data).__name__, f"the value {data!r}")
