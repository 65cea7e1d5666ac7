"""YAML files as plain data with lines: YAML 1.2, and nothing that is not data."""

from __future__ import annotations

import json
import math
import os
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.errors import ConfigError
from deepobs_func.study.yaml_file import read_yaml


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named as a user in their folder names them."""
    monkeypatch.chdir(tmp_path)


def content(text: str | bytes) -> Any:
    return read(text)[0]


def read(text: str | bytes) -> Any:
    Path("a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_yaml("a.yaml")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        *(
            (word, word)
            for word in ("on", "off", "yes", "no", "y", "n", "On", "NO", "12:30:45", "2026-01-01", "=", "1e", "0b")
        ),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, None) for word in ("null", "~", "Null", "")),
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-.5e+3", -500.0),
        ("1.", 1.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("0o17", 15),
        ("017", 17),
        ("0x1F", 31),
        ("+1", 1),
        ("'1e-3'", "1e-3"),
        ('"on"', "on"),
        ("!!str 1", "1"),
        ("!!float 1", 1.0),
        ("|\n  two\n  lines\n", "two\nlines\n"),
        ("18446744073709551615", 2**64 - 1),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written: str, meant: Any) -> None:
    found = content(f"a: {written}")["a"]
    assert found == meant
    assert type(found) is type(meant)


def test_nan_is_a_number() -> None:
    assert math.isnan(content("a: .nan")["a"])


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc: #-[]{}&*!", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=25)
@given(PLAIN)
def test_json_is_yaml(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "json.yaml"
    path.write_text(json.dumps({"value": value}, ensure_ascii=False), encoding="utf-8")
    assert read_yaml(path)[0] == {"value": value}


def test_every_value_has_its_line() -> None:
    _, origin = read("a: 1\nb:\n  - 2\n  - c: 3\n\n    d: [4,\n     5]\n")
    places = {("a",): 1, ("b",): 2, ("b", 0): 3, ("b", 1): 4, ("b", 1, "c"): 4, ("b", 1, "d"): 6, ("b", 1, "d", 1): 7}
    assert {place: origin.line(place) for place in places} == places


def test_anchors_and_merge_keys_give_values_and_the_lines_where_they_are_written() -> None:
    data, origin = read("a: &a {x: 1, y: 2}\nb: &b\n  z: 3\n  x: 9\nc:\n  y: 5\n  <<: [*a, *b]\nd: *a\n")
    assert data["c"] == {"y": 5, "x": 1, "z": 3}
    assert data["d"] == data["a"]
    assert [origin.line(("c", key)) for key in "yxz"] == [6, 1, 3]
    assert (origin.line(("d",)), origin.line(("d", "x"))) == (8, 1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a.yaml: It is empty; see docs/studies.md for what a study says."),
        ("# a comment\n", "a.yaml: It is empty; see docs/studies.md for what a study says."),
        ("a: 1\na: 2\n", "a.yaml, line 2: a: The key is there twice, first in line 1."),
        ("b:\n  a: 1\n  c: 2\n  a: 2\n", "a.yaml, line 4: b.a: The key is there twice, first in line 2."),
        ("1: 2\n", "a.yaml, line 1: The key 1 is no text; put quotes around it."),
        ("? [1]\n: 2\n", "a.yaml, line 1: The key a list or a mapping is no text; put quotes around it."),
        (
            "a:\n\t- 1\n",
            "a.yaml, line 2: It is no YAML: while scanning for the next token, found character '\\t' that cannot start "
            "any token. Indent by spaces.",
        ),
        (
            "a: 1\n---\nb: 2\n",
            "a.yaml, line 2: It is no YAML: expected a single document in the stream, but found another",
        ),
        ("a: [1\n", "a.yaml, line 2: It is no YAML: while parsing a flow sequence, expected ',' or ']', but got"),
        ("a: b: c\n", "a.yaml, line 1: It is no YAML: mapping values are not allowed here."),
        ("a: *x\n", "a.yaml, line 1: It is no YAML: found undefined alias 'x'."),
        ("a: \0\n", "a.yaml: It is no YAML: unacceptable character #x0000: special characters are not allowed"),
        (b"a: 1\nb: \xff\n", "a.yaml, line 2: It is not UTF-8: byte 0xff."),
        ("a: 1\n".encode("utf-16"), "a.yaml, line 1: It is not UTF-8: byte 0xff."),
        ("a: &a [*a]\n", "a.yaml, line 1: a[0]: It is a part of itself, by an alias; write it out."),
        ("a: &a {b: *a}\n", "a.yaml, line 1: a.b: It is a part of itself, by an alias; write it out."),
        ("a: &a\n  <<: *a\n", "a.yaml, line 2: a: << merges mappings alone, and none into itself."),
        ("a:\n  <<: 3\n", "a.yaml, line 2: a: << merges mappings alone, and none into itself."),
        ("a: " + "[" * 500, "a.yaml: It is nested too deeply."),
        ("a: 0x" + "f" * 9000, "a.yaml, line 1: a: The number is too large; the largest is 2**64."),
        ("a: !!int x", "a.yaml, line 1: a: 'x' is no int."),
        ("a: !mine 1", "a.yaml, line 1: a: The tag !mine is none of a study; leave it out."),
        ("a: !!binary aGk=", "a.yaml, line 1: a: The tag !!binary is none of a study; leave it out."),
        ("a: !!set {b, c}", "a.yaml, line 1: a: The tag !!set is none of a study; leave it out."),
        (
            "a: !!python/name:os.system",
            "a.yaml, line 1: a: The tag !!python/name:os.system is none of a study; leave it out.",
        ),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_what_is_no_study_s_yaml_is_refused_in_one_line(text: str | bytes, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    message = str(caught.value)
    assert message.startswith(words)
    assert "\n" not in message
    assert len(message) < 250


def test_no_tag_runs_code() -> None:
    for tag in ("!!python/object/apply:os.mkdir [made]", "!!python/object/new:os.mkdir [made]", "!!python/module:os"):
        with pytest.raises(ConfigError, match="is none of a study"):
            read(f"a: {tag}")
    assert not os.path.exists("made")


def bomb(make: str) -> str:
    """Thirty levels, each ten times the one before."""
    levels = [f"a{level}: &a{level} " + make % ", ".join([f"*a{level - 1}"] * 10) for level in range(1, 30)]
    return "\n".join(["a0: &a0 {x: 1}", *levels])


@pytest.mark.parametrize("make", ["[%s]", "{<<: [%s]}"])
def test_aliases_that_blow_up_end_early(make: str) -> None:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(ConfigError, match="It has more than 100000 values, aliases counted"):
        read(bomb(make))
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kilobytes


def test_what_cannot_be_read_is_said() -> None:
    Path("large.yaml").write_text("a" * 300_000)
    for path, words in (
        ("none.yaml", "none.yaml: It cannot be read: No such file or directory. Give a YAML file."),
        (".", ".: It cannot be read: Is a directory. Give a YAML file."),
        ("a\0b", "'a\\x00b': It is no file's name: embedded null byte."),
        ("large.yaml", "large.yaml: It has more than 262144 bytes, too many for a study."),
    ):
        with pytest.raises(ConfigError) as caught:
            read_yaml(path)
        assert str(caught.value) == words
