"""The record of a run as a value, and how a file of it is read."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from deepobs_func.errors import DataError

Status = Literal["finished", "diverged", "interrupted", "failed", "stopped"]
EXTRA = "deepobs_func"
_SPLITS = ("train", "valid", "test")
_LOSSES = tuple(f"{split}_losses" for split in _SPLITS)
_ACCURACIES = tuple(f"{split}_accuracies" for split in _SPLITS)
_IF_ANY = ("valid_losses", *_ACCURACIES)
_OPTIONAL = (*_IF_ANY, "minibatch_train_losses")  # the last was dropped from some published files for size


@dataclass
class RunRecord:
    """One run. Losses are `mean loss + penalty`, also the mini-batch ones, as in DeepOBS.

    Attributes:
        train_losses, test_losses: before training and after each epoch, `num_epochs + 1` entries.
        minibatch_train_losses: every `train_log_interval` steps.
        train_accuracies, test_accuracies: in `[0, 1]`; None where the problem has no accuracy.
        optimizer, testproblem, weight_decay, batch_size, num_epochs, learning_rate, lr_sched_epochs,
        lr_sched_factors, random_seed, train_log_interval, hyperparams: as DeepOBS has them; `weight_decay` is None
            for the problem's default, `hyperparams` is without the learning rate and has the defaults of the optimizer.
        valid_losses, valid_accuracies: as those of the other splits, under the names of DeepOBS 1.2; None where there
            is no validation split.
        extra: what DeepOBS does not have: status, protocol, data source, environment, timings, resolved choices, the
            configuration, penalties, ids; `defaults`, the hyperparameters of a class that are as by default; `code`,
            digests of a problem and an optimizer of the user's own; `calls`, how often the optimizer had called its
            oracle after each epoch, by kind (`optimizers.counting`), where that is known. `timings` are seconds:
            `warm_up`, once; `train`, of each epoch; `evaluate`, of each evaluation; with streamed data `data_wait`, the
            part of each `train` in
            which the device had nothing to do because its next batch was not there. `study`, what a study says of the
            run, such as its role and its budget (docs/tuning.md).
        path: the file that it was read from or written to; not part of the file.
        note: why it was written elsewhere than it should be, or ""; not part of the file.
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
    valid_losses: list[float] | None = None
    valid_accuracies: list[float] | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    note: str = ""

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
        for name in _IF_ANY:
            if content[name] is None:
                del content[name]
        return content | ({EXTRA: self.extra} if self.extra else {})


_RESULTS = (*_LOSSES, "minibatch_train_losses", *_ACCURACIES)  # in the order of DeepOBS 1.2
_NOT_IN_FILE = ("extra", "path", "note")
_KEYS = (*_RESULTS, *(f.name for f in dataclasses.fields(RunRecord) if f.name not in (*_RESULTS, *_NOT_IN_FILE)))


def read(path: str | Path) -> RunRecord:
    """Reads a record, of ours or of DeepOBS 1.1.2; the validation split, which DeepOBS 1.2 has, may be there.

    Returns:
        The record, with its path.

    Raises:
        DataError: the file is not JSON, or lacks a key.

    >>> record = RunRecord([2.0], [3.0], [], None, None, "sgd", "mine", None, 8, 0, 0.1, None, None, 42, 10, {})
    >>> _ = Path("record.json").write_text(json.dumps(record.to_json()))
    >>> read("record.json").test_losses
    [3.0]
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
