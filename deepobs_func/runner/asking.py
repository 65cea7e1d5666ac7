"""What is asked of a run beside its numbers: which losses are recorded, what is tracked. It is in no `run_id`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deepobs_func.errors import ResumeError, option
from deepobs_func.probes.catalog import chosen
from deepobs_func.records import RunRecord


def wanted(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """What a configuration asks for, as plain data; how quantities are tracked only where some are."""
    track = sorted(chosen(configuration["track"]))
    how = ("track_every", "track_bn") if track else ()
    asked = {name: configuration[name] for name in ("train_log_interval", *how)}
    return {**asked, "track": track}


def check_asked(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Checks that a checkpoint holds what is asked for: its losses and quantities are those of the steps so far.

    Args:
        path: of the checkpoint.
        there: its configuration, as plain data.
        here: that of the run, likewise.

    Raises:
        ResumeError: it was asked for something else; the message says what.
    """
    before, now = wanted(there), wanted(here)
    words = [
        f"{option(name)} {_text(before[name])} there, {_text(now[name])} here"
        for name in before
        if name in now and before[name] != now[name]
    ]
    if words:
        raise ResumeError(
            f"{path} was asked for something else: {'; '.join(words)}. The record would be neither. Give what it was "
            "asked for, or start anew, without resuming."
        )


def has_all(record: RunRecord, here: Mapping[str, Any]) -> bool:
    """Whether a record has all that a configuration, as plain data, asks for: its losses and quantities, or more."""
    there, now = record.extra.get("configuration", {}), wanted(here)
    if now["train_log_interval"] % record.train_log_interval:
        return False
    if not now["track"]:
        return True
    names = set(chosen(there.get("track", ())))
    is_alike = there.get("track_bn") == now["track_bn"]
    return is_alike and names >= set(now["track"]) and _covers(there.get("track_every"), now["track_every"])


def _covers(there: Any, here: Any) -> bool:
    """Whether all the steps that are tracked by one rule are tracked by another."""
    if there in (1, here):
        return True
    return isinstance(there, int) and isinstance(here, int) and here % there == 0


def _text(value: Any) -> str:
    return ", ".join(value) or "nothing" if isinstance(value, list) else str(value)
