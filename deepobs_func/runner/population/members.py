"""The members of a population: what they have in common, and what came of each."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepobs_func import optimizers, records
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers.hyperparameters import Range
from deepobs_func.records import RunRecord
from deepobs_func.runner.config import RunConfig, as_plain_data, typed
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.recording import make_record

OWN = ("seed", "lr")  # beside its numeric hyperparameters: by these alone may members differ


@dataclass(frozen=True)
class Member:
    """A run of a population that has ended. It has the attributes of its record, too: `member.test_losses`.

    Attributes:
        record: the results; `record.path` is its file.
        plan: the resolved configuration.
        params: the trained parameters, those that were evaluated; None where the run was finished before, failed, or
            was stopped by its divergence.
        error: the traceback of a run that failed; else "".
    """

    record: RunRecord
    plan: Plan
    params: Params | None = None
    error: str = ""

    def __getattr__(self, name: str) -> Any:
        """An attribute of the record."""
        if name.startswith("__") or name == "record":  # what copying and pickling look for
            raise AttributeError(name)
        return getattr(self.record, name)

    @property
    def config(self) -> RunConfig:
        """What was run, with every default filled in."""
        return self.plan.config

    @property
    def status(self) -> str:
        """`"finished"`, `"diverged"`, `"stopped"` or `"failed"`."""
        return "failed" if self.error else self.record.status


@dataclass(frozen=True)
class Population:
    """A population that has ended.

    Attributes:
        members: the runs, in the order of seeds, learning rates and hyperparameters.
    """

    members: tuple[Member, ...]

    @property
    def records(self) -> list[RunRecord]:
        """Of all members."""
        return [member.record for member in self.members]


class PopulationInterrupted(KeyboardInterrupt):
    """A signal ended a population.

    Attributes:
        members: the runs that had ended before.
        checkpoint: what the others can go on from; None where there is none.
    """

    def __init__(self, members: Sequence[Member], checkpoint: Path | None) -> None:
        super().__init__(f"interrupted after {len(members)} runs of a population")
        self.members: tuple[Member, ...] = tuple(members)
        self.checkpoint: Path | None = checkpoint


def structure(config: RunConfig) -> Hashable:
    """What runs must have in common to be one population: all but seed, learning rate and numeric hyperparameters.

    Args:
        config: of a run, resolved or not; it is not checked here.

    Returns:
        Equal for runs of one structure.

    >>> from dataclasses import replace
    >>> momentum = RunConfig("mnist_mlp", "momentum", lr=0.1, hyperparams={"momentum": 0.9})
    >>> structure(momentum) == structure(replace(momentum, lr=0.2, seed=7, hyperparams={"momentum": 0.5}))
    True
    """
    return json.dumps(_common(config), sort_keys=True)


def _common(config: RunConfig) -> dict[str, Any]:
    """What runs of one structure have in common."""
    values = as_plain_data(typed(config))
    given = values.pop("hyperparams")
    spec = optimizers.FUNCTIONAL.get(config.optimizer)
    if spec is None:
        given = {name: "number" if is_number(value) else value for name, value in given.items()}
    else:
        fixed = {name: each for name, each in spec.hyperparameters.items() if not isinstance(each.kind, Range)}
        given = {name: value for name, value in given.items() if name not in spec.hyperparameters} | {
            name: given.get(name, each.default) for name, each in fixed.items()
        }
    common = {name: value for name, value in values.items() if name not in OWN}
    return common | {"hyperparams": given}


def _is_equal_beside_own(one: RunConfig, other: RunConfig) -> bool:
    """Whether two configurations have the same values, seed and learning rate aside."""
    mine, theirs = vars(one), vars(other)
    return all(_is_same(mine[name], theirs[name]) for name in mine if name not in OWN)


def _is_same(one: Any, other: Any) -> bool:
    """Whether two values are equal and of one type: `valid` may be True or 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_is_same(value, other[name]) for name, value in one.items())
    return type(one) is type(other) and bool(one == other)


def is_number(value: Any) -> bool:
    """Whether a hyperparameter is a number, by which members may differ."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_members(configs: Sequence[RunConfig], plans: Sequence[Plan]) -> None:
    """Checks that runs can be one population, and be written.

    Args:
        configs, plans: of the runs.

    Raises:
        ConfigError: there is none, two differ in structure or in nothing or would lie in one folder, the output
            folder cannot be written, or several processes train together.
    """
    if not configs:
        raise ConfigError("A population has at least one run; no configuration was given.")
    size = plans[0].ranks.size
    if size > 1:
        raise ConfigError(
            f"A population trains in one process, and this one is one of {size} that train together. Start it without "
            "torchrun, or train its runs one by one."
        )
    first = _common(configs[0])
    for config in configs[1:]:
        if _is_equal_beside_own(config, configs[0]):  # the rule, and a tenth of the time
            continue
        other = _common(config)
        different = sorted(name for name in first if first[name] != other[name])
        if different:
            raise ConfigError(
                f"The runs differ in {different[0]} ({first[different[0]]!r}, {other[different[0]]!r}); those of a "
                "population differ in seed, learning rate and numeric hyperparameters alone. Make two of them."
            )
    known = set[str]()
    for plan in plans:
        if plan.run_id in known:
            config = plan.config
            raise ConfigError(
                f"Two runs are the same: {option('seed')} {config.seed}, {option('lr')} {config.lr}, "
                f"{dict(config.hyperparams)}. Leave one out."
            )
        known.add(plan.run_id)
    output_dir = plans[0].config.output_dir
    if output_dir is not None:
        records.check_writable(records.folder_of(_check_folders(plans), output_dir), output_dir)


def _check_folders(plans: Sequence[Plan]) -> RunRecord:
    """Checks that runs of different settings lie in different folders, whose names round numbers.

    Returns:
        The first run's record, empty.

    Raises:
        ConfigError: two would lie in one.
    """
    settings = dict[str, Plan]()
    for plan in plans:
        settings.setdefault(repr((plan.config.lr, sorted(plan.config.hyperparams.items()))), plan)
    folders, empty = dict[Path, RunConfig](), [make_record(plan, Log()) for plan in settings.values()]
    for plan, record in zip(settings.values(), empty, strict=True):
        folder, config = records.relative_folder(record), plan.config
        if folder in folders:
            other = folders[folder]
            raise ConfigError(
                f"Two runs would lie in the same folder ({folder}): {option('lr')} {other.lr}, "
                f"{dict(other.hyperparams)}, and {option('lr')} {config.lr}, {dict(config.hyperparams)}. Leave one out."
            )
        folders[folder] = config
    return empty[0]
