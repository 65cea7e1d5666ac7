"""Results trees of several machines, put together into one."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from deepobs_func import records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.files import publish, write_new
from deepobs_func.records import RunRecord
from deepobs_func.study.ledger import Ledger

_WHEN = "%Y-%m-%d-%H-%M-%S.json"


@dataclass
class Merged:
    """What was put together.

    Attributes:
        copied: the new files.
        known: runs that were there, with the same numbers.
        differing: files of runs that were there with other numbers, executed otherwise; they were not copied, since a
            seed would count twice.
        unreadable: files that are no records.
    """

    copied: list[Path] = field(default_factory=list)
    known: list[Path] = field(default_factory=list)
    differing: list[Path] = field(default_factory=list)
    unreadable: list[Path] = field(default_factory=list)


def merge(into: str | Path, sources: list[str | Path]) -> Merged:
    """Copies the finished runs of results trees into another one, each once, beside what is there.

    Args:
        into: the results tree that is added to.
        sources: the others; they are only read.

    Returns:
        What was done with each file.

    Raises:
        ConfigError: a source is no folder, or is the target.
        OSError: a file cannot be written; those before it are there, and the same call goes on.
    """
    target = records.output_path(into).absolute()
    for source in sources:
        folder = records.output_path(source).absolute()
        if not folder.is_dir():
            raise ConfigError(f"{source} is no folder. Name results trees, such as results.")
        if folder == target or folder.is_relative_to(target) or target.is_relative_to(folder):
            raise ConfigError(f"{source} and {into} lie within each other. Name two results trees.")
    found = Merged()
    known = {_identity(record): record for record in _records(target, found)}
    found.unreadable.clear()  # of the target: nothing is to be done with them
    for source in sources:
        root = records.output_path(source).absolute()
        for record in _records(root, found):
            assert record.path is not None, "it was read from a file"
            there = known.get(_identity(record))
            if there is None:
                known[_identity(record)] = record
                found.copied.append(_copy(record.path, root, target))
            else:
                (found.known if _numbers(there) == _numbers(record) else found.differing).append(record.path)
        _remember(into, source)
    return found


def _records(folder: Path, found: Merged) -> Iterator[RunRecord]:
    """The finished runs below a folder, in the order of their paths."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(name for name in names if name.endswith(".json")):
            path = Path(place, name)
            try:
                yield records.read(path)
            except DataError:
                found.unreadable.append(path)


def _identity(record: RunRecord) -> str:
    """What run it is: by its id; for files of DeepOBS's own by all that they hold."""
    run_id = record.extra.get("run_id")
    return str(run_id) if run_id else json.dumps(record.to_json(), sort_keys=True)


def _numbers(record: RunRecord) -> str:
    """The results as text, in which NaN equals NaN."""
    content = record.to_json()
    return json.dumps([content.get(name) for name in content if name.endswith(("losses", "accuracies"))])


def _copy(path: Path, source: Path, target: Path) -> Path:
    """Copies a file, as it is, to the same place below another tree; where its name is taken, to a later second's."""
    folder, name = target / path.relative_to(source).parent, path.name
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{uuid.uuid4().hex}.tmp"
    write_new(draft, path.read_bytes())
    try:
        while not publish(draft, folder / name):
            name = _later(name)
        return folder / name
    finally:
        draft.unlink(missing_ok=True)


def _later(name: str) -> str:
    """The name of a record of the second after: `random_seed__<s>__<YYYY-mm-dd-HH-MM-SS>.json`."""
    head, _, tail = name.rpartition("__")
    try:
        when = datetime.strptime(tail, _WHEN)
    except ValueError:
        return f"{name.removesuffix('.json')}_.json"
    return f"{head}__{when + timedelta(seconds=1):{_WHEN}}"


def _remember(into: str | Path, source: str | Path) -> None:
    """What was asked for there is asked for here, so that the status of the whole shows it."""
    there = Ledger(source).asked()
    if there:
        Ledger(into).add(there)
