"""What is kept of a population while it goes: one checkpoint of all its members."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.errors import ConfigError
from deepobs_func.runner import checkpoint
from deepobs_func.runner.asking import check_asked
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.identity import machine
from deepobs_func.runner.keeping import AUTO_SECONDS
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.block import Block

FOLDER = "populations"
_KEYS = ("run_ids", "configuration", "machine", "execution", "tree")


def population_id(plans: Sequence[Plan]) -> str:
    """A hash of who trains side by side, in order."""
    return hashlib.sha256(" ".join(plan.run_id for plan in plans).encode()).hexdigest()


def folder_of(plans: Sequence[Plan], output_dir: str | Path) -> Path:
    """Where the checkpoints of a population lie, in the state folder."""
    name = f"{plans[0].problem.name[:80]}__{population_id(plans)[:16]}"
    return records.state_dir(output_dir) / FOLDER / name


class Kept:
    """The checkpoints of a population: the last one, which goes when all records are written.

    Args:
        plans: of the members, in order.
        output_dir: the results tree.
    """

    def __init__(self, plans: Sequence[Plan], output_dir: str | Path) -> None:
        self._plans, self._folder = plans, folder_of(plans, output_dir)
        self._is_wanted = plans[0].config.checkpoint_every != "never"
        self._every: Any = plans[0].config.checkpoint_every
        self._saved, self.failure = time.perf_counter(), ""

    def at_epoch(self, block: Block) -> None:
        """Writes one if it is due: every so many epochs, or where a minute has passed."""
        if self._every == "auto":
            due = time.perf_counter() - self._saved > AUTO_SECONDS
        else:
            count, unit = self._every if self._is_wanted else (0, "")
            due = unit == "steps" or (unit == "epochs" and block.epoch > 0 and block.epoch % count == 0)
        if due:
            self.save(block)

    def save(self, block: Block) -> Path | None:
        """Writes one, and says where. What prevents it ends nothing: `failure` says it."""
        if not self._is_wanted:
            return None
        path: Path | None = self._folder / f"epoch_{block.epoch:07d}_step_{block.step:07d}{checkpoint.SUFFIX}"
        try:
            self._write(path, block)
            checkpoint.prune(self._folder, [each for each in checkpoint.paths(self._folder) if each != path])
            self.failure = ""
        except Exception as error:  # a disk's, a device's, a class's
            self.failure, path = str(error) or type(error).__name__, None
            self._is_wanted = self._is_wanted and not isinstance(error, ConfigError)
        self._saved = time.perf_counter()
        return path

    def _write(self, path: Any, block: Block) -> None:
        tensors: dict[str, Any] = {}
        plan = self._plans[0]
        tree = checkpoint.packed(block.save(), tensors, plan.config.optimizer)
        head = {
            "format": checkpoint.FORMAT,
            "run_ids": [each.run_id for each in self._plans],
            "configuration": plan.plain_configuration(),
            "environment": plan.environment,
            "machine": machine(plan.device),
            "execution": block.execution.as_plain_data(),
            "tree": tree,
        }
        checkpoint.write(path, head, tensors)

    def end(self) -> None:
        """All records are written."""
        checkpoint.prune(self._folder, checkpoint.paths(self._folder))


class Found:
    """A checkpoint of a population.

    Attributes:
        run_ids: of its members, in order.
        execution: how they were executed.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head, self._tree = checkpoint.read_whole(path, _KEYS)
        self.run_ids: list[str] = self._head["run_ids"]
        self.execution = Execution.from_plain_data(self._head["execution"], str(path))

    def restore(self, block: Block) -> None:
        """Puts a block where it was.

        Raises:
            ResumeError: the checkpoint is of another machine, or of other versions, or was asked for something else.
        """
        check_asked(self.path, self._head["configuration"], block.plan.plain_configuration())
        checkpoint.check_same_machine(self.path, self._head["machine"], block.plan)
        tree = checkpoint.to_device(self._tree, block.plan.device)
        tree["log"], tree["columns"], tree["reports"] = (self._tree[name] for name in ("log", "columns", "reports"))
        tree["columns"] = [tuple(each.to(block.plan.device) for each in column) for column in tree["columns"]]
        tree["way"] = block.way.like(tree["way"])
        block.load(tree)


def found(plans: Sequence[Plan], output_dir: str | Path) -> list[Found]:
    """The checkpoints of populations whose members are all among some runs; the furthest of each population.

    Raises:
        DataError: one cannot be read.
    """
    known = {plan.run_id for plan in plans}
    root = records.state_dir(output_dir) / FOLDER
    prefix = f"{plans[0].problem.name[:80]}__"
    folders = sorted(root.glob(f"{prefix}*")) if root.is_dir() else []
    last = [checkpoint.paths(folder)[-1:] for folder in folders]
    all_found = [Found(path) for paths in last for path in paths]
    return [each for each in all_found if known.issuperset(each.run_ids)]
