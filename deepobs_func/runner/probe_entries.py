"""What probes found of a run, as its record holds it: entries that are merged, and lost by nobody who writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from deepobs_func import records
from deepobs_func.errors import DataError
from deepobs_func.records import RunRecord, Written

PROBED = "probed"
"""Of a record's own key: what probes found beside or after the run."""
# Of an entry: what is measured, and how. Values of another execution or machine are no part of the same entry.
_SAME = ("over", "batches", "bn", "execution_id", "environment")
_SECONDS = 60.0  # a record is written in milliseconds


def entry_of(about: Mapping[str, Any], names: Iterable[str], found: Sequence[tuple[int, Any, Any]]) -> dict[str, Any]:
    """An entry of `probed`.

    Args:
        about: what was measured, and where.
        names: of the quantities.
        found: the step, the point, and by quantity its value and standard error.
    """
    quantities: dict[str, Any] = {}
    for name in names:
        column: dict[str, list[Any]] = {"steps": [], "values": [], "standard_errors": []}
        for step, _, values in found:
            for key, value in zip(column, (step, *values[name]), strict=True):
                column[key].append(value)
        if all(error is None for error in column["standard_errors"]):
            del column["standard_errors"]
        quantities[name] = column
    return {**about, "quantities": quantities}


def merged(entries: Sequence[Mapping[str, Any]], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries with another one at the end.

    An old entry of the same measurement, by the same execution on the same machine, becomes part of it: step by step,
    what is new stands for what is old. All others stay as they are.
    """
    result, measured = [], dict(new)
    for old in entries:
        if any(old.get(name) != new.get(name) for name in _SAME):
            result.append(dict(old))
            continue
        columns = dict(old["quantities"])
        for name, column in new["quantities"].items():
            columns[name] = _joined(columns[name], column) if name in columns else column
        measured |= {"quantities": columns, "layers": new.get("layers") or old.get("layers")}
    return [*result, measured]


def _joined(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    keys = [key for key in ("values", "standard_errors") if key in old and key in new]
    rows: dict[int, list[Any]] = {}
    for column in (old, new):
        rows |= {step: [column[key][at] for key in keys] for at, step in enumerate(column["steps"])}
    steps = sorted(rows)
    return {"steps": steps} | {key: [rows[step][at] for step in steps] for at, key in enumerate(keys)}


def writing_alone(output_dir: str | Path) -> FileLock:
    """The lock under which probes and runs that may have been probed write the records of a results tree.

    Raises:
        OSError: the state folder cannot be made.
    """
    folder = records.state_dir(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / ".probes.lock", timeout=_SECONDS)


def write_record(record: RunRecord, output_dir: str | Path) -> Written:
    """Writes the record of a run that has ended, with what was probed while it went on or between its parts.

    Args:
        record: of the run; what stands in its partial records under `probed` is added to it.
        output_dir: the results tree.

    Returns:
        As `records.write_anywhere`.

    Raises:
        UserError: every place failed.
    """
    with contextlib.ExitStack() as stack:
        if _may_be_probed(record, output_dir):
            # A record without its probes is worth more than none: a lock that cannot be had stops nothing.
            with contextlib.suppress(OSError, Timeout):
                stack.enter_context(writing_alone(output_dir))
            entries = _earlier(record, output_dir)
            if entries:
                record.extra[PROBED] = entries
        return records.write_anywhere(record, output_dir)


def _may_be_probed(record: RunRecord, output_dir: str | Path) -> bool:
    """Whether there is what a probe starts from: a checkpoint of the run, or a partial record."""
    folder = records.state_dir(output_dir) / records.relative_folder(record)
    return folder.is_dir() and any(folder.glob(f"random_seed__{record.random_seed}__*"))


def _earlier(record: RunRecord, output_dir: str | Path) -> list[dict[str, Any]]:
    """The entries of the record, and of the partial records of the same run, the oldest first."""
    own: list[dict[str, Any]] = []
    folder = records.state_dir(output_dir) / records.relative_folder(record)
    for path in sorted(folder.glob(f"random_seed__{record.random_seed}__*.json.partial")):
        with contextlib.suppress(DataError):
            found = records.read(path)
            if found.extra.get("run_id") == record.extra.get("run_id"):
                for entry in found.extra.get(PROBED, []):
                    own = merged(own, entry)
    for entry in record.extra.get(PROBED, []):
        own = merged(own, entry)
    return own
