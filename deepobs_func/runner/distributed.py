"""Several processes that train one net: how they find each other, and what they must have in common.

`torchrun --nproc-per-node N -m deepobs_func run ...` starts them. Each makes the same steps in the same order, on its
shard of every batch; process 0 writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Generator, Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

import deepobs_func
from deepobs_func import random
from deepobs_func.datasets.loading import Dataset, stream
from deepobs_func.errors import ConfigError, option
from deepobs_func.runner.digest import digest
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import Plan

SECONDS = 1800.0  # that a process waits for another, which may compile or read its data
SAMPLE = 64  # examples that data are told apart by
SAMPLE_OF_FILES = 8  # of streamed ones, which are read for it
_PLACES = ("data", "output_dir", "device", "workers")  # in which processes may differ


@contextlib.contextmanager
def joined(device: str) -> Generator[None]:
    """Joins the processes that torchrun started, where it started this one.

    Args:
        device: as it was asked for; with a GPU for each process, this one's own becomes torch's current one, which a
            plan then takes.

    Yields:
        Nothing; afterwards the process has left the others.

    Raises:
        ConfigError: more processes were started than there are GPUs.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or dist.is_initialized():
        yield
        return
    by_gpu = device in ("auto", "cuda") and torch.cuda.is_available()
    if by_gpu:
        place, found = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if place >= found:
            raise ConfigError(
                f"Process {place} of this machine has no GPU of its own: {found} "
                f"{'is' if found == 1 else 'are'} there. Start at most {found}: --nproc-per-node {found}; or train on "
                f"the processor: {option('device')} cpu."
            )
        torch.cuda.set_device(place)
    # torchrun keeps its store after a failure. Keys of each start have a prefix of their own, or a process may look for
    # another at the address that it had in the start before, for as long as SECONDS.
    timeout, start = timedelta(seconds=SECONDS), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    store, rank, processes = next(rendezvous("env://", timeout=timeout))
    store = PrefixStore(f"start_{start}", store)
    backend = "nccl" if by_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=processes, timeout=timeout)
    try:
        yield
    finally:
        with contextlib.suppress(RuntimeError):  # of a group that lost a process
            dist.destroy_process_group()


def rank_started() -> int:
    """The number of this process among those that torchrun started; 0 without it. Looks at no process group."""
    return int(os.environ.get("RANK", "0")) if "TORCHELASTIC_RUN_ID" in os.environ else 0


def check_alike(plan: Plan, execution: Execution | None = None, watches: bool = False) -> None:
    """Checks that all processes run the same, on the same versions, so that they make the same calls of each other.

    Args:
        plan: the run.
        execution: how, as it is given.
        watches: whether callbacks see steps one by one.

    Raises:
        ConfigError: one differs; the message says which, and in what.
    """
    if plan.ranks.size == 1:
        return
    mine = {
        "deepobs_func": deepobs_func.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "device": plan.device.type,
        **{f"the run's {name}": json.dumps(value, default=repr) for name, value in _decides(plan).items()},
        "the execution": "measured" if execution is None else str(execution.as_plain_data() | {"reason": ""}),
        "callbacks that watch steps": "some" if watches else "none",
    }
    _compare(plan, mine, "Start all processes with the same command, on the same versions.")


def _decides(plan: Plan) -> dict[str, Any]:
    """What of a run decides its numbers, and which calls are made: all of its configuration but names of places."""
    asked = {name: value for name, value in plan.plain_configuration().items() if name not in _PLACES}
    return asked | plan.identity | {"output_dir": "none" if plan.config.output_dir is None else "some"}


def check_same_data(plan: Plan, dataset: Dataset) -> None:
    """Checks that all processes hold the same data.

    Raises:
        ConfigError: one has others; the message says which.
    """
    if plan.ranks.size == 1:
        return
    mine = {}
    for name, split in (("training", dataset.train), ("test", dataset.test)):
        rows = torch.arange(0, len(split.y), max(1, len(split.y) // SAMPLE), device=split.y.device)
        sample = torch.utils._pytree.tree_map(lambda each, at=rows: each[at], tuple(split))
        mine[f"the {name} data"] = f"{len(split.y)} examples, {digest(sample)[:12]}"
    _compare(plan, mine, "Give all processes the same files.")


def check_same_stream(plan: Plan) -> None:
    """Checks that all processes read the same data, by a few examples of each split.

    Raises:
        DataError: they are not there, or cannot be read.
        ConfigError: one has others; the message says which.
    """
    if plan.ranks.size == 1:
        return
    spec, mine = plan.problem.dataset, {}
    for split, size in (("train", spec.train_size), ("test", spec.test_size)):
        rows = torch.arange(0, size, max(1, size // SAMPLE_OF_FILES))[None, :SAMPLE_OF_FILES]
        found = list(stream(spec, plan.config.data, split, rows, random.key(0), augment=False))
        mine[f"the {'training' if split == 'train' else split} data"] = f"{size} examples, {digest(found)[:12]}"
    _compare(plan, mine, "Give all processes the same files.")


def _compare(plan: Plan, mine: Mapping[str, Any], mend: str) -> None:
    first, *others = plan.ranks.all(dict(mine))
    for rank, theirs in enumerate(others, 1):
        for name, value in first.items():
            if theirs.get(name) != value:
                raise ConfigError(
                    f"Process {rank} of {plan.ranks.size} differs from process 0: {name} is {theirs.get(name)} there "
                    f"and {value} here. {mend}"
                )
