"""A hyperparameter's space, as a user writes it: a value, a list, or a mapping with one kind of space."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

from deepobs_func.errors import ConfigError, unknown
from deepobs_func.study.import_paths import import_path
from deepobs_func.study.spaces import (
    Between,
    Choice,
    IntUniform,
    LinearGrid,
    LogGrid,
    LogUniform,
    OneMinusLogUniform,
    Space,
    Uniform,
    Values,
)

_GRIDS: Mapping[str, type[LinearGrid] | type[LogGrid]] = {kind.word: kind for kind in (LinearGrid, LogGrid)}
_BETWEEN: Mapping[str, type[Between]] = {
    kind.word: kind for kind in (Uniform, LogUniform, OneMinusLogUniform, IntUniform)
}
WORDS = (Values.word, *_GRIDS, *_BETWEEN, Choice.word)
"""The kinds of spaces, as they are called in a study's YAML."""


def space(value: Any, *, named: Mapping[str, Space] | None = None) -> Space:
    """A space, as a user writes it.

    Args:
        value: a space; a list of values; a mapping with one kind, such as `{"log": [1e-5, 1e2, 36]}` or
            `{"loguniform": [1e-4, 1e-1], "samples": 8}`; or a single value, also a tuple.
        named: spaces that a text stands for.

    Returns:
        The space; of a single value, one of that value alone.

    Raises:
        ConfigError: the mapping has another key, the numbers do not make a space, or a value is no plain data.

    >>> space([0.1, 0.01]), space({"uniform": [0, 1]}), space(0.9)
    (Values(values=(0.1, 0.01)), Uniform(low=0, high=1, samples=None), Values(values=(0.9,)))
    """
    if isinstance(value, Space):
        for each in value.extremes():
            _fixed(each)
        return value
    if isinstance(value, str) and value in (named or {}):
        return (named or {})[value]
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if isinstance(value, list):
        return Values(tuple(_fixed(item) for item in value))
    return Values((_fixed(value),))


def _of_mapping(value: Mapping[str, Any]) -> Space:
    words = [key for key in value if key != "samples"]
    for word in words:
        if word not in WORDS:
            raise ConfigError(unknown("kind of values", str(word), (*WORDS, "samples")))
    if len(words) != 1:
        raise ConfigError(f"It has {' and '.join(words) or 'no kind of values'}; give one of {', '.join(WORDS)}.")
    (word,) = words
    content, extra = value[word], {name: value[name] for name in value if name != word}
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ConfigError(f"{word}: {content!r} must be a list.")
    if extra and word in (Values.word, *_GRIDS):
        raise ConfigError(f"samples {extra['samples']!r}: {word} is no distribution; leave samples out.")
    if word in _GRIDS:
        low, high, num = _numbers(word, content, ("low", "high", "num"))
        return _GRIDS[word](low, high, num)
    if word in _BETWEEN:
        low, high = _numbers(word, content, ("low", "high"))
        return _BETWEEN[word](low, high, **extra)
    values = tuple(_fixed(item) for item in content)
    return Values(values) if word == Values.word else Choice(values, **extra)


def _numbers(word: str, content: Sequence[Any], names: Sequence[str]) -> Sequence[Any]:
    if len(content) != len(names):
        raise ConfigError(f"{word}: {[*content]!r} must be [{', '.join(names)}].")
    return content


def _fixed(value: Any) -> Any:
    """A value that nobody changes and that JSON can hold: lists become tuples, a class its import path.

    Raises:
        ConfigError: it is an object of another kind.
    """
    if isinstance(value, list | tuple):
        return tuple(_fixed(item) for item in value)
    if isinstance(value, Mapping):
        return {str(key): _fixed(item) for key, item in value.items()}
    if isinstance(value, type):  # of an optimizer that wraps another one
        return import_path(value, "optimizer")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's too
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    raise ConfigError(
        f"{value!r} is no value of a study's hyperparameter, which JSON must hold. Give numbers, texts, booleans, None "
        "or lists of these, or a factory that makes it."
    )
