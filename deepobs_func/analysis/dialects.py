"""The files that benchmarks of this family write, as data: what tells them apart, and where they keep what.

Each dialect is brought into the keys of DeepOBS 1.1.2, those of `records.RunRecord`. A new dialect is a row here.

Sources: the packages deepobs 1.1.2 and 1.2.0b0 of the Python package index; the PyTorch port by govorunov, whose
`float2str` strips the dot; the results of Schmidt, Schneider and Hennig, "Descending through a Crowded Valley" (ICML
2021), of which older files have `weight_decay` and newer ones `l2_reg`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepobs_func.errors import DataError
from deepobs_func.records import EXTRA, RunRecord

CURVES = tuple(f"{split}_{kind}" for kind in ("losses", "accuracies") for split in ("train", "valid", "test"))
"""The keys of what is measured at each evaluation."""

_NEEDED = ("testproblem", "optimizer", "batch_size", "num_epochs", "random_seed")
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("testproblem", "optimizer"), str),
    **dict.fromkeys(("batch_size", "num_epochs", "random_seed"), int),
    "hyperparams": dict,
}
_DEFAULTS: Mapping[str, Any] = {"hyperparams": {}, "train_log_interval": 10, "minibatch_train_losses": []}


@dataclass(frozen=True)
class Dialect:
    """A kind of file.

    Attributes:
        name: in the column `source` of `Results.runs`.
        marks: keys that a file of it has, all of them.
        places: by key of `RunRecord`, where it stands instead, several alternatives in order; a dot leads into an
            object.
        lr_names: hyperparameters that are the learning rate, and are taken out of them.
        protocol: how its runs are made.
        path: what the end of a file's path looks like, with `/`; None for any. Its named groups become the `study` of
            the run, `schedule` also its schedule.
    """

    name: str
    marks: tuple[str, ...]
    places: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lr_names: tuple[str, ...] = ()
    protocol: str = ""
    path: re.Pattern[str] | None = None


_OF_1_2: Mapping[str, tuple[str, ...]] = {
    "optimizer": ("optimizer_name",),
    "hyperparams": ("optimizer_hyperparams",),
    "weight_decay": ("l2_reg", "weight_decay"),
    "lr_sched_epochs": ("training_params.lr_sched_epochs",),
    "lr_sched_factors": ("training_params.lr_sched_factors",),
}
_MARKS_1_1 = ("optimizer", "testproblem", "learning_rate")
_MARKS_1_2 = ("optimizer_name", "testproblem")
_LR = ("lr", "learning_rate")
_FILE = r"/[^/]+/[^/]+/[^/]+/[^/]+$"  # problem, optimizer, setting, file

DIALECTS: tuple[Dialect, ...] = (
    Dialect("ours", (EXTRA, *_MARKS_1_1)),
    Dialect(
        "crowded-valley",
        _MARKS_1_2,
        _OF_1_2,
        _LR,
        "deepobs-1.2",
        re.compile(r"(^|/)(?P<budget>oneshot|\w+_budget)/(?P<schedule>[^/]+)" + _FILE),
    ),
    Dialect("deepobs-1.2", _MARKS_1_2, _OF_1_2, _LR, "deepobs-1.2"),
    Dialect("port", _MARKS_1_1, protocol="port", path=re.compile(r"_\d+e[+-]\d\d[^/]*/[^/]+$")),
    Dialect("deepobs-1.1.2", _MARKS_1_1, protocol="deepobs-1.1.2"),
)
"""In the order in which they are tried; the first that fits is taken."""


def dialect_of(content: Mapping[str, Any], path: str) -> tuple[Dialect, dict[str, str]]:
    """The dialect of a file, and what its path says.

    Args:
        content: of the file.
        path: of the file, with `/`.

    Raises:
        DataError: it is no record of a run.
    """
    for dialect in DIALECTS:
        if all(mark in content for mark in dialect.marks):
            found = dialect.path.search(path) if dialect.path else None
            if dialect.path is None or found:
                return dialect, (found.groupdict() if found else {})
    missing = [name for name in _MARKS_1_1 if name not in content]
    raise DataError(f"it is no record of a run: it lacks {', '.join(missing)}")


def as_record(content: Mapping[str, Any], dialect: Dialect) -> RunRecord:
    """What a file holds, under the names of DeepOBS 1.1.2.

    Returns:
        The record; curves that the file lacks are None.

    Raises:
        DataError: something is missing or of another kind.
    """
    values = {name: _value(content, dialect, name) for name in _RECORD}
    missing = [name for name in _NEEDED if values[name] is None]
    if not any(values[name] for name in CURVES):
        missing.append("losses")
    if missing:
        raise DataError(f"it is no record of a run: it lacks {', '.join(missing)}")
    for name, kind in _TYPES.items():
        if not isinstance(values[name], kind) or isinstance(values[name], bool):
            raise DataError(f"its {name} is {values[name]!r}, which it cannot be")
    values["hyperparams"], lr = _without_lr(values["hyperparams"], dialect.lr_names)
    values["learning_rate"] = _number(values["learning_rate"] if lr is None else lr)
    extra = content.get(EXTRA, {})
    return RunRecord(**values, extra=extra if isinstance(extra, dict) else {})


_RECORD = tuple(name for name in RunRecord.__dataclass_fields__ if name not in ("extra", "path", "note"))


def _value(content: Mapping[str, Any], dialect: Dialect, name: str) -> Any:
    for place in dialect.places.get(name, (name,)):
        found: Any = content
        for part in place.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            return found
    return _DEFAULTS.get(name)


def _without_lr(hyperparams: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict[str, Any], Any]:
    lr = next((hyperparams[name] for name in names if name in hyperparams), None)
    return {name: value for name, value in hyperparams.items() if name not in names}, lr


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | None):
        raise DataError(f"its learning rate is {value!r}, which it cannot be")
    return float("nan") if value is None else float(value)
