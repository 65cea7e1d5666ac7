"""From a configuration to a run that is ready to start: everything that can be wrong is found here."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import deepobs_func
from deepobs_func import problems, records
from deepobs_func.backend import determinism
from deepobs_func.backend import ranks as ranks_of
from deepobs_func.backend.ranks import ALONE, Ranks
from deepobs_func.backend.threads import cores
from deepobs_func.datasets.loading import SYNTHETIC
from deepobs_func.errors import ConfigError, UserError, option
from deepobs_func.imports import FRAMES, cause, load_object
from deepobs_func.optimizers import schedules
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.counting import counting_at
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.config import (
    RunConfig,
    RunProtocol,
    as_plain_data,
    identity,
    is_path,
    plain,
    protocol_of,
    resolve,
    typed,
)
from deepobs_func.runner.identity import optimizer_code, own_code
from deepobs_func.runner.optimizing import ChosenOptimizer, choose_optimizer
from deepobs_func.runner.order import train_steps
from deepobs_func.runner.parts import check_curvature, check_parts, check_recomputation
from deepobs_func.runner.scaling import under_precision
from deepobs_func.runner.tracked_names import tracked_names

COMPILERS = ("g++", "clang++", "cl")  # of C++, one of which torch compiles CPU code with
MOST_WORKERS = 16  # unless more are asked for: each has two batches ready in shared memory


@dataclass(frozen=True)
class Plan:
    """A run, resolved.

    Attributes:
        config: with every default filled in.
        problem: at the run's weight decay.
        chosen: the optimizer, and what the record holds of it.
        schedule: the factor of the learning rate by step; None where it is constant.
        protocol: how the data are visited.
        device: where everything lives.
        steps_per_epoch: whole batches in the training set, without what is set aside to validate on.
        workers: processes that read streamed data; None where the data are held on the device.
        tracked: the quantities that are tracked.
        ranks: the processes that train together, each on a shard of every batch.
        source: where `problem` and `optimizer` come from, where that is not a name: an import path, or `"value"`.
    """

    config: RunConfig
    problem: Problem
    chosen: ChosenOptimizer
    schedule: Schedule | None
    protocol: RunProtocol
    device: torch.device
    steps_per_epoch: int
    workers: int | None
    tracked: tuple[str, ...] = ()
    ranks: Ranks = ALONE
    source: Mapping[str, str] = field(default_factory=dict)

    @property
    def optimizer(self) -> Optimizer:
        """What steps, with its schedule."""
        return self.chosen.optimizer

    def lr_at(self, step: int) -> float:
        """The learning rate of an update, counted from 0, under the schedule of the configuration."""
        return self.config.lr * (1.0 if self.schedule is None else float(self.schedule(torch.tensor(step))))

    @property
    def logged_steps(self) -> int:
        """How many mini-batch losses a whole run records."""
        return self.epochs * -(-self.steps_per_epoch // self.config.train_log_interval)

    @property
    def valid(self) -> int:
        """How many training examples, or characters of a text, are set aside to validate on; 0 for none."""
        return int(self.config.valid)

    @property
    def epochs(self) -> int:
        """Of the whole run."""
        assert self.config.epochs is not None, "a resolved configuration has epochs"
        return self.config.epochs

    @property
    def batch_size(self) -> int:
        """B."""
        assert self.config.batch_size is not None, "a resolved configuration has a batch size"
        return self.config.batch_size

    @property
    def shard_size(self) -> int:
        """The examples of a batch that this process looks at."""
        return self.batch_size // self.ranks.size

    @property
    def micro_batch(self) -> int:
        """The examples that are looked at together; 0 for all of this process."""
        size = self.config.micro_batch or 0
        return size if size < self.shard_size else 0

    @functools.cached_property
    def code(self) -> dict[str, str]:
        """Digests of what computes the run that is the user's own; see `runner.identity.own_code`."""
        return own_code(self.problem, self.chosen.code, self.chosen.hyperparams)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the numbers of the run, besides how it is executed; `run_id` is its hash."""
        return identity(
            self.config,
            device=self.device.type,
            weight_decay=self.problem.weight_decay,
            data_source=self.data_source["source"],
            optimizer=self.chosen.name,
            hyperparams={name: plain(value) for name, value in self.chosen.hyperparams.items()},
            code={"deepobs_func": deepobs_func.__version__, **self._optimizer_code(), **self.code},
            **self.statistics,
        )

    @property
    def statistics(self) -> dict[str, Any]:
        """Of how many shards batch norm takes statistics apart, where it does."""
        apart = self.problem.normalizes and self.ranks.size > 1 and self.config.bn_sync == "local"
        return {"statistics_of_shards": self.ranks.size} if apart else {}

    def _optimizer_code(self) -> dict[str, str]:
        return {} if self.chosen.code is None else {"optimizer": optimizer_code(self.chosen.code)}

    @functools.cached_property
    def run_id(self) -> str:
        """The hash of `identity`."""
        return records.run_id(self.identity)

    @functools.cached_property
    def data_source(self) -> dict[str, Any]:
        """Where the data come from, known before they are loaded: the folder's name tells a stand-in apart."""
        if self.problem.dataset.generated:
            return {"source": self.problem.dataset.source, "synthetic": False}
        synthetic = self.config.data == SYNTHETIC
        return {"source": SYNTHETIC if synthetic else "files", "synthetic": synthetic}

    @property
    def environment(self) -> dict[str, Any]:
        """The machine, and the versions on it."""
        is_cuda = self.device.type == "cuda"
        return {
            **records.environment(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(self.device) if is_cuda else self.device.type,
        }

    def plain_configuration(self) -> dict[str, Any]:
        """The whole configuration, as JSON can hold it."""
        return as_plain_data(self.config)


def make_plan(config: RunConfig, problem: Problem | None = None, optimizer: Any = None) -> Plan:
    """Resolves and checks a configuration.

    Args:
        config: what to run.
        problem: a problem of the user's own, whose name the configuration has; by default the named one.
        optimizer: an optimizer of the user's own: a functional one, or a callable from named parameters to a torch
            optimizer; `config.optimizer` is then its name. By default the one of that name.

    Returns:
        The plan; nothing was loaded.

    Raises:
        ConfigError: the configuration cannot be run.

    >>> plan = make_plan(RunConfig("quadratic_deep", "adam", lr=0.04))
    >>> plan.epochs, plan.batch_size, plan.steps_per_epoch
    (100, 128, 7)
    """
    config, source = typed(config), {}
    for what, value in (("problem", problem), ("optimizer", optimizer)):
        if value is not None:
            source[what] = "value"
    if problem is None and is_path(config.problem):
        source["problem"], problem = config.problem, problem_at(config.problem)
        config = replace(config, problem=problem.name)
    config = resolve(config, problem, own_optimizer=optimizer is not None)
    found = (problem or problems.get(config.problem)).with_weight_decay(config.weight_decay)
    ranks = ranks_of.current()
    device = _device(config.device, ranks)
    if config.deterministic:
        determinism.prepare()
    _check_execution(config, device)
    check_parts(config, found, ranks)
    config = replace(config, valid=found.dataset.test_size if config.valid is True else int(config.valid))
    steps_per_epoch = _steps_per_epoch(config, found)
    schedule = _schedule(config, steps_per_epoch)
    chosen = choose_optimizer(config, optimizer, schedule, found.shapes)
    chosen.optimizer.check(found)
    check_curvature(config, chosen.optimizer, ranks)
    check_recomputation(config, found, chosen.optimizer)
    counting = counting_at(chosen.optimizer, found, config.batch_size or 0)
    chosen = replace(chosen, optimizer=under_precision(config, counting))
    return Plan(
        config=config,
        problem=found,
        chosen=chosen,
        schedule=schedule,
        protocol=protocol_of(config),
        device=device,
        steps_per_epoch=steps_per_epoch,
        workers=_workers(config.workers) if found.dataset.streamed else None,
        tracked=tracked_names(config, found, chosen),
        ranks=ranks,
        source=source,
    )


def problem_at(path: str) -> Problem:
    """The problem of an import path: the problem itself, or what a function makes when it is called.

    Args:
        path: `package.module:name`.

    Raises:
        ConfigError: nothing is there, the function raises, or it is no problem.
    """
    found = load_object(path, "problem")
    if callable(found) and not isinstance(found, Problem):
        try:
            found = found()
        except UserError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            raise ConfigError(f"{option('problem')} {path}: it raised {cause(error, FRAMES)}.") from error
    if not isinstance(found, Problem):
        raise ConfigError(
            f"{option('problem')} {path}: it is {found!r}; it must be a Problem, such as problems.from_module makes, "
            "or a function without arguments that returns one."
        )
    return found


def _steps_per_epoch(config: RunConfig, problem: Problem) -> int:
    """Whole batches in the training set without what is set aside; every split has one at least."""
    assert config.batch_size is not None, "a resolved configuration has a batch size"
    spec, size, valid = problem.dataset, config.batch_size, int(config.valid)
    what = "examples" if spec.sequence_length is None else "characters"
    if min(spec.batches(spec.train_size, size), spec.batches(spec.test_size, size)) == 0:
        smaller = min(spec.train_size, spec.test_size)
        most = smaller if spec.sequence_length is None else (smaller - 1) // spec.sequence_length
        raise ConfigError(
            f"{option('batch_size')} {size}: {spec.title} has {spec.train_size} training and "
            f"{spec.test_size} test {what}, so a batch has at most {most}."
        )
    steps = train_steps(spec, size, valid)
    batch = size if spec.sequence_length is None else size * spec.sequence_length + 1
    if valid and spec.batches(valid, size) == 0:
        raise ConfigError(f"{option('valid')} {valid}: a batch of {size} takes {batch} {what}; set aside as many.")
    if steps < 1:
        raise ConfigError(
            f"{option('valid')} {valid}: of {spec.train_size} training {what}, fewer are left than the {batch} that a "
            f"batch of {size} takes. Set fewer aside."
        )
    return steps


def _schedule(config: RunConfig, steps_per_epoch: int) -> Schedule | None:
    """The factor of the learning rate by step; None where it is constant."""
    assert config.epochs is not None, "a resolved configuration has epochs"
    warm_up = round(config.warm_up * steps_per_epoch)
    then: Schedule | None = None
    if config.schedule in ("cosine", "linear"):
        total = max(1, config.epochs * steps_per_epoch - warm_up)
        then = schedules.cosine(total) if config.schedule == "cosine" else schedules.linear(total)
    elif config.schedule == "exponential":
        then = schedules.exponential(config.decay_factor, steps_per_epoch)
    elif config.lr_sched_epochs is not None and config.lr_sched_factors is not None:
        pairs = zip(config.lr_sched_epochs, config.lr_sched_factors, strict=True)
        reached = [(epoch * steps_per_epoch - warm_up, factor) for epoch, factor in pairs if epoch < config.epochs]
        then = schedules.steps(tuple(step for step, _ in reached), tuple(factor for _, factor in reached))
    return schedules.warm_up(warm_up, then) if warm_up else then


def has_compiler() -> bool:
    """Whether `torch.compile` finds what it needs for CPU code."""
    return any(map(shutil.which, COMPILERS))


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
    """Resolves `--workers`: one for each core but this process's own, up to a limit."""
    if choice is not None:
        return choice
    return min(max(cores() - 1, 1), MOST_WORKERS)


def _device(name: str, ranks: Ranks) -> torch.device:
    """The device of this process: of several on GPUs its own, which the configuration, common to all, does not name."""
    if name in ("auto", "cuda") and torch.cuda.is_available() and ranks.size > 1:
        return torch.device("cuda", torch.cuda.current_device())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch says "not compiled with CUDA" by an assertion
        reason = str(error).splitlines()[0].removesuffix(".")
        raise ConfigError(f"{option('device')} {name} cannot be used: {reason}. Try 'auto' or 'cpu'.") from error
    return device
