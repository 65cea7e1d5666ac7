"""One run: what was run, how it ended, what came of it, and the command that runs it again."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.parsing import QUANTITIES
from deepobs_func.analysis.reading import load
from deepobs_func.analysis.rendering import described, render, shown
from deepobs_func.analysis.results import Results
from deepobs_func.errors import ConfigError, DataError, option
from deepobs_func.records import EXTRA, output_path, state_dir

_FLAGS: Mapping[str, Any] = {  # of `deepobs run`, with their defaults, which are left out
    "epochs": None,
    "batch_size": None,
    "seed": None,
    "weight_decay": None,
    "lr_sched_epochs": None,
    "lr_sched_factors": None,
    "schedule": None,
    "warm_up": 0.0,
    "decay_factor": 0.1,
    "clip_norm": None,
    "clip_value": None,
    "valid": 0,
    "protocol": "default",
    "precision": "float32",
    "on_divergence": None,
    "train_log_interval": 10,
    "track": [],
    "track_every": 10,
    "track_bn": None,
    "workers": None,
}
_LEFT_OUT: Mapping[str, Mapping[str, Any]] = {  # what follows from another value
    "on_divergence": {"default": "stop", "deepobs-1.1.2": "continue"},
}


class Measured(NamedTuple):
    """What a run measured of a quantity.

    Attributes:
        quantity: a column of `Results.epochs`.
        first, best, last: its values before training, at its best epoch and after the last one.
        best_epoch: that epoch; NaN where nothing is finite.
    """

    quantity: str
    first: float
    best: float
    best_epoch: float
    last: float


@dataclass(frozen=True)
class RunSummary:
    """A run; `str()` of it is what `deepobs show` prints.

    Attributes:
        facts: its row in `Results.runs`.
        measured: by quantity.
        evaluated: how many epochs were evaluated after.
        reached: the first epoch at or past the published convergence performance; NaN where there is none.
        seconds: of training; NaN where they are not recorded.
        calls: of the oracle, by kind, those that are recorded.
        command: that runs it again; "" for a run that is not ours.
    """

    facts: Mapping[str, Any]
    measured: tuple[Measured, ...]
    evaluated: int
    reached: float
    seconds: float
    calls: Mapping[str, float]
    command: str

    def __str__(self) -> str:
        facts = self.facts
        setting = described(facts["lr"], facts["hyperparams"], facts["schedule"])
        ended = facts["status"] + (f" ({facts['reason']})" if facts["reason"] else "")
        calls = ", ".join(f"{count:.0f} {kind}" for kind, count in self.calls.items() if count)
        about = {
            "problem": facts["problem"],
            "optimizer": facts["optimizer"],
            "setting": f"{setting}, {facts['epochs']} epochs, batch size {facts['batch_size']}, seed {facts['seed']}",
            "status": f"{ended}, {self.evaluated} of {facts['epochs']} epochs",
            "data": facts["data"] + (": these numbers are no result" if facts["data"] == "synthetic" else ""),
            "protocol": ", ".join(filter(None, (facts["protocol"], facts["precision"]))),
            "training": "" if math.isnan(self.seconds) else f"{self.seconds:.3g} s",
            "calls": calls,
            "target": self._target(),
            "version": facts["version"],
            "machine": facts["machine"],
            "run id": facts["run_id"],
            "file": facts["path"],
            "again": self.command,
        }
        width = max(map(len, about))
        lines = [f"{name:{width}}  {value}" for name, value in about.items() if value]
        titles = ("", "before", "best", "in epoch", "last")
        rows = [
            (each.quantity.replace("_", " "), *map(shown, (each.first, each.best)), _epoch(each), shown(each.last))
            for each in self.measured
        ]
        return "\n".join([*lines, "", render(titles, rows)])

    def _target(self) -> str:
        target = self.facts["target"]
        if math.isnan(target):
            return ""
        when = "not reached" if math.isnan(self.reached) else f"reached in epoch {self.reached:.0f}"
        return f"{self.facts['metric'].replace('_', ' ')} {target:.6g}, {when}"


def show_run(path: str | Path, results_dir: str | Path = "results") -> RunSummary:
    """Reads one run.

    Args:
        path: of its file, or of a folder with this run alone, or the beginning of its id.
        results_dir: the results tree in which an id is looked for.

    Returns:
        Its summary.

    Raises:
        ConfigError: there is no such run, or there are several.
        DataError: the file cannot be read.
    """
    is_there = Path(path).exists()
    root = output_path(results_dir)
    if not (is_there or root.exists() or state_dir(root).is_dir()):
        raise ConfigError(
            f"{path} is no file of a run, and there is no results tree {root} that may have its id. Name a file, or "
            f"the tree with {option('results')}. `deepobs run --help` says how to make a run."
        )
    results = load(path if is_there else results_dir)
    if is_there and results.unread and not len(results.runs):
        raise DataError(f"{results.unread[0].path}: {results.unread[0].reason}.")
    found = results.runs if is_there else results.runs[results.runs["run_id"].str.startswith(str(path))]
    if not len(found):
        raise ConfigError(f"{path} is neither a file of a run nor the beginning of a run's id in {results_dir}.")
    if len(found) > 1:
        listed = "\n".join(f"  {file}" for file in found["path"][:20])
        raise ConfigError(f"{path} has {len(found)} runs; name one:\n{listed}")
    return summary(results, int(found.index[0]))


def summary(results: Results, run: int) -> RunSummary:
    """The summary of a run that was read.

    Args:
        results: what was read.
        run: its number.

    Returns:
        The summary.
    """
    facts = results.row(run)
    measured = tuple(_measured(results, run, name) for name in QUANTITIES if results.has(run, name))
    curve, target = results.values(run, facts["metric"]), facts["target"]
    with np.errstate(invalid="ignore"):
        good = np.flatnonzero(curve >= target if facts["higher_is_better"] else curve <= target)
    seconds = results.values(run, "seconds")
    calls = {kind: float(np.nanmax(results.values(run, kind))) for kind in _CALLS if results.has(run, kind)}
    return RunSummary(
        facts=facts,
        measured=measured,
        evaluated=max(0, len(curve) - 1),
        reached=float(good[0]) if good.size else math.nan,
        seconds=float(np.nanmax(seconds)) if results.has(run, "seconds") else math.nan,
        calls=calls,
        command=_command(facts),
    )


def rerun_command(configuration: Mapping[str, Any]) -> str:
    """The command that makes a run again, from the configuration in its record.

    Args:
        configuration: `deepobs_func.configuration` of a record.

    Returns:
        A command line; what is as by default is left out.

    >>> rerun_command({"problem": "mnist_mlp", "optimizer": "adam", "lr": 0.001, "hyperparams": {}, "seed": 42})
    'deepobs run mnist_mlp --optimizer adam --lr 0.001 --seed 42'
    """
    words = ["deepobs", "run", configuration["problem"], "--optimizer", configuration["optimizer"]]
    words += ["--lr", repr(configuration["lr"])]
    for name, value in configuration.get("hyperparams", {}).items():
        words += [f"--opt.{name}", _word(value)]
    protocol = configuration.get("protocol", "default")
    for name, default in _FLAGS.items():
        value = configuration.get(name, default)
        implied = _LEFT_OUT.get(name, {}).get(protocol)
        if value not in (default, implied):
            words += [f"--{name.replace('_', '-')}", _word(value)]
    if configuration.get("data") == "synthetic":
        words += ["--data", "synthetic"]
    return shlex.join(words)


_CALLS = ("gradients", "products", "evaluations")


def _word(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _command(facts: Mapping[str, Any]) -> str:
    """From the record, which has what the frames leave out."""
    if facts["source"] != "ours":
        return ""
    configuration = json.loads(Path(facts["path"]).read_bytes())[EXTRA].get("configuration", {})
    return rerun_command(configuration) if {"problem", "optimizer", "lr"} <= set(configuration) else ""


def _measured(results: Results, run: int, quantity: str) -> Measured:
    values = results.values(run, quantity)
    finite = np.where(np.isfinite(values), values, np.nan)
    best = math.nan
    if not np.isnan(finite).all():
        best = float(np.nanargmax(finite) if is_accuracy(quantity) else np.nanargmin(finite))
    value = math.nan if math.isnan(best) else float(values[int(best)])
    return Measured(quantity, float(values[0]), value, best, float(values[-1]))


def _epoch(measured: Measured) -> str:
    return "-" if math.isnan(measured.best_epoch) else f"{measured.best_epoch:.0f}"
