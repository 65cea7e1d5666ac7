"""In what two studies differ, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from deepobs_func.study.places import Where, name_of

_NONE = "nothing"
_LONGEST = 60  # letters of a value


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what two studies differ.

    Args:
        before, now: as plain data (`Study.plain`), also read from JSON.

    Returns:
        A line for each value that is another one, with its place; none where the studies are the same.

    >>> differences({"seeds": [42], "epochs": 5}, {"seeds": [42, 43], "epochs": 5})
    ['seeds: with [43]']
    """
    return [f"{name_of(where)}: {_told(old, new)}" for where, old, new in _pairs(before, now, ())]


def _pairs(before: Any, now: Any, where: Where) -> Iterator[tuple[Where, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            yield from _pairs(before.get(key, _NONE), now.get(key, _NONE), (*where, key))
    elif _listed(before) != _listed(now):
        yield where, before, now


def _listed(value: Any) -> Any:
    """Tuples as lists, as JSON has both."""
    return [_listed(item) for item in value] if isinstance(value, list | tuple) else value


def _told(before: Any, now: Any) -> str:
    """Of two lists, what one of them alone has; else both values."""
    old, new = _listed(before), _listed(now)
    if isinstance(old, list) and isinstance(new, list):
        more, fewer = [each for each in new if each not in old], [each for each in old if each not in new]
        told = [f"{word} {_shown(some)}" for word, some in (("with", more), ("without", fewer)) if some]
        return ", ".join(told) or "in another order"
    return f"{_shown(now)}, before: {_shown(before)}"


def _shown(value: Any) -> str:
    text = value if value == _NONE else repr(_listed(value))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
