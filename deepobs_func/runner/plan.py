"""From a configuration to a run that is ready to start: everything that can be wrong is found here."""

from __future__ import annotations

import inspect
import os
import pkgutil
import shutil
from dataclasses import dataclass
from typing import Any

import torch

import deepobs_func
from deepobs_func import optimizers, problems, records
from deepobs_func.datasets.loading import SYNTHETIC
from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.optimizers import schedules
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.torch_optim import constructor_defaults, from_class, load_class
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner.config import RunConfig, RunProtocol, as_plain_data, identity, plain, protocol_of, resolve
from deepobs_func.runner.identity import class_code, own_code

MOST_WORKERS = 16  # unless more are asked for: each has two batches ready in shared memory


@dataclass(frozen=True)
class Plan:
    """A run, resolved.

    Attributes:
        config: with every default filled in.
        problem: at the run's weight decay.
        optimizer: with its schedule in steps.
        protocol: how the data are visited.
        device: where everything lives.
        steps_per_epoch: whole batches in the training set.
        workers: processes that read streamed data; None where the data are held on the device.
    """

    config: RunConfig
    problem: Problem
    optimizer: Optimizer
    protocol: RunProtocol
    device: torch.device
    steps_per_epoch: int
    workers: int | None

    def lr_at(self, step: int) -> float:
        """The learning rate of an update, counted from 0, under the schedule of the configuration."""
        config, factor = self.config, 1.0
        for epoch, value in zip(config.lr_sched_epochs or (), config.lr_sched_factors or (), strict=True):
            factor = value if step >= epoch * self.steps_per_epoch else factor
        return config.lr * factor

    @property
    def logged_steps(self) -> int:
        """How many mini-batch losses a whole run records."""
        return self.epochs * -(-self.steps_per_epoch // self.config.train_log_interval)

    @property
    def epochs(self) -> int:
        assert self.config.epochs is not None, "a resolved configuration has epochs"
        return self.config.epochs

    @property
    def batch_size(self) -> int:
        assert self.config.batch_size is not None, "a resolved configuration has a batch size"
        return self.config.batch_size


def make_plan(config: RunConfig, problem: Problem | None = None) -> Plan:
    """Resolves and checks a configuration.

    Args:
        config: what to run.
        problem: a problem of the user's own, whose name the configuration has; by default the named one.

    Raises:
        ConfigError: the configuration cannot be run.
    """
    from deepobs_func.runner.tracking import tracked_names  # by way of the step, it imports this module

    config = resolve(config, problem)
    found = (problem or problems.get(config.problem)).with_weight_decay(config.weight_decay)
    if config.precision == "bf16":
        found = found.with_autocast(torch.bfloat16)
    device = _device(config.device)
    _check_execution(config, device)
    assert config.epochs is not None, "a resolved configuration has epochs"
    assert config.batch_size is not None, "a resolved configuration has a batch size"
    spec = found.dataset
    steps_per_epoch = spec.batches(spec.train_size, config.batch_size)
    if min(steps_per_epoch, spec.batches(spec.test_size, config.batch_size)) == 0:
        smaller = min(spec.train_size, spec.test_size)
        most = smaller if spec.sequence_length is None else (smaller - 1) // spec.sequence_length
        what = "examples" if spec.sequence_length is None else "characters"
        raise ConfigError(
            f"{option('batch_size')} {config.batch_size}: {spec.title} has {spec.train_size} training and "
            f"{spec.test_size} test {what}, so a batch has at most {most}."
        )
    optimizer = _optimizer(config, steps_per_epoch)
    optimizer.check(found)
    tracked_names(config, found)
    return Plan(
        config=config,
        problem=found,
        optimizer=optimizer,
        protocol=protocol_of(config),
        device=device,
        steps_per_epoch=steps_per_epoch,
        workers=_workers(config.workers) if spec.streamed else None,
    )


def empty_record(plan: Plan) -> RunRecord:
    """The record before the first evaluation."""
    config, accuracies, data = plan.config, plan.problem.has_accuracy, _data_source(plan)
    cls = None if config.optimizer in optimizers.FUNCTIONAL else load_class(config.optimizer)
    optimizer = config.optimizer if cls is None else records.class_name(cls)
    hyperparams, defaults = _all_hyperparams(config, cls)
    code = own_code(plan.problem, cls, hyperparams)
    known = identity(
        config,
        device=plan.device.type,
        weight_decay=plan.problem.weight_decay,
        data_source=data["source"],
        optimizer=optimizer,
        hyperparams={name: plain(value) for name, value in hyperparams.items()},
        code={"deepobs_func": deepobs_func.__version__, **code, "class": None if cls is None else class_code(cls)},
    )
    return RunRecord(
        train_losses=[],
        test_losses=[],
        minibatch_train_losses=[],
        train_accuracies=[] if accuracies else None,
        test_accuracies=[] if accuracies else None,
        optimizer=optimizer,
        testproblem=plan.problem.name,
        weight_decay=config.weight_decay,
        batch_size=plan.batch_size,
        num_epochs=plan.epochs,
        learning_rate=config.lr,
        lr_sched_epochs=None if config.lr_sched_epochs is None else list(config.lr_sched_epochs),
        lr_sched_factors=None if config.lr_sched_factors is None else list(config.lr_sched_factors),
        random_seed=config.seed,
        train_log_interval=config.train_log_interval,
        hyperparams=hyperparams,
        extra={
            "protocol": plan.protocol.name,
            "data": data,
            "configuration": as_plain_data(config),
            "defaults": defaults,
            "code": code,
            "run_id": records.run_id(known),
            "environment": {**records.environment(), **_torch_environment(plan.device)},
        },
    )


def _all_hyperparams(config: RunConfig, cls: type | None) -> tuple[dict[str, Any], list[str]]:
    """All hyperparameters, given or by default, and the names of those that are as a class has them by default."""
    if cls is None:
        return dict(config.hyperparams), []
    found = {**_class_defaults(cls), **config.hyperparams}
    as_default = {name: value for name, value in _class_defaults(cls).items() if _is_same(found[name], value)}
    return found | as_default, sorted(as_default)


def _class_defaults(cls: type) -> dict[str, Any]:
    return {name: value for name, value in constructor_defaults(cls).items() if value is not inspect.Parameter.empty}


def _is_same(value: Any, default: Any) -> bool:
    """Whether a value is the default, as JSON would have both: 0 is 0.0, a list is a tuple, True is not 1."""
    if isinstance(value, list | tuple) and isinstance(default, list | tuple):
        return len(value) == len(default) and all(map(_is_same, value, default))
    if isinstance(value, bool) or isinstance(default, bool):
        return value is default
    return value is default or (isinstance(value, int | float | str) and value == default)


def _data_source(plan: Plan) -> dict[str, Any]:
    """Where the data will come from, known before they are loaded: the folder's name tells a stand-in apart."""
    if plan.problem.dataset.generated:
        return {"source": plan.problem.dataset.source, "synthetic": False}
    synthetic = plan.config.data == SYNTHETIC
    return {"source": SYNTHETIC if synthetic else "files", "synthetic": synthetic}


def has_compiler() -> bool:
    """Whether `torch.compile` finds what it needs for CPU code."""
    return any(shutil.which(name) for name in ("g++", "clang++", "cl"))


def _check_execution(config: RunConfig, device: torch.device) -> None:
    """Whether the machine can do what was asked for."""
    if config.compile == "on" and not has_compiler():
        raise ConfigError(
            f"{option('compile')} on needs a C++ compiler (g++ or clang++) on the PATH. Install one, or use off."
        )
    if config.precision == "tf32" and device.type != "cuda":
        raise ConfigError(
            f"{option('precision')} tf32 is a format of NVIDIA GPUs; on {device.type} take float32 or bf16."
        )


def _workers(choice: int | None) -> int:
    """Resolves `--workers`: as many as there are cores beside this process's own, up to a limit."""
    if choice is not None:
        return choice
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores - 1, 1), MOST_WORKERS)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch says "not compiled with CUDA" by an assertion
        reason = str(error).splitlines()[0].removesuffix(".")
        raise ConfigError(f"{option('device')} {name} cannot be used: {reason}. Try 'auto' or 'cpu'.") from error
    return device


def _optimizer(config: RunConfig, steps_per_epoch: int) -> Optimizer:
    schedule = None
    if config.lr_sched_epochs is not None and config.lr_sched_factors is not None:
        assert config.epochs is not None, "a resolved configuration has epochs"
        pairs = zip(config.lr_sched_epochs, config.lr_sched_factors, strict=True)
        reached = [(epoch * steps_per_epoch, factor) for epoch, factor in pairs if epoch < config.epochs]
        schedule = schedules.steps(tuple(step for step, _ in reached), tuple(factor for _, factor in reached))
    if config.optimizer in optimizers.FUNCTIONAL:
        make: Any = pkgutil.resolve_name(optimizers.FUNCTIONAL[config.optimizer].make)
        return make(config.lr, **config.hyperparams, schedule=schedule)
    cls = load_class(config.optimizer)
    _check_class_hyperparams(config, constructor_defaults(cls))
    return from_class(cls, config.lr, config.hyperparams, schedule)


def _check_class_hyperparams(config: RunConfig, allowed: dict[str, Any]) -> None:
    for name in config.hyperparams:
        if name not in allowed:
            raise ConfigError(unknown(f"hyperparameter of {config.optimizer}:", name, allowed))


def _torch_environment(device: torch.device) -> dict[str, Any]:
    is_cuda = device.type == "cuda"
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if is_cuda else device.type,
    }
