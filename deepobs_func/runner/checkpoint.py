"""Checkpoints: a state of a run in one safetensors file, tensors with a JSON head; no pickle.

The head says what the run is (configuration, `run_id`), how it was executed, on what machine and versions, and holds
the log. A file appears whole or not at all, and an older one goes only when a newer one is there.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import ModelState
from deepobs_func.errors import ConfigError, DataError, ResumeError
from deepobs_func.runner.asking import check_asked
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.identity import machine
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.step import Carry
from deepobs_func.runner.training import Training, TrainState

FORMAT = 1
SUFFIX = ".safetensors"
_HEAD = "deepobs_func"
_KEYS = ("configuration", "identity", "run_id", "source", "machine", "execution", "epoch", "step", "log", "tree")
_DRAFT = ".tmp"
_ABANDONED = 3600.0  # seconds after which nobody writes a draft any more


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: the file.
        head: `configuration`, `identity`, `run_id`, `execution`, `machine`, `epoch`, `step`, `log` and
            more, as plain data.
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
        tree, key = to_device(self.tree, plan.device), random.key(plan.config.seed, plan.device)
        template = plan.optimizer.save(plan.optimizer.init(tree["params"], key))
        opt_state = plan.optimizer.load(like(template, tree["opt_state"]), tree["params"], key)
        return Carry(tree["params"], opt_state, ModelState(tree["moments"], plan.ranks.shards(tree["carry"])))


def pack(plan: Plan, state: TrainState) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A state as a tree of plain data, and the tensors whose names stand in it.

    Raises:
        ConfigError: the optimizer's state holds something that is neither tensor nor plain data.
    """
    carry, tensors = state.carry, dict[str, Tensor]()
    tree = {
        "params": carry.params,
        "opt_state": plan.optimizer.save(carry.opt_state),
        "moments": carry.state.moments,
        "carry": {name: plan.ranks.gathered(leaf) for name, leaf in carry.state.carry.items()},
    }
    return packed(tree, tensors, plan.config.optimizer), tensors


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
    plan = training.plan
    tree, tensors = pack(plan, state)
    if plan.ranks.rank:  # process 0 writes
        return
    head = {
        "format": FORMAT,
        "configuration": plan.plain_configuration(),
        "identity": plan.identity,
        "run_id": plan.run_id,
        "source": plan.source,
        "environment": plan.environment,
        "machine": machine(plan.device),
        "execution": training.execution.as_plain_data(),
        "execution_id": training.execution.id(plan.device),
        "epoch": state.epoch,
        "step": state.step,
        "log": state.log.as_plain_data(),
        "tree": tree,
    }
    write(path, head, tensors)


def write(path: Path, head: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """Writes tensors with a JSON head, whole or not at all.

    Raises:
        OSError: the file cannot be written; what was there before is still there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}{_DRAFT}")
    try:
        save_file(tensors, draft, metadata={_HEAD: json.dumps(head)})
        _to_disk(draft)
        draft.replace(path)
        _to_disk(path.parent)  # before an older one is removed
    except SafetensorError as error:
        raise OSError(str(error)) from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk, where the system can say so."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder, on some systems
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read(path: str | Path) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        DataError: the file is not there, is truncated, or is not a checkpoint of this package.
    """
    path = Path(path).expanduser()
    head, tree = read_whole(path, _KEYS)
    return Checkpoint(path, head, tree)


def read_whole(path: Path, keys: Collection[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The head of a file and the tree that it holds, on the CPU.

    Args:
        path: the file.
        keys: what the head must have.

    Raises:
        DataError: the file is not there, is truncated, or is not a checkpoint of this package.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            head = json.loads(metadata.get(_HEAD, "null"))
            # Copies: what is mapped into memory lies at odd addresses, by which the rounding of a product may change.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  # no mapping
    except (OSError, ValueError, RecursionError, SafetensorError) as error:
        raise DataError(
            f"{path} is no readable checkpoint: {error}. Name another file; one that was cut short can be removed, and "
            "the run goes on from the one before, or starts anew."
        ) from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise DataError(f"{path} is no checkpoint of this version of deepobs_func: it has no head of format {FORMAT}.")
    try:
        lacking = [name for name in keys if name not in head]
        tree = {} if lacking else unpacked(head.pop("tree"), tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no whole checkpoint: {type(error).__name__} {error} in its tree.") from error
    if lacking:
        raise DataError(f"{path} is no whole checkpoint: its head lacks {', '.join(lacking)}.")
    return head, tree


def check_same_run(checkpoint: Checkpoint, plan: Plan) -> None:
    """Checks that a checkpoint is of a plan's run, and holds what is asked of it.

    Raises:
        ResumeError: it is of another configuration, version or machine; the message says what differs.
    """
    theirs = checkpoint.head
    if plan.run_id != theirs["run_id"]:
        raise ResumeError(
            f"{checkpoint.path} is of another run: {differences(theirs['identity'], plan.identity)}. Give the same "
            "configuration, or start anew: without resuming, or in another output folder."
        )
    check_asked(checkpoint.path, theirs["configuration"], plan.plain_configuration())
    check_same_machine(checkpoint.path, theirs["machine"], plan)


def check_same_machine(path: Path, there: Mapping[str, Any], plan: Plan) -> None:
    """Checks that a checkpoint was written on this machine, by these versions.

    Raises:
        ResumeError: it was not; the message says what differs.
    """
    here = machine(plan.device)
    if there != here:
        raise ResumeError(
            f"{path} was written elsewhere: {differences(there, here)}. Its numbers would not be those of "
            "one run: go on there, or start anew, without resuming."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any], of: str = "") -> str:
    """What differs between two trees of plain data, in words."""
    found = []
    for name in dict.fromkeys((*there, *here)):
        was, now = there.get(name), here.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            found.append(differences(was, now, f"{of}{name}."))
        elif json.dumps(was, default=repr) != json.dumps(now, default=repr):
            found.append(f"{of}{name} {was!r} there, {now!r} here")
    return "; ".join(filter(None, found))


def paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the one of the furthest state last."""
    return sorted(folder.glob(f"epoch_*{SUFFIX}")) if folder.is_dir() else []


def path_in(folder: Path, state: TrainState) -> Path:
    """The name of a state's file: sorted by name, files are in the order of their states."""
    return folder / f"epoch_{state.epoch:07d}_step_{state.step:07d}{SUFFIX}"


def prune(folder: Path, done: Collection[Path]) -> None:
    """Removes checkpoints of a folder, drafts that a process left when it died, and an empty folder."""
    if not folder.is_dir():
        return
    drafts = [path for path in folder.glob(f".*{_DRAFT}") if time.time() - _modified(path) > _ABANDONED]
    for path in (*done, *drafts):
        path.unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


def packed(value: Any, tensors: dict[str, Tensor], optimizer: str) -> Any:
    """A tree as JSON, with its tensors put aside under numbers; what it was is written beside each part.

    Raises:
        ConfigError: it holds something that is neither tensor nor plain data.
    """
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        as_it_lies = _is_dense(value) and value.stride() != tensors[name].stride()
        return {"tensor": name, **({"strides": list(value.stride())} if as_it_lies else {})}
    if isinstance(value, Mapping):
        return {"dict": [[packed(each, tensors, optimizer) for each in pair] for pair in value.items()]}
    if isinstance(value, tuple | list):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [packed(part, tensors, optimizer) for part in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise ConfigError(
        f"The state of the optimizer {optimizer} holds a {type(value).__name__}, which a checkpoint cannot hold: only "
        "tensors, numbers, text and containers of them. Run it with --checkpoint-every never."
    )


def unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `packed`; named tuples come back as tuples."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        tensor = tensors[value["tensor"]]
        return _laid(tensor, value["strides"]) if "strides" in value else tensor
    if "dict" in value:
        return {unpacked(key, tensors): unpacked(each, tensors) for key, each in value["dict"]}
    (kind,) = value
    parts = [unpacked(part, tensors) for part in value[kind]]
    return tuple(parts) if kind == "tuple" else parts


def _is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory, each in a place of its own."""
    pairs = sorted((stride, size) for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size != 1)
    expected = 1
    for stride, size in pairs:
        if stride != expected:
            return False
        expected *= size
    return True


def _laid(tensor: Tensor, strides: list[int]) -> Tensor:
    """The tensor with its axes in memory in another order: kernels are chosen by it, and so rounding is."""
    return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype).copy_(tensor)


def like(template: Any, value: Any) -> Any:
    """The value with named tuples where the template has them: a file knows tuples alone."""
    if isinstance(template, tuple) and isinstance(value, tuple) and len(template) == len(value):
        parts = [like(*pair) for pair in zip(template, value, strict=True)]
        return type(template)(*parts) if hasattr(template, "_fields") else tuple(parts)
    if isinstance(template, Mapping) and isinstance(value, dict):
        return {key: like(template.get(key), part) for key, part in value.items()}
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """A tree on a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: to_device(each, device) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(to_device(each, device) for each in value)
    return value
