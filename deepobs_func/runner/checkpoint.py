"""Checkpoints: a state of a run in one safetensors file, tensors with a JSON head; no pickle.

The head says what the run is (configuration, `run_id`), how it was executed, on what machine and versions, and holds
the log. A file appears whole or not at all, and an older one goes only when a newer one is there.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import ModelState
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.step import Carry
from deepobs_func.runner.training import Training, TrainState

FORMAT = 1
SUFFIX = ".safetensors"
_HEAD = "deepobs_func"


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        head: `configuration`, `identity`, `run_id`, `execution`, `environment`, `epoch`, `step`, `log`, as plain data.
        tree: `{"params", "opt_state", "moments", "carry"}`, on the CPU.
    """

    path: Path
    head: dict[str, Any]
    tree: dict[str, Any]

    @property
    def execution(self) -> Execution:
        """How the run was executed."""
        return Execution.from_plain_data(self.head["execution"], str(self.path))

    def state(self, training: Training) -> TrainState:
        """The state, to go on with.

        Raises:
            ConfigError: the checkpoint is of another run.
        """
        check_same_run(self, training.plan)
        log = Log.from_plain_data(self.head["log"])
        return TrainState(self.carry(training.plan), self.head["epoch"], self.head["step"], log)

    def carry(self, plan: Plan) -> Carry:
        """Parameters, optimizer state and model state, on the device of a plan."""
        tree, key = _to(self.tree, plan.device), random.key(plan.config.seed, plan.device)
        template = plan.optimizer.save(plan.optimizer.init(tree["params"], key))
        opt_state = plan.optimizer.load(_like(template, tree["opt_state"]), tree["params"], key)
        return Carry(tree["params"], opt_state, ModelState(tree["moments"], tree["carry"]))


def save(path: Path, training: Training, state: TrainState) -> None:
    """Writes a checkpoint.

    Args:
        path: the file, whose folder is made; one that is there is replaced when the new one is whole.
        training: whose state it is.
        state: what is saved.

    Raises:
        ConfigError: the optimizer's state holds something that is neither tensor nor plain data.
        OSError: the file cannot be written; what was there before is still there.
    """
    plan, carry = training.plan, state.carry
    tensors: dict[str, Tensor] = {}
    tree = {
        "params": carry.params,
        "opt_state": plan.optimizer.save(carry.opt_state),
        "moments": carry.state.moments,
        "carry": carry.state.carry,
    }
    head = {
        "format": FORMAT,
        "configuration": plan.plain_configuration(),
        "identity": plan.identity,
        "run_id": plan.run_id,
        "source": plan.source,
        "environment": plan.environment,
        "execution": training.execution.as_plain_data(),
        "execution_id": training.execution.id(plan.device),
        "epoch": state.epoch,
        "step": state.step,
        "log": state.log.as_plain_data(),
        "tree": _packed(tree, tensors, plan.config.optimizer),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        save_file(tensors, draft, metadata={_HEAD: json.dumps(head)})
        with draft.open("rb") as stream:
            os.fsync(stream.fileno())
        draft.replace(path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        draft.unlink(missing_ok=True)


def read(path: str | Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        DataError: the file is not there, is truncated, or is not a checkpoint of this package.
    """
    path = Path(path).expanduser()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            head = json.loads(metadata.get(_HEAD, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except (OSError, ValueError, SafetensorError) as error:
        raise DataError(f"{path} is no readable checkpoint: {error}.") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise DataError(f"{path} is no checkpoint of this version of deepobs_func: it has no head of format {FORMAT}.")
    return Checkpoint(path, head, _unpacked(head.pop("tree"), tensors))


def check_same_run(checkpoint: Checkpoint, plan: Plan) -> None:
    """Checks that a checkpoint is of a plan's run.

    Raises:
        ConfigError: it is of another configuration, version or machine; the message says what differs.
    """
    theirs = checkpoint.head
    if plan.run_id != theirs["run_id"]:
        there = {name: theirs["identity"].get(name) for name in plan.identity}
        pairs = [(name, there[name], value) for name, value in plan.identity.items() if there[name] != value]
        listed = "; ".join(f"{name} {was!r} there, {now!r} here" for name, was, now in pairs)
        raise ConfigError(
            f"{checkpoint.path} is of another run: {listed or 'its identity'} differs. Start anew in another output "
            "folder, or give the same configuration."
        )
    here, where = plan.environment, theirs["environment"]
    changed = [name for name in ("torch", "machine", "device") if here.get(name) != where.get(name)]
    if changed:
        listed = "; ".join(f"{name} {where.get(name)!r} there, {here.get(name)!r} here" for name in changed)
        raise ConfigError(
            f"{checkpoint.path} was written elsewhere: {listed}. Its numbers would not be those of one run; start anew "
            "in another output folder."
        )


def latest(folder: Path) -> Path | None:
    """The checkpoint of the furthest state in a folder; None where there is none."""
    found = sorted(folder.glob(f"epoch_*{SUFFIX}")) if folder.is_dir() else []
    return found[-1] if found else None


def path_in(folder: Path, state: TrainState) -> Path:
    """The name of a state's file: sorted by name, files are in the order of their states."""
    return folder / f"epoch_{state.epoch:07d}_step_{state.step:07d}{SUFFIX}"


def prune(folder: Path, keep: int) -> None:
    """Removes all checkpoints of a folder but the furthest `keep`, and the folder where nothing is left."""
    for path in sorted(folder.glob(f"epoch_*{SUFFIX}"))[: -keep or None]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _packed(value: Any, tensors: dict[str, Tensor], optimizer: str) -> Any:
    """A tree as JSON, with its tensors put aside under numbers; what it was is written beside each part."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        last = value.ndim == 4 and not value.is_contiguous() and value.is_contiguous(memory_format=torch.channels_last)
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name, **({"channels_last": True} if last else {})}
    if isinstance(value, Mapping):
        return {"dict": [[_packed(each, tensors, optimizer) for each in pair] for pair in value.items()]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_packed(part, tensors, optimizer) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"The state of the optimizer {optimizer} holds a {type(value).__name__}, which a checkpoint cannot hold: only "
        "tensors, numbers, text and containers of them. Run it with --checkpoint-every never."
    )


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        return tensor.contiguous(memory_format=torch.channels_last) if value.get("channels_last") else tensor
    if "dict" in value:
        return {_unpacked(key, tensors): _unpacked(each, tensors) for key, each in value["dict"]}
    (kind,) = value
    parts = [_unpacked(part, tensors) for part in value[kind]]
    return tuple(parts) if kind == "tuple" else parts


def _like(template: Any, value: Any) -> Any:
    """The value with named tuples where the template has them: a file knows tuples alone."""
    if isinstance(template, tuple) and isinstance(value, tuple) and len(template) == len(value):
        parts = [_like(*pair) for pair in zip(template, value, strict=True)]
        return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    if isinstance(template, Mapping) and isinstance(value, dict):
        return {key: _like(template.get(key), part) for key, part in value.items()}
    return value


def _to(value: Any, device: torch.device) -> Any:
    """A tree on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _to(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_to(each, device) for each in value)
    return value
