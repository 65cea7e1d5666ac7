"""A YAML file as plain data, with the line of each value. YAML 1.2, read by ruamel.yaml; no tag makes an object."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepobs_func.errors import ConfigError
from deepobs_func.study.places import Origin, SpecError, Where

if TYPE_CHECKING:
    from ruamel.yaml import YAML
    from ruamel.yaml.nodes import Node

MOST_BYTES, MOST_VALUES, DEEPEST = 1 << 18, 100_000, 64
_PREFIX = "tag:yaml.org,2002:"
_AS_TEXT = ("str", "timestamp", "value")  # the last two are no types of YAML 1.2
_SCALARS = ("null", "bool", "int", "float")
_LARGEST = 2**64


def read_yaml(path: str | Path) -> tuple[Any, Origin]:
    """The content of a YAML file, and where each value stands.

    Args:
        path: of a file with one document.

    Returns:
        Dictionaries with texts as keys, lists, texts, numbers, booleans and None; and the lines.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it is no YAML 1.2 of these types; a key is there
            twice; or aliases make more of it than 100,000 values.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text, name = _text(Path(path)), str(path)
    yaml = YAML(typ="safe", pure=True)
    try:
        _check_depth(text, name)
        node = yaml.compose(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = ", ".join(" ".join(part.split()) for part in (error.context, error.problem) if part)
        tab = " Indent by spaces." if "\\t" in told else ""
        raise ConfigError(f"{name}, line {mark.line + 1 if mark else 1}: It is no YAML: {told}.{tab}") from error
    except YAMLError as error:
        raise ConfigError(f"{name}: It is no YAML: {' '.join(str(error).split())}.") from error
    if node is None:
        raise ConfigError(f"{name}: It is empty; see docs/studies.md for what a study says.")
    reading = _Reading(yaml, name)
    return reading.value(node, (), ()), Origin(name, reading.lines)


def _check_depth(text: str, name: str) -> None:
    """By its events, which are read without recursion: how deep Python may go depends on what was imported before."""
    from ruamel.yaml import YAML
    from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

    depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"{name}: It is nested too deeply.")


class _Reading:
    """One pass over the nodes of a document."""

    def __init__(self, yaml: YAML, file: str) -> None:
        self._yaml, self._file = yaml, file
        self.lines: dict[Where, int] = {}
        self._count = 0

    def value(self, node: Node, where: Where, above: tuple[int, ...]) -> Any:
        """The plain data of a node.

        Args:
            node: of the document.
            where: its keys and indices.
            above: the nodes that it is in.
        """
        self.lines.setdefault(where, node.start_mark.line + 1)
        self._count_one()
        if id(node) in above:
            raise self._error(node, where, "It is a part of itself, by an alias; write it out.")
        above = (*above, id(node))
        kind = str(node.tag).removeprefix(_PREFIX)
        if kind == "map" and isinstance(node.value, list):
            return self._mapping(node, where, above)
        if kind == "seq" and isinstance(node.value, list):
            return [self.value(each, (*where, index), above) for index, each in enumerate(node.value)]
        return self._scalar(node, kind, where)

    def _count_one(self) -> None:
        """Ends a reading that small aliases blow up."""
        self._count += 1
        if self._count > MOST_VALUES:
            raise ConfigError(f"{self._file}: It has more than {MOST_VALUES} values, aliases counted as often as used.")

    def _mapping(self, node: Node, where: Where, above: tuple[int, ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, each in self._pairs(node, where, above):
            key = self._key(key_node, where)
            self._count_one()
            if key in found:
                continue  # of a mapping that is merged, where the key is said already
            self.lines[(*where, key)] = key_node.start_mark.line + 1
            found[key] = self.value(each, (*where, key), above)
        return found

    def _pairs(self, node: Node, where: Where, above: tuple[int, ...]) -> Iterator[tuple[Node, Node]]:
        """Its own keys first, then those of mappings that are merged into it by `<<`."""
        own = [pair for pair in node.value if not _is_merge(pair[0])]
        lines: dict[str, int] = {}
        for key_node, _ in own:
            key, line = self._key(key_node, where), key_node.start_mark.line + 1
            if key in lines:
                raise self._error(key_node, (*where, key), f"The key is there twice, first in line {lines[key]}.")
            lines[key] = line
        yield from own
        for key_node, merged in (pair for pair in node.value if _is_merge(pair[0])):
            self._count_one()
            for each in merged.value if str(merged.tag) == f"{_PREFIX}seq" else [merged]:
                if str(each.tag) != f"{_PREFIX}map" or id(each) in above:
                    raise self._error(key_node, where, "<< merges mappings alone, and none into itself.")
                yield from self._pairs(each, where, (*above, id(each)))

    def _key(self, node: Node, where: Where) -> str:
        if str(node.tag).removeprefix(_PREFIX) not in _AS_TEXT:
            shown = node.value if isinstance(node.value, str) else "a list or a mapping"
            raise self._error(node, where, f"The key {shown} is no text; put quotes around it.")
        return str(node.value)

    def _scalar(self, node: Node, kind: str, where: Where) -> Any:
        if kind in _AS_TEXT:
            return str(node.value)
        if kind not in _SCALARS or not isinstance(node.value, str):
            raise self._error(node, where, f"The tag {_shown(node)} is none of a study; leave it out.")
        try:
            value = self._yaml.constructor.construct_object(node)
        except (ValueError, KeyError) as error:
            raise self._error(node, where, f"{node.value[:80]!r} is no {kind}.") from error
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self._error(node, where, "The number is too large; the largest is 2**64.")
        return float(value) if isinstance(value, float) and not math.isnan(value) else value

    def _error(self, node: Node, where: Where, reason: str) -> SpecError:
        return SpecError(where, reason, Origin(self._file, {(): node.start_mark.line + 1}))


def _shown(node: Node) -> str:
    """The tag of a node, as it is written."""
    tag = str(node.tag)
    return f"!!{tag.removeprefix(_PREFIX)}" if tag.startswith(_PREFIX) else tag


def _is_merge(node: Node) -> bool:
    return str(node.tag) == f"{_PREFIX}merge"


def _text(path: Path) -> str:
    """The text of a file.

    Raises:
        ConfigError: it is not there, too large, a folder, or not UTF-8.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: It cannot be read: {error.strerror or error}. Give a YAML file.") from error
    except ValueError as error:  # a name with a NUL
        raise ConfigError(f"{str(path)!r}: It is no file's name: {error}.") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: It has more than {MOST_BYTES} bytes, too many for a study.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{path}, line {line}: It is not UTF-8: byte 0x{content[error.start]:02x}.") from error
