"""The package's docstrings, plain text with code in backticks, as reStructuredText; and what their names refer to."""

from __future__ import annotations

import re
from typing import Any

_SECTION = re.compile(r"(Args|Returns|Yields|Raises|Attributes|Source|Formula):\s*$")
_BULLET = re.compile(r"\s*[*-] ")
_MARKUP = re.compile(r"[*|\\]|(?<=\w)_(?!\w)")


def as_rst(app: Any, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Escapes what reStructuredText would take for markup, in place; an indented block is code."""
    lines[:] = converted(lines)


def converted(lines: list[str]) -> list[str]:
    r"""The lines of a docstring as reStructuredText.

    >>> converted(["`a` times |x|, *so*"])
    ['``a`` times \\|x\\|, \\*so\\*']
    """
    found: list[str] = []
    in_section = in_doctest = in_code = is_open = False
    for index, line in enumerate(lines):
        blank_before = index == 0 or not lines[index - 1].strip()
        in_section |= bool(_SECTION.match(line))
        if not line.strip():
            in_doctest = is_open = False
            found.append(line)
            continue
        if in_section and line[0] != " " and blank_before and not _SECTION.match(line):
            in_section = False
        if line.lstrip().startswith(">>> "):
            in_doctest = True
        starts_code = not in_section and line.startswith("    ") and blank_before and not in_doctest
        if starts_code and not in_code:
            found += ["::", ""]
        in_code = starts_code or (in_code and line.startswith("    "))
        if in_doctest or in_code:
            found.append(line)
        else:
            text, is_open = _escaped(line, is_open)
            found.append(text)
    return found


def _escaped(line: str, is_open: bool) -> tuple[str, bool]:
    """A line, and whether a piece of code goes on in the next one."""
    bullet = _BULLET.match(line)
    text = bullet[0] if bullet else ""
    for at, part in enumerate(line[len(text) :].split("`")):
        if at:
            is_open = not is_open
            text += "``"
            text += "\\ " if not is_open and part[:1].isalnum() else ""  # code ends before a letter: `vmap`ped
        text += part if is_open else _MARKUP.sub(r"\\\g<0>", part)
    return text, is_open


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """A reference of a signature to a class by its last name, where one page has it; else that name as text.

    Classes that come up only inside others have no page.
    """
    target = str(node["reftarget"])
    if node.get("refdomain") != "py" or not target.startswith("deepobs_func."):
        return None
    last = target.rpartition(".")[2]
    found = {
        (entry.docname, entry.node_id): name
        for name, entry in env.get_domain("py").objects.items()
        if name.rpartition(".")[2] == last
    }
    if len(found) != 1:
        return contnode if node.get("reftype") == "class" else None
    from sphinx.util.nodes import make_refnode  # tests of this file do without Sphinx

    (((page, anchor), name),) = found.items()
    return make_refnode(app.builder, node["refdoc"], page, anchor, [contnode], name)
