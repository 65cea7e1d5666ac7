"""Where the checkpoints of a run lie, and how what probes find comes into its record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepobs_func import files, records
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.records import RunRecord
from deepobs_func.runner import checkpoint
from deepobs_func.runner.checkpoint import Checkpoint
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.keeping import checkpoint_folder, newest
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.probe_entries import PROBED, merged, writing_alone
from deepobs_func.runner.recording import make_record
from deepobs_func.runner.resuming import output_dir_of


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
        return [checkpoint.read(path) for path in newest(self.folder)]

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
    """The results tree of a record: that in which it lies, else that of its configuration."""
    return _root_of(path, record) or Path(record.extra["configuration"].get("output_dir") or "results")


def _root_of(path: Path, record: RunRecord) -> Path | None:
    """The tree above `<testproblem>/<optimizer>/<setting>`, wherever the command is given; None of a copy elsewhere."""
    whole = Path(os.path.abspath(path))
    if whole.parent.parts[-3:] != records.relative_folder(record).parts:
        return None
    root = whole.parents[3]
    is_state = root.name.endswith(records.STATE_SUFFIX)
    return root.with_name(root.name.removesuffix(records.STATE_SUFFIX)) if is_state else root


def write(kept: Kept, entry: Mapping[str, Any], plan: Plan, output: str | Path | None) -> RunRecord:
    """Adds an entry to the record of a run, in its own place or elsewhere.

    The record is read again, under a lock: while the probe computed, another one may have written its entry, and the
    run may have ended.

    Args:
        kept: the run.
        entry: as `probe_entries.entry_of` makes it.
        plan: of the run.
        output: a file to write instead; its folder must be there.

    Returns:
        The record, with its path. Where the run has none, a partial one is made of the checkpoint's log.

    Raises:
        ConfigError: the file cannot be written.
    """
    path = kept.path
    try:
        with writing_alone(_output_dir(kept, plan)):
            record = _record_now(kept, plan)
            made = record.path is None
            record.extra[PROBED] = merged(record.extra.get(PROBED, []), entry)
            if output is None and made:
                record.path = records.write(record, _output_dir(kept, plan))
                return record
            record.path = Path(output).expanduser() if output is not None else record.path
            assert record.path is not None, "it was read from there"
            path = record.path
            files.replace(path, json.dumps(record.to_json(), default=repr).encode())
            return record
    except OSError as error:  # a lock that is not let go, too
        raise ConfigError(f"{path} cannot be written ({error}). Name a file elsewhere with --output.") from error


def _output_dir(kept: Kept, plan: Plan) -> Path:
    if kept.record is not None:
        return _tree_of(kept.path, kept.record)
    return Path(output_dir_of(kept.path, plan.config) or "results")


def _record_now(kept: Kept, plan: Plan) -> RunRecord:
    """The record that the entry goes into, as it is now."""
    if kept.record is None:
        return _record_of(kept, plan)
    in_tree = _root_of(kept.path, kept.record)
    if in_tree is not None and kept.record.status not in ("finished", "diverged"):
        ended = _of_same_run(in_tree / records.relative_folder(kept.record), kept.record, ".json")
        if ended is not None:
            return ended  # the run has ended since it was named: figures show its record alone
    try:
        return records.read(kept.path)
    except DataError:
        return kept.record  # it is gone; what was found is not to be lost


def _record_of(kept: Kept, plan: Plan) -> RunRecord:
    """The record of the run that a checkpoint is of: the finished one, a partial one, or a new one of its log."""
    log = Log.from_plain_data(kept.head["log"])
    empty = make_record(plan, log, kept.execution())
    root = _output_dir(kept, plan)
    for place, ending in ((root, ".json"), (records.state_dir(root), ".json.partial")):
        found = _of_same_run(place / records.relative_folder(empty), empty, ending)
        if found is not None:
            return found
    # The configuration is the run's own, without the quantities of the probe.
    empty.extra["configuration"] = dict(kept.head["configuration"])
    return empty


def _of_same_run(folder: Path, record: RunRecord, ending: str) -> RunRecord | None:
    """The newest record of the same run in a folder."""
    for path in sorted(folder.glob(f"random_seed__{record.random_seed}__*{ending}"), reverse=True):
        try:
            found = records.read(path)
        except DataError:
            continue
        if found.extra.get("run_id") == record.extra["run_id"]:
            return found
    return None
