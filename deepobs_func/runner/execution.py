"""How a run is executed: compiled or not, steps a call, order of axes, threads, kernels. It decides rounding and speed.

Two runs of equal configuration and equal `Execution`, on one machine with one set of versions, give the same numbers,
bit for bit. An `Execution` is measured once (`runner.measuring`), written into record and checkpoint, and can be given
back: `Execution.read(record)`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from deepobs_func import records
from deepobs_func.backend import ranks
from deepobs_func.backend.determinism import deterministic
from deepobs_func.backend.kernels import Kernels, using
from deepobs_func.backend.precision import AUTOCAST, precision
from deepobs_func.backend.threads import num_threads
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.problems.pieces import Parts
from deepobs_func.runner.identity import machine

MOST_STEPS_PER_CALL = 1024  # that a file may ask for
MOST_MEMBERS = 2**20
WAYS = ("vmap", "loop", "alone")


@dataclass(frozen=True)
class Execution:
    """How the steps of a run are executed.

    Attributes:
        compile: whether a whole training step is one compiled graph.
        compile_batch: whether what makes a batch is compiled, where the step is not.
        steps_per_call: how many steps a call of the compiled function makes.
        cuda_graphs: whether the kernels of a call are recorded once and launched as one, on a GPU.
        channels_last: whether the channels of images and of the kernels of convolutions lie last in memory.
        threads: the number for training and evaluation on a CPU; None for torch's own setting.
        onednn: whether products of float32 matrices are computed by oneDNN instead of MKL.
        way: of a population, `"vmap"` (one step of all members), `"loop"` (one member after the other in a call) or
            `"alone"` (each run by itself, as outside of a population).
        members: how many members are in a call, by `"loop"`; how many train together at most, by `"vmap"`.
        micro_batch: the examples of a batch that are looked at together; 0 for all of them.
        processes: how many train one net, each on a shard of every batch.
        bn_sync: whether batch norm takes its statistics from the shards of all processes.
        deterministic: whether kernels give the same bits each time, on a GPU too.
        activation_checkpointing: whether the backward pass computes the blocks of the net anew; in eager code.
        repack: how many steps must be left before compiled steps of fewer members, after divergences, are worth their
            compilation; 0 where nothing is compiled.
        reason: why, in words; no part of the identity.
    """

    compile: bool = False
    compile_batch: bool = False
    steps_per_call: int = 1
    channels_last: bool = False
    cuda_graphs: bool = False
    threads: int | None = None
    onednn: bool = False
    way: str = "alone"
    members: int = 1
    micro_batch: int = 0
    processes: int = 1
    bn_sync: bool = True
    deterministic: bool = False
    activation_checkpointing: bool = False
    repack: int = 0
    reason: str = dataclasses.field(default="", compare=False)

    @contextmanager
    def apply(self, precision_name: str, device: torch.device) -> Generator[None]:
        """A context in which torch uses the threads, the precision and the kernels of the run.

        Args:
            precision_name: `"float32"`, `"tf32"`, `"bf16"` or `"fp16"`.
            device: that of the run.

        Yields:
            Nothing; afterwards all is as before.
        """
        kernels = self.kernels(precision_name)
        by = using(**{name: choice for name, choice in kernels._asdict().items() if name != "fused"})
        same = deterministic(self.deterministic)
        # Streams and graphs are of torch's current GPU, which may be another one.
        place = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        with place, num_threads(self.threads), precision(precision_name, device), same, by:
            yield

    @property
    def alone(self) -> Execution:
        """The same of a run by itself."""
        return dataclasses.replace(self, way="alone", members=1, repack=0)

    def kernels(self, precision_name: str) -> Kernels:
        """The kernels that `apply` selects."""
        synchronised = self.parts.ranks if self.processes > 1 and self.bn_sync else None
        return Kernels(
            onednn=self.onednn,
            autocast=AUTOCAST.get(precision_name),
            ranks=synchronised,
            recompute=self.activation_checkpointing,
        )

    @property
    def parts(self) -> Parts:
        """How a batch is cut."""
        return Parts(self.micro_batch, ranks.current() if self.processes > 1 else ranks.ALONE)

    def as_plain_data(self) -> dict[str, Any]:
        """The fields as plain data, as record and checkpoint hold them."""
        return dict(vars(self))  # all are plain

    def id(self, device: torch.device) -> str:
        """The `execution_id` on this machine: runs of equal `run_id` and equal `execution_id` have equal numbers."""
        defaults = Execution.__dataclass_fields__
        said = {
            name: value
            for name, value in self.as_plain_data().items()
            if name not in _ADDED or value != defaults[name].default
        }
        return records.execution_id(said | machine(device))

    @classmethod
    def from_plain_data(cls, values: Any, source: str) -> Execution:
        """An execution from the content of a file.

        Args:
            values: a mapping of this class's fields; missing ones have their defaults.
            source: what to call it in a message.

        Returns:
            The execution.

        Raises:
            ConfigError: it is not a mapping, has another key, or a value of another type.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"{source} holds no execution: it is {type(values).__name__}, not an object.")
        for name, value in values.items():
            if name not in _FIELDS:
                raise ConfigError(f"{source}: {unknown('field of an execution:', str(name), _FIELDS)}")
            if not _fits(name, value):
                raise ConfigError(f"{source}: {name} is {value!r}; it must be {_FIELDS[name]}.")
        return cls(**values)

    @classmethod
    def read(cls, path: str | Path) -> Execution:
        """The execution of a record (`*.json`, `*.json.partial`) or of a file with the fields of this class.

        Raises:
            ConfigError: the file cannot be read, or holds no execution.
        """
        try:
            content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"The execution cannot be read from {path} ({error}). Name a record or its copy."
            ) from error
        if isinstance(content, dict) and "train_losses" in content:
            content = content.get(records.EXTRA, {}).get("execution")
            if content is None:
                raise ConfigError(f"The record {path} does not say how it was executed. Name one that does.")
        return cls.from_plain_data(content, str(path))


# Fields that came later: at its default, one is in no id, so that earlier runs keep theirs.
_ADDED = ("cuda_graphs", "micro_batch", "processes", "bn_sync", "deterministic", "activation_checkpointing")
_FLAGS = (
    *("activation_checkpointing", "bn_sync", "channels_last", "compile", "compile_batch", "cuda_graphs"),
    *("deterministic", "onednn"),
)
_WHETHER, _TEXT = "true or false", "text"
_FIELDS = {
    **dict.fromkeys(_FLAGS, _WHETHER),
    "steps_per_call": f"a whole number from 1 to {MOST_STEPS_PER_CALL}",
    "way": f"one of {', '.join(WAYS)}",
    "members": f"a whole number from 1 to {MOST_MEMBERS}",
    "micro_batch": "a whole number from 0",
    "processes": "a whole number from 1",
    "repack": "a whole number from 0",
    "threads": "a whole number from 1, or null",
    "reason": _TEXT,
}


def _fits(name: str, value: Any) -> bool:
    if _FIELDS[name] == _WHETHER:
        return isinstance(value, bool)
    if _FIELDS[name] == _TEXT:
        return isinstance(value, str)
    if name == "way":
        return value in WAYS
    if value is None:
        return name == "threads"
    whole = isinstance(value, int) and not isinstance(value, bool)
    if name in ("micro_batch", "repack"):
        return whole and value >= 0
    return whole and 1 <= value <= (MOST_MEMBERS if name == "members" else MOST_STEPS_PER_CALL)


def synchronize(device: torch.device) -> None:
    """Waits for what a device still computes."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
