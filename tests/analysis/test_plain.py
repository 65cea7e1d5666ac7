"""Results as strict JSON."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from deepobs_func.analysis.plain import as_json


class Pair(NamedTuple):
    name: str
    value: float


@dataclass
class Holder:
    pair: Pair
    table: Any


def test_everything_becomes_plain() -> None:
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, math.inf], "c": [{"x": np.float64(1.5)}, {}]})
    held = Holder(Pair("é", math.nan), table)
    assert json.loads(as_json({"held": held, 1: {3}, "path": Path("a"), "array": np.arange(2), "none": None})) == {
        "held": {
            "pair": {"name": "é", "value": None},
            "table": [{"a": 1, "b": 0.5, "c": {"x": 1.5}}, {"a": 2, "b": None, "c": {}}],
        },
        "1": [3],
        "path": "a",
        "array": [0, 1],
        "none": None,
    }
    assert "é" in as_json("é")
