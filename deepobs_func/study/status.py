"""How far a study is: read from its records, its checkpoints and its claims. Nothing has to run for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.errors import ConfigError, DataError, UserError
from deepobs_func.records import RunRecord
from deepobs_func.runner.asking import has_all
from deepobs_func.study.ledger import Ledger

STAGES = ("finished", "diverged", "stopped", "running", "failed", "interrupted", "cancelled", "waiting")


@dataclass(frozen=True)
class RunStatus:
    """Where a run is.

    Attributes:
        run_id, label: of the run.
        stage: one of `STAGES`.
        epoch, epochs: how far it is; `epoch` is None where that is not known.
        last: the last losses and accuracies, by names such as `"test_accuracy"`.
        path: of its record; "" where there is none.
        error: why it failed; "" if it did not.
        asked: whether the last sweep asked for it.
    """

    run_id: str
    label: str
    stage: str
    epoch: int | None
    epochs: int | None
    last: dict[str, float]
    path: str
    error: str
    asked: bool


def study_status(output_dir: str | Path) -> list[RunStatus]:
    """The runs of the studies in a results tree, in the order in which they were asked for.

    Args:
        output_dir: the results tree.

    Returns:
        A row for each run.

    Raises:
        ConfigError: no study was run there.
    """
    ledger = Ledger(output_dir)
    asked = ledger.asked()
    if not asked:
        raise ConfigError(f"No study was run in {output_dir}. Name the results tree of one (deepobs sweep SPEC).")
    return [_status(ledger, run_id, entry) for run_id, entry in asked.items()]


def summary(rows: list[RunStatus]) -> dict[str, int]:
    """How many runs are at which stage, without stages that none is at."""
    counts = Counter(row.stage for row in rows)
    return {stage: counts[stage] for stage in STAGES if counts[stage]}


def find_run(output_dir: str | Path, name: str) -> RunStatus:
    """The run whose id begins so.

    Raises:
        ConfigError: there is none, or several.
    """
    rows = study_status(output_dir)
    found = [row for row in rows if row.run_id.startswith(name)]
    if len(found) != 1:
        there = "no run" if not found else f"{len(found)} runs"
        raise ConfigError(
            f"{there} of the study in {output_dir} {'has' if not found else 'have'} an id that begins with {name!r}. "
            "deepobs status lists them."
        )
    return found[0]


def _status(ledger: Ledger, run_id: str, entry: dict[str, Any]) -> RunStatus:
    record = _finished(ledger.output_dir, run_id, entry)
    stage: str = record.status if record else "waiting"
    progress = ledger.progress(run_id)
    if record is None:
        record = _partial(ledger.output_dir, run_id, entry)
        stage = record.status if record else "interrupted" if progress else "waiting"
        if ledger.is_claimed(run_id):
            stage, record = "running", None
        elif ledger.is_cancelled(run_id):
            stage = "cancelled"
    epochs = record.num_epochs if record else progress.get("epochs")
    epoch = max(len(record.train_losses) - 1, 0) if record else progress.get("epoch")
    return RunStatus(
        run_id=run_id,
        label=str(entry.get("label", "")),
        stage=stage,
        epoch=epoch,
        epochs=epochs,
        last=_last(record) if record else progress.get("last", {}),
        path=str(record.path) if record else "",
        error=str(record.extra.get("error", "")) if record and stage == "failed" else "",
        asked=bool(entry.get("asked", True)),
    )


def _finished(output_dir: str | Path, run_id: str, entry: dict[str, Any]) -> RunRecord | None:
    found = _records(records.output_path(output_dir) / entry["folder"], "*.json", run_id)
    return next((record for record in found if has_all(record, entry["configuration"])), None)


def _partial(output_dir: str | Path, run_id: str, entry: dict[str, Any]) -> RunRecord | None:
    found = list(_records(records.state_dir(output_dir) / entry["folder"], "*.json.partial", run_id))
    last = ([record for record in found if record.status == "stopped"] or found)[-1:]
    return last[0] if last else None


def _records(folder: Path, pattern: str, run_id: str) -> Iterator[RunRecord]:
    for path in sorted(folder.glob(pattern)):
        try:
            record = records.read(path)
        except (DataError, UserError):
            continue
        if record.extra.get("run_id") == run_id:
            yield record


def _last(record: RunRecord) -> dict[str, float]:
    found = {}
    for split in ("train", "valid", "test"):
        for name, column in (
            (f"{split}_loss", getattr(record, f"{split}_losses")),
            (f"{split}_accuracy", getattr(record, f"{split}_accuracies")),
        ):
            if column:
                found[name] = column[-1]
    return found
