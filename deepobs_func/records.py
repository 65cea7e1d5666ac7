"""The record of a run: plain data, in DeepOBS's own JSON layout and folders. Imports no torch.

DeepOBS's keys stand first, in DeepOBS's order, so that its analyzer reads the file; what is new stands under the one
extra key `deepobs_func`. Non-finite numbers are bare `NaN` and `Infinity`, as DeepOBS writes them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import platform
import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from deepobs_func.errors import ConfigError, DataError
from deepobs_func.files import publish

Status = Literal["finished", "diverged", "interrupted", "failed"]
EXTRA = "deepobs_func"
_ACCURACIES = ("train_accuracies", "test_accuracies")
_OPTIONAL = (*_ACCURACIES, "minibatch_train_losses")  # the last was dropped from some published files for size


@dataclass
class RunRecord:
    """One run. Losses are `mean loss + penalty`, also the mini-batch ones, as in DeepOBS.

    Attributes:
        train_losses, test_losses: before training and after each epoch, `num_epochs + 1` entries.
        minibatch_train_losses: every `train_log_interval` steps.
        train_accuracies, test_accuracies: in `[0, 1]`; None where the problem has no accuracy.
        optimizer, testproblem, weight_decay, batch_size, num_epochs, learning_rate, lr_sched_epochs,
        lr_sched_factors, random_seed, train_log_interval, hyperparams: as DeepOBS has them; `weight_decay` is None
            for the problem's default, `hyperparams` is without the learning rate.
        extra: what DeepOBS does not have: status, protocol, data source, environment, timings, resolved choices, the
            configuration, penalties. `timings` are seconds: `warm_up`, once; `train`, of each epoch; `evaluate`, of
            each evaluation; with streamed data `data_wait`, the part of each `train` in which the device had nothing
            to do because its next batch was not there.
        path: the file that it was read from or written to; not part of the file.
    """

    train_losses: list[float]
    test_losses: list[float]
    minibatch_train_losses: list[float]
    train_accuracies: list[float] | None
    test_accuracies: list[float] | None
    optimizer: str
    testproblem: str
    weight_decay: float | None
    batch_size: int
    num_epochs: int
    learning_rate: float
    lr_sched_epochs: list[int] | None
    lr_sched_factors: list[float] | None
    random_seed: int
    train_log_interval: int
    hyperparams: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def status(self) -> Status:
        """How the run ended; files of DeepOBS's own have no status and were finished."""
        return self.extra.get("status", "finished")

    @property
    def synthetic(self) -> bool:
        """Whether the data were a stand-in, so that no number in the record is a result."""
        return bool(self.extra.get("data", {}).get("synthetic", False))

    def to_json(self) -> dict[str, Any]:
        """The file's content."""
        content = {name: getattr(self, name) for name in _KEYS}
        for name in _ACCURACIES:
            if content[name] is None:
                del content[name]
        return content | ({EXTRA: self.extra} if self.extra else {})


_KEYS = tuple(f.name for f in dataclasses.fields(RunRecord) if f.name not in ("extra", "path"))


def read(path: str | Path) -> RunRecord:
    """Reads a record, of ours or of DeepOBS 1.1.2.

    Raises:
        DataError: the file is no JSON, or lacks a key.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no readable record: {error}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no record of a run: it holds {type(content).__name__}, not an object.")
    missing = [name for name in _KEYS if name not in content and name not in _OPTIONAL]
    if missing:
        raise DataError(f"{path} is no record of a run: it lacks {', '.join(missing)}.")
    values: dict[str, Any] = {name: content.get(name) for name in _KEYS} | {
        "minibatch_train_losses": content.get("minibatch_train_losses", [])
    }
    return RunRecord(**values, extra=content.get(EXTRA, {}), path=Path(path))


def float2str(value: float) -> str:
    """DeepOBS's name of a number: ten digits, trailing zeros stripped, the dot kept.

    >>> float2str(0.01), float2str(10**-0.4), float2str(0.0)
    ('1.e-02', '3.9810717055e-01', '0.e+00')
    """
    if not math.isfinite(value):
        return str(value)
    mantissa, exponent = f"{value:.10e}".split("e")
    return f"{mantissa.rstrip('0')}e{exponent}"


def _value2str(value: Any) -> str:
    text = float2str(value) if isinstance(value, float) else str(value)
    safe = re.sub(r"[^A-Za-z0-9_.,()=+-]", "-", text)  # nothing that a file system could trip over
    return "-" * len(safe) if safe in (".", "..") else safe


def setting_name(record: RunRecord) -> str:
    """DeepOBS's folder name of a setting.

    `num_epochs__N__batch_size__B__[weight_decay__W__]name__value__...lr__LR`, hyperparameters sorted by name, or
    `lr_schedule__0_LR_E1_LR1...`; `__data__synthetic` at the end where the data were a stand-in.
    """
    parts = [f"num_epochs__{record.num_epochs}", f"batch_size__{record.batch_size}"]
    if record.weight_decay is not None:
        parts.append(f"weight_decay__{float2str(record.weight_decay)}")
    parts += [f"{name}__{_value2str(value)}" for name, value in sorted(record.hyperparams.items())]
    if record.lr_sched_epochs:
        schedule = lr_schedule(record.learning_rate, record.lr_sched_epochs, record.lr_sched_factors or [])
        parts.append("lr_schedule__" + "_".join(f"{epoch}_{float2str(lr)}" for epoch, lr in schedule.items()))
    else:
        parts.append(f"lr__{float2str(record.learning_rate)}")
    if record.synthetic:
        parts.append("data__synthetic")
    return "__".join(parts)


def lr_schedule(lr: float, epochs: Sequence[int], factors: Sequence[float]) -> dict[int, float]:
    """The learning rate from each epoch on; factors multiply the base rate.

    >>> lr_schedule(0.3, [50, 100], [0.1, 0.01])
    {0: 0.3, 50: 0.03, 100: 0.003}
    """
    return {0: lr} | {epoch: lr * factor for epoch, factor in zip(epochs, factors, strict=True)}


def folder_of(record: RunRecord, output_dir: str | Path) -> Path:
    """`<output_dir>/<testproblem>/<optimizer>/<setting>`."""
    return Path(output_dir) / _value2str(record.testproblem) / _value2str(record.optimizer) / setting_name(record)


def state_dir(output_dir: str | Path) -> Path:
    """`<output_dir>.state`, for all that is no run: nothing else lies in the results tree.

    Raises:
        ConfigError: the output folder is the root of the file system, which nothing lies beside.
    """
    path = Path(os.path.abspath(output_dir))
    if not path.name:
        raise ConfigError(f"The output folder cannot be {output_dir}. Name a folder below it with --output-dir.")
    return path.with_name(path.name + ".state")


def check_writable(folder: Path, output_dir: str | Path) -> None:
    """Makes the folders of a record and sure, before a run starts, that it can be written when the run ends.

    Raises:
        ConfigError: a folder cannot be made or written.
    """
    try:
        for place in (folder, state_dir(output_dir)):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=place, prefix=".writable-"):
                pass
    except OSError as error:
        raise ConfigError(
            f"The output folder {output_dir} cannot be written ({error}). Name another one with --output-dir."
        ) from error


def write(record: RunRecord, output_dir: str | Path, when: datetime | None = None) -> Path:
    """Writes the record under DeepOBS's name, atomically, beside whatever is there.

    Finished and diverged runs are `random_seed__<s>__<YYYY-mm-dd-HH-MM-SS>.json`. Interrupted and failed ones are
    `<name>.json.partial`, which DeepOBS's analyzer, averaging every `*.json`, does not take for a run. Where the name
    is taken, the next free second is used.

    Args:
        record: what to write. A value that JSON does not know is written as its `repr`.
        output_dir: the results tree.
        when: the time in the name; now by default.

    Returns:
        The path of the file.
    """
    folder = folder_of(record, output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    state_dir(output_dir).mkdir(parents=True, exist_ok=True)
    suffix = ".json" if record.status in ("finished", "diverged") else ".json.partial"
    when = when or datetime.now()
    temporary = state_dir(output_dir) / f"{uuid.uuid4().hex}{suffix}"
    try:
        with temporary.open("x", encoding="utf-8") as stream:
            json.dump(record.to_json(), stream, default=repr)
            stream.flush()
            os.fsync(stream.fileno())
        while not publish(temporary, path := folder / _file_name(record, when, suffix)):
            when += timedelta(seconds=1)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _file_name(record: RunRecord, when: datetime, suffix: str) -> str:
    return f"random_seed__{record.random_seed}__{when:%Y-%m-%d-%H-%M-%S}{suffix}"


def run_id(configuration: Mapping[str, Any]) -> str:
    """The SHA-256 of the configuration's canonical JSON (keys sorted, no spaces)."""
    canonical = json.dumps(configuration, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def environment() -> dict[str, Any]:
    """The machine and the interpreter, as far as they are known without torch."""
    from deepobs_func import __version__

    return {
        "deepobs_func": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }
