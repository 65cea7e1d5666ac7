"""What a run's numbers depend on besides its configuration: code and data of the user's own, and the machine."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from deepobs_func import datasets, problems
from deepobs_func.problems.problem import Problem
from deepobs_func.records import class_name
from deepobs_func.runner.digest import digest
from deepobs_func.runner.packages import installed

# Of a problem: what the configuration has, what changes rounding alone, and what follows from the rest.
_NOT_CODE = {"name", "weight_decay", "epochs", "batch_size", "compile_step", "description"}


def own_code(problem: Problem, optimizer: Any, hyperparams: Mapping[str, Any]) -> dict[str, str]:
    """What of a run is computed by code that neither this package nor `torch.optim` has; `{}` where nothing is.

    Args:
        problem: the problem.
        optimizer: the class, the factory or the functional optimizer; None for one of this package's.
        hyperparams: all of them. Those that are functions or objects are code.

    Returns:
        `problem`, `optimizer` and `hyperparams`: a digest each, or the version of the package of an optimizer.
    """
    found = {}
    if not _is_named(problem):
        found["problem"] = problem_code(problem)
    if optimizer is not None and not _is_torch_s(optimizer):
        found["optimizer"] = optimizer_code(optimizer)
    objects = {name: value for name, value in hyperparams.items() if not _is_plain(value)}
    if objects:
        found["hyperparams"] = digest(objects)
    return found


def _is_torch_s(optimizer: Any) -> bool:
    return isinstance(optimizer, type) and "." not in class_name(optimizer)


def problem_code(problem: Problem) -> str:
    """A digest of a problem: its net, criterion and penalty, the net's initial values, the data."""
    fields = [f.name for f in dataclasses.fields(problem) if f.init and f.name not in _NOT_CODE]
    parts = {name: getattr(problem, name) for name in fields}
    if problem.dataset.name in datasets.names() and problem.dataset == datasets.spec(problem.dataset.name):
        parts["dataset"] = problem.dataset.name
    return digest(parts)


def optimizer_code(optimizer: Any) -> str:
    """The package and version of an installed class or function, e.g. `"torch 2.13.0"`; else a digest of its code."""
    return (_says_all(optimizer) and installed(optimizer.__module__)) or digest(optimizer)


def _says_all(optimizer: Any) -> bool:
    """Whether a class or a function is what its name says: no closure, no partial call, no object with attributes."""
    is_plain = isinstance(optimizer, types.FunctionType) and optimizer.__closure__ is None
    return (isinstance(optimizer, type) or is_plain) and "<locals>" not in optimizer.__qualname__


def machine(device: torch.device) -> dict[str, Any]:
    """The part of an `execution_id` that is not chosen: versions, threads, processor, device."""
    return {
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


@functools.cache
def processor() -> str:
    """The name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str | bool)


def _is_named(problem: Problem) -> bool:
    """Whether it is one of the package's own, at any weight decay."""
    if problem.name not in problems.names():
        return False
    named = problems.get(problem.name)
    chosen = {name: getattr(named, name) for name in _NOT_CODE}
    return dataclasses.replace(problem, **chosen) == named
