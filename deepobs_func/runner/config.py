"""What a run is, before anything is loaded: a frozen configuration, checked. Imports no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from deepobs_func import optimizers, problems
from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.probes.catalog import Quantity, chosen, row_of
from deepobs_func.runner import config_types as types

Divergence = Literal["stop", "continue"]


@dataclass(frozen=True)
class RunProtocol:
    """How the data are visited, and what happens when a run diverges.

    Attributes:
        fixed_order: the mini-batches come in the same order in every epoch.
        train_eval_head: the training set is evaluated on the head of the training stream, not on a fixed sample.
        on_divergence: `"stop"` ends a run at the first objective that is not finite.
    """

    name: str
    fixed_order: bool
    train_eval_head: bool
    on_divergence: Divergence


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        RunProtocol("default", fixed_order=False, train_eval_head=False, on_divergence="stop"),
        RunProtocol("deepobs-1.1.2", fixed_order=True, train_eval_head=True, on_divergence="continue"),
    )
}
COMPILE = ("auto", "on", "off")
MEMORY_FORMATS = ("auto", "contiguous", "channels_last")
PRECISIONS = ("float32", "tf32", "bf16", "fp16")
BN_SYNC = ("sync", "local")
TRACK_BN = ("coupled", "frozen", "eval")


def default_data() -> str:
    """`$DEEPOBS_DATA`, or DeepOBS's own default."""
    return os.environ.get("DEEPOBS_DATA", "data_deepobs")


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run.

    Attributes:
        problem: a name of `problems.names()`, or the import path of a problem or of a function that makes one.
        optimizer: a functional optimizer's name, or the import path of a `torch.optim.Optimizer` class or of a factory.
        lr: the base learning rate.
        hyperparams: the optimizer's other hyperparameters; missing ones have their defaults.
        epochs, batch_size: None for the problem's published value.
        seed: of the initial parameters, the order of the data and the noise.
        weight_decay: the factor of the problem's L2 penalty; None for the problem's default. Never the optimizer's.
        lr_sched_epochs, lr_sched_factors: from epoch e on, the learning rate is `lr * factor`; both or neither.
        protocol: `"default"` or `"deepobs-1.1.2"`.
        data: the data folder, or `"synthetic"`.
        output_dir: the results tree; None writes nothing. Here and in `data`, `~` is the user's home.
        device: `"auto"`, or a torch device such as `"cpu"` or `"cuda:1"`.
        compile: `"auto"` (measured, see `runner.measuring`), `"on"` or `"off"`.
        memory_format: of images and the kernels of convolutions, `"contiguous"`, `"channels_last"`, or `"auto"` for the
            faster one, measured.
        precision: of products and convolutions in training and evaluation: `"float32"`, `"tf32"` (NVIDIA GPUs),
            `"bf16"` or `"fp16"` (autocast; parameters and losses stay float32), the last with a loss scale.
        micro_batch: how many examples of a batch are looked at together, so that a step needs the memory of so many;
            None for all. For problems whose examples are not coupled.
        bn_sync: of several processes: `"sync"`, batch norm takes its statistics from all shards of a batch; `"local"`,
            each process takes them from its own, and the moving ones are averaged.
        deterministic: whether runs of one `Execution` have the same bits on a GPU too, where sums otherwise add up in
            any order; some kernels are slower. On a CPU they always have.
        activation_checkpointing: whether the blocks of the net keep their inputs alone, and are computed anew in the
            backward pass: less memory, more time, the same bits. Of eager code and optimizers of the gradient alone.
        train_log_interval: steps between two recorded mini-batch losses.
        track: names of quantities to track (`probes.catalog`), or of presets; or one string, separated by commas.
        track_every: steps between two tracked ones; `"log"` for about ten in each decade.
        track_bn: what per-example gradients mean where batch norm couples the examples: `"coupled"`, `"frozen"` or
            `"eval"`.
        on_divergence: `"stop"`, `"continue"`, or None for the protocol's choice.
        workers: processes that read streamed data (ImageNet), 0 for none besides the run's own; None for one less than
            there are cores, up to 16. No number depends on it; data that are held on the device need none.
        schedule: of the learning rate, instead of `lr_sched_factors`: `"cosine"` or `"linear"`, to 0 at the end of the
            run; `"exponential"`, times `decay_factor` after each epoch, step by step; `"steps"`, times `decay_factor`
            at each of `lr_sched_epochs`; `"published"`, the one that the problem's authors used.
        warm_up: epochs in which the learning rate grows linearly before the schedule, whole or not.
        decay_factor: see `schedule`.
        clip_norm, clip_value: the largest norm of the gradient over all parameters; the largest magnitude of an
            element.
        valid: how many training examples (characters, of a text) are set aside for validation; True for as many as the
            test set has.
        checkpoint_every: epochs between two checkpoints, or `"500steps"`; `"auto"` for the ends of epochs, a minute
            apart, and signals, all removed when the run is finished; `"never"`.
        keep: how many of the last checkpoints stay.

    >>> config = RunConfig("mnist_mlp", "momentum", lr=0.01, hyperparams={"momentum": 0.99}, output_dir=None)
    >>> config.epochs, resolve(config).epochs  # None is the problem's own
    (None, 100)
    """

    problem: str
    optimizer: str
    lr: float
    hyperparams: Mapping[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch_size: int | None = None
    seed: int = 42
    weight_decay: float | None = None
    lr_sched_epochs: Sequence[int] | None = None
    lr_sched_factors: Sequence[float] | None = None
    protocol: str = "default"
    data: str | Path = field(default_factory=default_data)
    output_dir: str | Path | None = "results"
    device: str = "auto"
    compile: str = "auto"
    memory_format: str = "auto"
    precision: str = "float32"
    micro_batch: int | None = None
    bn_sync: str = "sync"
    deterministic: bool = False
    activation_checkpointing: bool = False
    train_log_interval: int = 10
    on_divergence: str | None = None
    workers: int | None = None
    track: Sequence[str] | str = ()
    track_every: int | str = 10
    track_bn: str | None = None
    schedule: str | None = None
    warm_up: float = 0.0
    decay_factor: float = 0.1
    clip_norm: float | None = None
    clip_value: float | None = None
    valid: int | bool = 0
    checkpoint_every: str | int = "auto"
    keep: int = 1


# Paths, what changes no number, and what changes their rounding alone: not part of a run's id.
_NOT_IN_ID = (
    *("data", "output_dir", "train_log_interval", "workers", "track", "track_every", "track_bn"),
    *("compile", "memory_format", "checkpoint_every", "keep", "micro_batch", "bn_sync", "deterministic"),
    "activation_checkpointing",
)
SCHEDULES = ("cosine", "linear", "exponential", "steps", "published")

_TYPES: Mapping[str, types.Convert] = {
    "problem": types.problem,
    "optimizer": types.optimizer,
    "lr": types.number,
    "hyperparams": types.mapping,
    "epochs": types.optional(types.whole),
    "batch_size": types.optional(types.whole),
    "seed": types.whole,
    "weight_decay": types.optional(types.number),
    "lr_sched_epochs": types.optional(types.several(types.whole)),
    "lr_sched_factors": types.optional(types.several(types.number)),
    "protocol": types.text,
    "data": types.path,
    "output_dir": types.optional(types.path),
    "device": types.device,
    "compile": types.choice(COMPILE),
    "memory_format": types.choice(MEMORY_FORMATS),
    "precision": types.choice(PRECISIONS),
    "micro_batch": types.optional(types.whole),
    "bn_sync": types.choice(BN_SYNC),
    "deterministic": types.flag,
    "activation_checkpointing": types.flag,
    "train_log_interval": types.whole,
    "on_divergence": types.optional(types.choice(("stop", "continue"))),
    "workers": types.optional(types.whole),
    "track": types.names,
    "track_every": types.whole_or("log"),
    "track_bn": types.optional(types.choice(TRACK_BN)),
    "schedule": types.optional(types.choice(SCHEDULES)),
    "warm_up": types.number,
    "decay_factor": types.number,
    "clip_norm": types.optional(types.number),
    "clip_value": types.optional(types.number),
    "valid": types.whole_or_flag,
    "checkpoint_every": types.every,
    "keep": types.whole,
}


class ProblemData(Protocol):
    """What a configuration is checked against: a `problems.ProblemSpec`, or a `Problem` of a user's own."""

    @property
    def name(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def weight_decay(self) -> float | None: ...


def typed(config: RunConfig) -> RunConfig:
    """The configuration with every value of its type.

    Raises:
        ConfigError: a value is of the wrong type.
    """
    return replace(config, **{name: convert(name, getattr(config, name)) for name, convert in _TYPES.items()})


def resolve(config: RunConfig, problem: ProblemData | None = None, *, own_optimizer: bool = False) -> RunConfig:
    """The configuration with every default filled in and every value of its type. Imports no torch, reads no file.

    Args:
        config: what to run.
        problem: what it is checked against; by default the spec of the problem that it names.
        own_optimizer: whether the optimizer is given separately, so that the configuration has a name for it.

    Raises:
        ConfigError: a value is of the wrong type or out of range, or two values do not go together; the message names
            field, value, what is allowed, and how to fix it.
    """
    config = typed(config)
    problem = problem or problems.spec_of(config.problem)
    protocol = protocol_of(config)
    if config.problem != problem.name:
        raise ConfigError(f"The configuration is of the problem {config.problem!r}, but {problem.name!r} was given.")
    config = _schedule_by_name(config, problem)
    resolved = replace(
        config,
        epochs=problem.epochs if config.epochs is None else config.epochs,
        batch_size=problem.batch_size if config.batch_size is None else config.batch_size,
        hyperparams=dict(config.hyperparams) if own_optimizer else _hyperparams(config),
        on_divergence=config.on_divergence or protocol.on_divergence,
    )
    _check_numbers(resolved)
    _check_schedule(resolved)
    _check_weight_decay(resolved, problem)
    _check_tracking(resolved)
    return resolved


def is_path(name: str) -> bool:
    """Whether the name of a problem or an optimizer is an import path: no name has a dot or a colon."""
    return bool({".", ":"} & set(name))


def protocol_of(config: RunConfig) -> RunProtocol:
    """The protocol that a configuration names.

    Raises:
        ConfigError: there is no such protocol.
    """
    if config.protocol not in PROTOCOLS:
        raise ConfigError(unknown("protocol", config.protocol, PROTOCOLS))
    return PROTOCOLS[config.protocol]


def as_plain_data(config: RunConfig) -> dict[str, Any]:
    """The whole configuration, as JSON can hold it."""
    values = {f.name: plain(getattr(config, f.name)) for f in fields(config)}
    return values | {"hyperparams": {name: plain(value) for name, value in config.hyperparams.items()}}


def identity(config: RunConfig, **resolved: Any) -> dict[str, Any]:
    """What a run's id is made of: the configuration without paths and what changes no number.

    Args:
        config: with every default filled in.
        resolved: replaces what was left to be chosen (the type of the device, the weight decay, a class's defaults),
            and adds the source of the data and the digests of code.
    """
    return {name: value for name, value in as_plain_data(config).items() if name not in _NOT_IN_ID} | resolved


def plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else types.without_addresses(value)


def unknown_optimizer(name: str) -> str:
    """Says that no functional optimizer has the name."""
    message = unknown("optimizer", name, optimizers.names())
    return f"{message} Or give the import path of a class, such as torch.optim.AdamW."


def undefined(row: Quantity, config: RunConfig) -> str:
    """Why a quantity cannot be tracked under a configuration, as far as that tells; "" where it can."""
    if row.plain_sgd and config.optimizer in optimizers.FUNCTIONAL and config.optimizer not in ("sgd", "sgd_cabs"):
        return f"it is derived for SGD without momentum, not for {config.optimizer}; noise_scale is for any optimizer."
    if config.batch_size is not None and config.batch_size < row.least:
        return f"it needs the variance over a batch of {row.least} or more; the batch size is {config.batch_size}."
    return ""


def _hyperparams(config: RunConfig) -> dict[str, Any]:
    """All hyperparameters of a functional optimizer; those given for a class."""
    row = optimizers.FUNCTIONAL.get(config.optimizer)
    if row is None:
        if not is_path(config.optimizer):
            raise ConfigError(unknown_optimizer(config.optimizer))
        return dict(config.hyperparams)
    for name in config.hyperparams:
        if name not in row.defaults:
            raise ConfigError(unknown(f"hyperparameter of {row.name}:", name, row.defaults))
    values = {**row.defaults, **config.hyperparams}
    return {name: each.kind.checked(name, values[name]) for name, each in row.hyperparameters.items()}


def _check_numbers(config: RunConfig) -> None:
    optimizers.check_lr(config.lr)
    for name in ("epochs", "batch_size", "train_log_interval"):
        if getattr(config, name) < 1:
            raise ConfigError(f"{option(name)} {getattr(config, name)}: it must be a whole number from 1.")
    if config.workers is not None and config.workers < 0:
        raise ConfigError(f"{option('workers')} {config.workers}: it must be a whole number from 0.")
    if config.micro_batch is not None and config.micro_batch < 1:
        raise ConfigError(f"{option('micro_batch')} {config.micro_batch}: it must be a whole number from 1.")
    for name in ("clip_norm", "clip_value"):
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{option(name)} {value}: it must be positive and finite.")
    if not 0 <= config.warm_up < math.inf or (config.epochs is not None and config.warm_up >= config.epochs):
        raise ConfigError(
            f"{option('warm_up')} {config.warm_up}: it must be at least 0 and below {config.epochs} epochs."
        )
    if config.keep < 1:
        raise ConfigError(f"{option('keep')} {config.keep}: it must be a whole number from 1.")
    if not 0 <= config.seed < 2**64:
        raise ConfigError(f"{option('seed')} {config.seed}: it must be a whole number from 0 to 2**64 - 1.")


def _schedule_by_name(config: RunConfig, problem: ProblemData) -> RunConfig:
    """The configuration with the epochs and factors of its schedule, and a decay factor where one is used."""
    no_factor = RunConfig.decay_factor
    if not 0 < config.decay_factor < math.inf:
        raise ConfigError(f"{option('decay_factor')} {config.decay_factor}: it must be positive and finite.")
    if config.decay_factor != no_factor and config.schedule is None and config.lr_sched_epochs is None:
        raise ConfigError(
            f"{option('decay_factor')} {config.decay_factor}: no schedule uses it. Give {option('schedule')} "
            f"exponential or steps, or leave it out."
        )
    found = _with_factors(config, problem)
    return found if found.schedule == "exponential" else replace(found, decay_factor=no_factor)


def _with_factors(config: RunConfig, problem: ProblemData) -> RunConfig:
    if config.schedule == "published":
        pairs = tuple(getattr(problem, "schedule", ()))
        if not pairs:
            raise ConfigError(f"{option('schedule')} published: none is known for {problem.name}. Take another one.")
        if config.lr_sched_epochs is not None or config.lr_sched_factors is not None:
            raise ConfigError(f"{option('schedule')} published has its own epochs and factors; give none beside it.")
        epochs, factors = zip(*pairs, strict=True)
        return replace(config, schedule=None, lr_sched_epochs=epochs, lr_sched_factors=factors)
    if config.schedule == "steps":
        if not config.lr_sched_epochs or config.lr_sched_factors is not None:
            raise ConfigError(
                f"{option('schedule')} steps needs {option('lr_sched_epochs')}, at each of which the rate is "
                f"multiplied by {option('decay_factor')}, and takes no {option('lr_sched_factors')}."
            )
        factors = tuple(config.decay_factor ** (index + 1) for index in range(len(config.lr_sched_epochs)))
        return replace(config, schedule=None, lr_sched_factors=factors)
    if config.schedule is not None and (config.lr_sched_epochs is not None or config.lr_sched_factors is not None):
        raise ConfigError(
            f"{option('schedule')} {config.schedule} takes no {option('lr_sched_epochs')} and no "
            f"{option('lr_sched_factors')}; give one or the other."
        )
    return config


def _check_weight_decay(config: RunConfig, problem: ProblemData) -> None:
    if config.weight_decay is None:
        return
    if problem.weight_decay is None:
        raise ConfigError(
            f"{problem.name} has no L2 penalty, so it takes no {option('weight_decay')} "
            f"(given: {config.weight_decay}). An optimizer that has a weight decay of its own takes it as "
            f"{option('hyperparams.weight_decay')}."
        )
    if config.weight_decay < 0 or not math.isfinite(config.weight_decay):
        raise ConfigError(f"{option('weight_decay')} {config.weight_decay}: it must be 0 or more.")


def _check_tracking(config: RunConfig) -> None:
    for name in chosen(config.track):
        reason = undefined(row_of(name), config)
        if reason and name in config.track:  # not only as one of a preset, which leaves out what is not defined
            raise ConfigError(f"{option('track')} {name}: {reason}")
    if config.track_every != "log" and int(config.track_every) < 1:
        raise ConfigError(f"{option('track_every')} {config.track_every}: it must be a whole number from 1, or log.")


def _check_schedule(config: RunConfig) -> None:
    epochs, factors = config.lr_sched_epochs, config.lr_sched_factors
    when, what = option("lr_sched_epochs"), option("lr_sched_factors")
    if (epochs is None) != (factors is None):
        raise ConfigError(f"{when} and {what} go together: give both or neither.")
    if epochs is None or factors is None:
        return
    if not epochs:
        raise ConfigError(f"{when} and {what} need at least one value each.")
    if len(epochs) != len(factors):
        raise ConfigError(f"{when} has {len(epochs)} values and {what} {len(factors)}: give as many of each.")
    if any(epoch < 1 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise ConfigError(f"{when} {' '.join(map(str, epochs))}: they must increase, from 1 or later.")
    if any(not (factor > 0 and math.isfinite(factor)) for factor in factors):
        raise ConfigError(f"{what} {' '.join(map(str, factors))}: each must be positive and finite.")
    if config.epochs is not None and epochs[0] >= config.epochs:
        raise ConfigError(
            f"{when} {' '.join(map(str, epochs))}: a run of {option('epochs')} {config.epochs} ends before the "
            f"learning rate changes; the first must be below {config.epochs}."
        )
