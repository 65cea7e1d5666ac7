"""Keyed random points for a sweep's distributions: the same spec draws the same values. Imports no torch.

Each hyperparameter of an optimizer has a stream of its own, so that another hyperparameter, another problem or more
samples change no value that was drawn.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from deepobs_func.errors import ConfigError
from deepobs_func.study.spaces import Space

_BLOCK = 64
_TRIES = 1000  # for each sample, before it is said that there are no more


def points(seed: int, *names: str) -> Iterator[float]:
    """Uniform points of [0, 1) without an end.

    Args:
        seed: of the study's draws.
        names: what the points are for: an optimizer, a hyperparameter.

    Yields:
        Multiples of 2**-53: the upper bits of NumPy's Philox4x64 under the key that is a hash of seed and names.
    """
    from numpy.random import Philox  # 0.1 s, where there is something to draw

    text = "\0".join([str(seed), *names])
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")
    source = Philox(key=key)
    while True:
        yield from ((int(bits) >> 11) * 2.0**-53 for bits in source.random_raw(_BLOCK))


def draw(spaces: Mapping[str, Space], samples: int, seed: int, name: str) -> list[dict[str, Any]]:
    """Draws from several distributions together, no combination twice.

    Args:
        spaces: by hyperparameter.
        samples: how many.
        seed: of the study's draws.
        name: of the optimizer.

    Returns:
        The values by hyperparameter, in the order in which they were drawn; the first ones stay when more are drawn.

    Raises:
        ConfigError: there are not so many combinations.

    >>> from deepobs_func.study.spaces import Uniform
    >>> spaces = {"lr": Uniform(0.0, 1.0)}
    >>> draw(spaces, 2, seed=42, name="sgd") == draw(spaces, 3, seed=42, name="sgd")[:2]
    True
    """
    most = math.prod(each.count() for each in spaces.values())
    found: dict[str, dict[str, Any]] = {}
    rows = zip(*(points(seed, name, each) for each in spaces), strict=True)
    for row in itertools.islice(rows, 0 if samples > most else _TRIES * samples):
        values = {key: each.at(u) for (key, each), u in zip(spaces.items(), row, strict=True)}
        found.setdefault(repr(values), values)
        if len(found) == samples:
            return list(found.values())
    there = most if samples > most else len(found)
    raise ConfigError(f"samples {samples}: there are {there} combinations of {', '.join(spaces)}; give a list instead.")
