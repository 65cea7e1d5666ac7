"""What a run is, before anything is loaded: a frozen configuration, checked. Imports no torch."""

from __future__ import annotations

import math
import numbers
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol, TypeVar

from deepobs_func import optimizers
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes.rows import chosen

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
PRECISIONS = ("float32", "tf32", "bf16")
TRACK_BN = ("coupled", "frozen", "eval")


def default_data() -> str:
    """`$DEEPOBS_DATA`, or DeepOBS's own default."""
    return os.environ.get("DEEPOBS_DATA", "data_deepobs")


@dataclass(frozen=True)
class RunConfig:
    """The configuration of a run.

    Attributes:
        problem: a name of `problems.names()`.
        optimizer: a functional optimizer's name, or the import path of a `torch.optim.Optimizer` class.
        lr: the base learning rate.
        hyperparams: the optimizer's other hyperparameters; what is left out has its default.
        epochs, batch_size: None for the problem's published value.
        seed: of the initial parameters, the order of the data and the noise.
        weight_decay: the factor of the problem's L2 penalty; None for the problem's default. Never the optimizer's.
        lr_sched_epochs, lr_sched_factors: from epoch e on, the learning rate is `lr * factor`; both or neither.
        protocol: `"default"` or `"deepobs-1.1.2"`.
        data: the data folder, or `"synthetic"`.
        output_dir: the results tree; None writes nothing.
        device: `"auto"`, or a torch device such as `"cpu"` or `"cuda:1"`.
        compile: `"auto"` (measured, see `runner.choice`), `"on"` or `"off"`.
        memory_format: of images and the kernels of convolutions, `"contiguous"`, `"channels_last"`, or `"auto"` for the
            faster one, measured.
        precision: of products and convolutions in training and evaluation: `"float32"`, `"tf32"` (NVIDIA GPUs) or
            `"bf16"` (autocast; parameters and losses stay float32).
        train_log_interval: mini-batch losses are recorded every so many steps.
        track: names of quantities to track (`probes.rows`), or of presets.
        track_every: each so many steps are tracked; `"log"` for about ten in each decade.
        track_bn: what per-example gradients mean where batch norm couples the examples: `"coupled"`, `"frozen"` or
            `"eval"`.
        on_divergence: `"stop"`, `"continue"`, or None for the protocol's choice.
        workers: processes that read streamed data (ImageNet), 0 for none beside the run's own; None for one less than
            there are cores, up to 16. No number depends on it; data that are held on the device need none.
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
    data: str = field(default_factory=default_data)
    output_dir: str | None = "results"
    device: str = "auto"
    compile: str = "auto"
    memory_format: str = "auto"
    precision: str = "float32"
    train_log_interval: int = 10
    on_divergence: str | None = None
    workers: int | None = None
    track: Sequence[str] = ()
    track_every: int | str = 10
    track_bn: str | None = None


# Paths, what changes no number, and what changes their rounding alone: not part of a run's id.
_NOT_IN_ID = (
    *("data", "output_dir", "train_log_interval", "workers", "track", "track_every", "track_bn"),
    *("compile", "memory_format"),
)


class ProblemData(Protocol):
    """What a configuration is checked against: a `problems.Row`, or a `Problem` of a user's own."""

    @property
    def name(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def weight_decay(self) -> float | None: ...


def resolve(config: RunConfig, problem: ProblemData) -> RunConfig:
    """The configuration with every default filled in.

    Raises:
        ConfigError: a value is out of range or two values do not go together; the message names value, what is
            allowed, and the mend.
    """
    protocol = protocol_of(config)
    if config.problem != problem.name:
        raise ConfigError(f"The configuration is of the problem {config.problem!r}, but {problem.name!r} was given.")
    resolved = replace(
        config,
        lr=_number("--lr", config.lr),
        seed=_whole("--seed", config.seed),
        epochs=_whole("--epochs", problem.epochs if config.epochs is None else config.epochs),
        batch_size=_whole("--batch-size", problem.batch_size if config.batch_size is None else config.batch_size),
        train_log_interval=_whole("--train-log-interval", config.train_log_interval),
        hyperparams=_hyperparams(config),
        track=tuple(config.track),
        track_every="log" if config.track_every == "log" else _whole("--track-every", config.track_every),
        lr_sched_epochs=_several(_whole, "--lr-sched-epochs", config.lr_sched_epochs),
        lr_sched_factors=_several(_number, "--lr-sched-factors", config.lr_sched_factors),
        on_divergence=config.on_divergence or protocol.on_divergence,
        workers=None if config.workers is None else _whole("--workers", config.workers),
    )
    _check_numbers(resolved)
    _check_schedule(resolved)
    if config.weight_decay is not None:
        if problem.weight_decay is None:
            raise ConfigError(
                f"{problem.name} has no L2 penalty, so it takes no --weight-decay (given: {config.weight_decay}). "
                "An optimizer that has a weight decay of its own takes it as --opt.weight_decay."
            )
        if config.weight_decay < 0 or not math.isfinite(config.weight_decay):
            raise ConfigError(f"--weight-decay {config.weight_decay}: it must be 0 or more.")
    _check_tracking(resolved)
    for flag, value, allowed in (
        ("--compile", config.compile, COMPILE),
        ("--memory-format", config.memory_format, MEMORY_FORMATS),
        ("--precision", config.precision, PRECISIONS),
    ):
        if value not in allowed:
            raise ConfigError(unknown(f"choice for {flag}", value, allowed))
    if resolved.on_divergence not in ("stop", "continue"):
        raise ConfigError(unknown("choice for --on-divergence", str(config.on_divergence), ("stop", "continue")))
    return resolved


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
    values = {f.name: _plain(getattr(config, f.name)) for f in fields(config)}
    return values | {"hyperparams": {name: _plain(value) for name, value in config.hyperparams.items()}}


def identity(config: RunConfig, **resolved: Any) -> dict[str, Any]:
    """What a run's id is made of: the configuration without paths and what changes no number.

    Args:
        config: with every default filled in.
        resolved: replaces what was left to be chosen (the type of the device, the weight decay), and adds
            the source of the data.
    """
    return {name: value for name, value in as_plain_data(config).items() if name not in _NOT_IN_ID} | resolved


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, int | float | str | bool | None) else repr(value)


def unknown_optimizer(name: str) -> str:
    """Says that no functional optimizer has the name."""
    message = unknown("optimizer", name, optimizers.names())
    return f"{message} Or give the import path of a class, such as torch.optim.AdamW."


def _hyperparams(config: RunConfig) -> dict[str, Any]:
    """All hyperparameters of a functional optimizer; those given for a class."""
    row = optimizers.FUNCTIONAL.get(config.optimizer)
    if row is None:
        if "." not in config.optimizer:
            raise ConfigError(unknown_optimizer(config.optimizer))
        return dict(config.hyperparams)
    for name in config.hyperparams:
        if name not in row.defaults:
            raise ConfigError(unknown(f"hyperparameter of {row.name}:", name, row.defaults))
    values = {**row.defaults, **config.hyperparams}
    return {name: optimizers.checked(name, values[name]) for name in row.defaults}


def _whole(flag: str, value: Any) -> int:
    """Python's and NumPy's whole numbers, as an int."""
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(f"{flag} {value!r}: it must be a whole number.")


def _number(flag: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise ConfigError(f"{flag} {value!r}: it must be a number.")
    return float(value)


T = TypeVar("T")


def _several(convert: Callable[[str, Any], T], flag: str, values: Sequence[Any] | None) -> tuple[T, ...] | None:
    return None if values is None else tuple(convert(flag, value) for value in values)


def _check_numbers(config: RunConfig) -> None:
    optimizers.check_lr(config.lr)
    for flag, value in (
        ("--epochs", config.epochs),
        ("--batch-size", config.batch_size),
        ("--train-log-interval", config.train_log_interval),
    ):
        if value is None or value < 1:
            raise ConfigError(f"{flag} {value}: it must be a whole number from 1.")
    if config.workers is not None and config.workers < 0:
        raise ConfigError(f"--workers {config.workers}: it must be a whole number from 0.")
    if not 0 <= config.seed < 2**64:
        raise ConfigError(f"--seed {config.seed}: it must be a whole number from 0 to 2**64 - 1.")


def _check_tracking(config: RunConfig) -> None:
    chosen(config.track)
    if config.track_every != "log" and int(config.track_every) < 1:
        raise ConfigError(f"--track-every {config.track_every}: it must be a whole number from 1, or log.")
    if config.track_bn is not None and config.track_bn not in TRACK_BN:
        raise ConfigError(unknown("choice for --track-bn", config.track_bn, TRACK_BN))


def _check_schedule(config: RunConfig) -> None:
    epochs, factors = config.lr_sched_epochs, config.lr_sched_factors
    if (epochs is None) != (factors is None):
        raise ConfigError("--lr-sched-epochs and --lr-sched-factors go together: give both or neither.")
    if epochs is None or factors is None:
        return
    if not epochs:
        raise ConfigError("--lr-sched-epochs and --lr-sched-factors need at least one value each.")
    if len(epochs) != len(factors):
        raise ConfigError(
            f"--lr-sched-epochs has {len(epochs)} values and --lr-sched-factors {len(factors)}: give as many of each."
        )
    if any(epoch < 1 for epoch in epochs) or list(epochs) != sorted(set(epochs)):
        raise ConfigError(f"--lr-sched-epochs {' '.join(map(str, epochs))}: they must increase, from 1 or later.")
    if any(not (factor > 0 and math.isfinite(factor)) for factor in factors):
        raise ConfigError(f"--lr-sched-factors {' '.join(map(str, factors))}: each must be positive and finite.")
