"""Where the checkpoints of a run lie, and how what probes find comes into its record."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepobs_func import files, records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.records import RunRecord
from deepobs_func.runner import checkpoint
from deepobs_func.runner.checkpoint import Checkpoint
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.keeping import checkpoint_folder
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.recording import make_record
from deepobs_func.runner.resuming import output_dir_of

PROBED = "probed"
"""Of a record's own key: what probes found after the run."""
_SAME = ("over", "batches", "bn")  # of one entry of `probed`: what is measured


@dataclass(frozen=True)
class Kept:
    """What is kept of a run.

    Attributes:
        path: the file that was named.
        head: of the run: configuration, `run_id`, source, execution.
        folder: of its checkpoints.
        record: its record; None where the path is a checkpoint.
    """

    path: Path
    head: Mapping[str, Any]
    folder: Path
    record: RunRecord | None

    def checkpoints(self) -> list[Checkpoint]:
        """Those that can be probed, in order."""
        if self.record is None:
            return [checkpoint.read(self.path)]
        return [checkpoint.read(path) for path in checkpoint.paths(self.folder)]

    def execution(self) -> Execution:
        """How the run was executed; eager where that is not known."""
        return Execution.from_plain_data(self.head.get("execution", {}), str(self.path))


def kept_of(path: str | Path) -> Kept:
    """What is kept of a run.

    Args:
        path: its record, finished or partial, or one of its checkpoints.

    Raises:
        DataError: it is neither, or a record of another package.
    """
    path = Path(path).expanduser()
    if path.suffix == checkpoint.SUFFIX:
        return Kept(path, checkpoint.read(path).head, path.parent, None)
    record = records.read(path)
    if "run_id" not in record.extra:
        raise DataError(f"{path} does not say of which run it is. Name a record or a checkpoint of this package.")
    return Kept(path, record.extra, checkpoint_folder(record, _tree_of(path, record)), record)


def _tree_of(path: Path, record: RunRecord) -> Path:
    """The results tree of a record: above `<testproblem>/<optimizer>/<setting>`, wherever the command is given."""
    whole = Path(os.path.abspath(path))
    if whole.parent.parts[-3:] != records.relative_folder(record).parts:
        return Path(record.extra["configuration"].get("output_dir") or "results")
    root = whole.parents[3]
    is_state = root.name.endswith(records.STATE_SUFFIX)
    return root.with_name(root.name.removesuffix(records.STATE_SUFFIX)) if is_state else root


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
    """The entries with another one: where the same is measured, step by step, what is new stands for what is old."""
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


def write(kept: Kept, entry: Mapping[str, Any], plan: Plan, output: str | Path | None) -> RunRecord:
    """Adds an entry to the record of a run, in its own place or elsewhere.

    Args:
        kept: the run.
        entry: as `entry_of` makes it.
        plan: of the run.
        output: a file to write instead; its folder must be there.

    Returns:
        The record, with its path. Where the run has none, a partial one is made of the checkpoint's log.

    Raises:
        ConfigError: the file cannot be written.
    """
    record = kept.record or _record_of(kept, plan)
    made = record.path is None
    record.extra[PROBED] = merged(record.extra.get(PROBED, []), entry)
    try:
        if output is None and made:
            record.path = records.write(record, _output_dir(kept, plan))
            return record
        record.path = Path(output).expanduser() if output is not None else record.path
        assert record.path is not None, "it was read from there"
        files.replace(record.path, json.dumps(record.to_json(), default=repr).encode())
    except OSError as error:
        raise ConfigError(
            f"{record.path or kept.path} cannot be written ({error}). Name a file elsewhere with --output."
        ) from error
    return record


def _output_dir(kept: Kept, plan: Plan) -> Path:
    return Path(output_dir_of(kept.path, plan.config) or "results")


def _record_of(kept: Kept, plan: Plan) -> RunRecord:
    """The record of the run that a checkpoint is of: the finished one, a partial one, or a new one of its log."""
    log = Log.from_plain_data(kept.head["log"])
    empty = make_record(plan, log, kept.execution())
    root = _output_dir(kept, plan)
    for place, ending in ((root, ".json"), (records.state_dir(root), ".json.partial")):
        folder = place / records.relative_folder(empty)
        for path in sorted(folder.glob(f"random_seed__{empty.random_seed}__*{ending}"), reverse=True):
            try:
                found = records.read(path)
            except DataError:
                continue
            if found.extra.get("run_id") == kept.head["run_id"]:
                return found
    # The configuration is the run's own, without the quantities of the probe.
    empty.extra["configuration"] = dict(kept.head["configuration"])
    return empty
