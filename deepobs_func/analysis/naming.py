"""Display names of optimizers and texts of settings: one for each, never one for two.

Runs belong to one optimizer if they have its name, the same label and source and, of code that is the user's own, the
same digest; of files that say nothing of their code, the same names of hyperparameters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

_OURS = "ours"
_ALWAYS = "published"  # a source that stands behind every name of it
_DOTLESS, _LIKE_IT = "port", "deepobs-1.1.2"
Family = tuple[str, str, Any]


def name_runs(rows: Sequence[dict[str, Any]]) -> None:
    """Fills in `optimizer` and `setting` of the rows of runs, and mends `source` where a file alone could not tell it.

    Args:
        rows: the facts of all runs that are shown together.
    """
    _mend_sources(rows)
    families: dict[str, dict[Family, None]] = defaultdict(dict)
    for row in rows:
        families[row["name"]][_family(row)] = None
    shown = {name: _display_names(name, found) for name, found in families.items()}
    for row in rows:
        row["optimizer"] = shown[row["name"]][_family(row)]
        row["setting"] = f"{row['problem']}/{row['optimizer']}/{row['folder']}"


def _family(row: Mapping[str, Any]) -> Family:
    return row["label"], row["source"], row["family"]


def _mend_sources(rows: Sequence[dict[str, Any]]) -> None:
    """The port's names differ from DeepOBS's only where a number is round: one such name tells for the optimizer."""
    dotless = {_folder(row) for row in rows if row["source"] == _DOTLESS}
    for row in rows:
        if row["source"] == _LIKE_IT and _folder(row) in dotless:
            row["source"] = row["version"] = row["protocol"] = _DOTLESS


def _folder(row: Mapping[str, Any]) -> PurePath:
    return PurePath(row["path"]).parent.parent


def _display_names(name: str, families: Iterable[Family]) -> dict[Family, str]:
    """Distinct names for the families of a name; behind it stands what tells them apart."""
    families = list(families)
    labels = {label for label, source, _ in families if source != _ALWAYS}
    found = {}
    for label, source, detail in families:
        marks = []
        if len(labels) > 1:
            marks.append(label)
        sources = {each for there, each, _ in families if there == label}
        if source == _ALWAYS or (len(sources) > 1 and source != _OURS):
            marks.append(source)
        if sum(each[:2] == (label, source) for each in families) > 1:
            marks.append(_told(detail))
        marks = [mark for mark in dict.fromkeys(marks) if mark]
        found[label, source, detail] = f"{name} ({', '.join(marks)})" if marks else name
    return found


def _told(detail: Any) -> str:
    if isinstance(detail, tuple):
        return ", ".join(detail) or "no hyperparameters"
    return f"code {detail[:8] if ' ' not in detail else detail}" if detail else "no code of its own"
