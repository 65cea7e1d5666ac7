"""One file of a run: what it holds, as plain data and arrays that go from process to process, or why it is not read."""

from __future__ import annotations

import functools
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from deepobs_func.analysis.dialects import CURVES, Dialect, as_record, dialect_of
from deepobs_func.errors import DataError
from deepobs_func.records import RunRecord, costs, setting_name

Column = NDArray[np.float64]
QUANTITIES = tuple(name.replace("losses", "loss").replace("accuracies", "accuracy") for name in CURVES)
"""The measured columns of `Results.epochs`, in the order of `dialects.CURVES`."""
CLOCK_NAMES = {
    "epoch": "epochs",
    "step": "steps",
    "seconds": "seconds of training",
    "gradients": "gradient evaluations",
    "cost": "gradient equivalents",
}
"""In what a time to a target is counted, in words."""
GENERATED = ("quadratic_", "two_d_")
"""How the names of problems begin whose data are not in files."""
_NONE = np.empty(0)
CALLS = ("gradients", "products", "evaluations")


_TEXTS = (
    "status",
    "schedule",
    "protocol",
    "data",
    "precision",
    "version",
    "machine",
    "reason",
    "run_id",
    "execution_id",
)
_KINDS: Mapping[str, Any] = {  # of what a file may hold as anything
    **dict.fromkeys(_TEXTS, str),
    "family": str | tuple,
    "steps_per_epoch": int | float,
    "log_interval": int,
}
_POSITIVE = ("log_interval",)


class Parsed(NamedTuple):
    """A run that was read.

    Attributes:
        facts: its row in `Results.runs`, as far as it can be told from the run alone, and `name`, `family`, `folder`,
            by which optimizers and settings are told apart.
        curves: by column of `Results.epochs`, one entry for each evaluation.
        tracked: by quantity, its steps and values.
        losses: of mini-batches.
    """

    facts: dict[str, Any]
    curves: dict[str, Column]
    tracked: dict[str, tuple[Column, Column]]
    losses: Column = _NONE


class Unread(NamedTuple):
    """A file that was not read.

    Attributes:
        path: of the file.
        reason: why.
    """

    path: str
    reason: str


def parse(path: str) -> Parsed | Unread:
    """Reads one file.

    Args:
        path: of the file.

    Returns:
        The run, or why there is none; nothing is raised for what a file may hold.
    """
    try:
        content = _content(path)
        dialect, about = dialect_of(content, path.replace("\\", "/"))
        record = as_record(content, dialect)
        curves = curves_of({key: getattr(record, key) for key in CURVES}, record.extra)
        facts = _facts(path, record, dialect, about, curves)
        _check(facts)
        losses = _column(record.minibatch_train_losses, "minibatch_train_losses")
        return Parsed(facts, curves, _tracked(record.extra), losses)
    except DataError as error:
        return Unread(path, str(error))
    except (TypeError, ValueError, AttributeError, LookupError, OverflowError) as error:
        return Unread(path, f"it holds what a record cannot ({type(error).__name__}: {error})")


def _content(path: str) -> Mapping[str, Any]:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"it cannot be read ({error.strerror or error})") from error
    if not text.strip():
        raise DataError("it is empty")
    try:
        content = _decoded(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"it is no JSON, or cut off ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"it is no record of a run: it holds {type(content).__name__}, not an object")
    return content


def _decoded(text: bytes) -> Any:
    """JSON, bare NaN and Infinity too: those orjson refuses, which is four times as fast with what it takes."""
    try:
        return _fast()(text)
    except ValueError:
        return json.loads(text)


@functools.cache
def _fast() -> Callable[[bytes], Any]:
    try:
        return importlib.import_module("orjson").loads
    except ImportError:
        return json.loads


def curves_of(
    measured: Mapping[str, Sequence[float] | None], extra: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, Column]:
    """What stands at each evaluation, by column of `Results.epochs`; shorter columns end in NaN.

    Args:
        measured: by key of a record (`dialects.CURVES`).
        extra: what DeepOBS does not have: `timings`, `calls`.

    Raises:
        DataError: something is no list of numbers.
    """
    found = {name: _column(measured.get(key), key) for name, key in zip(QUANTITIES, CURVES, strict=True)}
    length = max(map(len, found.values()))
    timings, calls = extra.get("timings", {}), extra.get("calls", {})
    found["seconds"] = _from_start(np.cumsum(_column(timings.get("train"), "timings")))
    found |= {kind: _from_start(_column(calls.get(kind), "calls")) for kind in CALLS}
    found["cost"] = _from_start(_column(costs({kind: calls[kind] for kind in CALLS if kind in calls}), "calls"))
    return {name: _padded(column, length) for name, column in found.items()}


def _from_start(column: Column) -> Column:
    """What is cumulative is 0 before training, if it is known at all."""
    return np.concatenate(([0.0], column)) if len(column) else column


def _column(values: Sequence[float] | None, name: str) -> Column:
    try:
        column = np.asarray(() if values is None else values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"its {name} are no list of numbers") from error
    if column.ndim != 1:
        raise DataError(f"its {name} are no list of numbers")
    return column


def _padded(column: Column, length: int) -> Column:
    if len(column) >= length:
        return column[:length]
    return np.concatenate((column, np.full(length - len(column), np.nan)))


def _tracked(extra: Mapping[str, Any]) -> dict[str, tuple[Column, Column]]:
    """What was tracked, and what was probed later; where both have a step of a quantity, they agree.

    Quantities of one number stand under their name, those of each layer as `name/LAYER`, others as `name[i]` or
    `name[i,j]`; after the name of a probed one stands over what it is, as `hess_max_ev (train)`.
    """
    tracked: Mapping[str, Any] = extra.get("tracked") or {}
    found: dict[str, tuple[Column, Column]] = {}
    steps = _column(tracked.get("steps"), "tracked steps")
    for name, values in tracked.get("quantities", {}).items():
        found |= _numbers(name, "", values, steps, tracked.get("layers"))
    for entry in extra.get("probed", ()):
        over = _over(entry, tracked.get("bn"))
        for name, column in entry["quantities"].items():
            at = _column(column["steps"], "probed steps")
            for label, new in _numbers(name, over, column["values"], at, entry.get("layers")).items():
                found[label] = _united(found[label], new) if label in found else new
    return found


def _over(entry: Mapping[str, Any], bn: str | None) -> str:
    """What a probe is over, where that is not the batch of a step, in brackets behind a name."""
    of_batch, count = entry["over"] == "batch", entry.get("batches")
    is_told = count is not None and not (of_batch and count == 1)  # a data set without a number is all of it
    parts = [
        "" if of_batch else str(entry["over"]),
        f"{count} {'batch' if count == 1 else 'batches'}" if is_told else "",
        f"bn {entry['bn']}" if entry.get("bn") not in (None, bn) else "",
    ]
    return f" ({', '.join(filter(None, parts))})" if any(parts) else ""


def _numbers(
    name: str, over: str, values: Sequence[Any], steps: Column, layers: Sequence[str] | None
) -> dict[str, tuple[Column, Column]]:
    """The columns of numbers that a quantity has."""
    found, array = {}, np.asarray(values, dtype=np.float64)
    for index in np.ndindex(array.shape[1:]):
        if index and layers and name.endswith(_LAYER):
            label = f"{name.removesuffix(_LAYER)}/{layers[index[0]]}{over}"
        else:
            label = f"{name}{over}[{','.join(map(str, index))}]" if index else f"{name}{over}"
        column = array[(slice(None), *index)]
        found[label] = (steps[: len(column)], column)
    return found


_LAYER = "/layer"  # the end of the name of a quantity of each layer, as in `probes.catalog`


def _united(old: tuple[Column, Column], new: tuple[Column, Column]) -> tuple[Column, Column]:
    """Two columns as one, by steps."""
    rows = dict(zip(*old, strict=True)) | dict(zip(*new, strict=True))
    steps = np.array(sorted(rows))
    return steps, np.array([rows[step] for step in steps])


def _facts(
    path: str, record: RunRecord, dialect: Dialect, about: Mapping[str, str], curves: Mapping[str, Column]
) -> dict[str, Any]:
    """The row of a run."""
    extra = record.extra
    configuration, environment = extra.get("configuration", {}), extra.get("environment", {})
    ours = dialect.name == "ours"
    status = extra.get("status", "finished")
    if not ours and len(curves["test_loss"]) < record.num_epochs + 1:
        status = "interrupted"
    study = {**extra.get("study", {}), **about}
    seeds = study.get("reported_seeds")
    return {
        "path": path,
        "problem": record.testproblem,
        "seed": record.random_seed,
        "status": status,
        "lr": record.learning_rate,
        "hyperparams": record.hyperparams,
        "schedule": _schedule(record, configuration, about),
        "epochs": record.num_epochs,
        "batch_size": record.batch_size,
        "weight_decay": math.nan if record.weight_decay is None else float(record.weight_decay),
        "protocol": extra.get("protocol", dialect.protocol),
        "data": _data(record),
        "precision": configuration.get("precision", "float32"),
        "version": _joined(environment, ("deepobs_func", "torch")) if ours else dialect.name,
        "machine": _machine(environment),
        "source": dialect.name,
        "study": study,
        "reported": seeds is None or record.random_seed in seeds,
        "reason": _reason(extra),
        "run_id": extra.get("run_id", ""),
        "execution_id": extra.get("execution_id", ""),
        "steps_per_epoch": extra.get("steps_per_epoch", math.nan),
        "waiting": _waiting(extra.get("timings", {})),
        "log_interval": record.train_log_interval,
        "has_accuracy": any(not np.isnan(curves[name]).all() for name in QUANTITIES if name.endswith("accuracy")),
        "name": record.optimizer,
        "family": extra.get("code", {}).get("optimizer", "") if ours else tuple(sorted(record.hyperparams)),
        "folder": setting_name(record) + (f"__schedule__{about['schedule']}" if "schedule" in about else ""),
    }


def _data(record: RunRecord) -> str:
    """Where the data are from; DeepOBS generates those of some problems, and does not say so."""
    default = "generated" if record.testproblem.startswith(GENERATED) else "files"
    return "synthetic" if record.synthetic else record.extra.get("data", {}).get("source", default)


def _check(facts: Mapping[str, Any]) -> None:
    for name, kind in _KINDS.items():
        value = facts[name]
        if not isinstance(value, kind) or isinstance(value, bool) or (name in _POSITIVE and value < 1):
            raise DataError(f"its {name} is {value!r}, which it cannot be")


def _schedule(record: RunRecord, configuration: Mapping[str, Any], about: Mapping[str, str]) -> str:
    named = about.get("schedule") or configuration.get("schedule")
    return str(named or ("steps" if record.lr_sched_epochs else ""))


def _joined(values: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} {values[name]}" for name in names if name in values)


def _machine(environment: Mapping[str, Any]) -> str:
    cores = f"{environment['cpus']} cores" if "cpus" in environment else ""
    return ", ".join(filter(None, (environment.get("platform", ""), cores, environment.get("device", ""))))


def _waiting(timings: Mapping[str, Any]) -> float:
    """The share of the training time in which there was no batch; NaN where that is not recorded."""
    waited, trained = (float(np.nansum(_column(timings.get(name), "timings"))) for name in ("data_wait", "train"))
    return waited / trained if timings.get("data_wait") and trained > 0 else math.nan


def _reason(extra: Mapping[str, Any]) -> str:
    """Why a run ended otherwise than at its end."""
    divergence = extra.get("divergence")
    words = (
        f"not finite in epoch {divergence['epoch']}" if divergence else "",
        extra.get("stopped"),
        extra.get("error"),
    )
    return "; ".join(str(each) for each in words if each)
