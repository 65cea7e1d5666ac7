"""What is kept of a run, found again: its configuration, its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from deepobs_func import records
from deepobs_func.base import ModelState, Params
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import checkpoint
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.plan import make_plan


class Loaded(NamedTuple):
    """A trained net.

    Attributes:
        problem: what was trained, at the run's weight decay.
        params: the parameters that were evaluated.
        state: the model state, for a batch.
    """

    problem: Problem
    params: Params
    state: ModelState


def configuration_of(path: str | Path) -> RunConfig:
    """The configuration of a run, from its checkpoint or its record.

    Raises:
        DataError: the file is neither.
        ConfigError: the run was of a problem or an optimizer that Python made, which no file can hold.
    """
    path = Path(path).expanduser()
    if path.suffix == checkpoint.SUFFIX:
        head: Mapping[str, Any] = checkpoint.read(path).head
    else:
        head = records.read(path).extra
    return configuration_in(head, path)


def configuration_in(head: Mapping[str, Any], path: Path) -> RunConfig:
    """The configuration that stands in a checkpoint's head or in a record.

    Args:
        head: what the file holds.
        path: the file, for messages.

    Returns:
        The configuration.

    Raises:
        DataError: there is none, or it is of another version.
        ConfigError: the run's problem or optimizer was made in Python.
    """
    values = head.get("configuration")
    if not isinstance(values, Mapping):
        raise DataError(
            f"{path} does not say of which configuration it is. Name a record or a checkpoint of this package."
        )
    known = {field.name for field in dataclasses.fields(RunConfig)}
    unknown = sorted(values.keys() - known)
    if unknown:
        raise DataError(f"{path} is of another version: its configuration has {', '.join(unknown)}.")
    source = head.get("source", {})
    for what in ("problem", "optimizer"):
        if source.get(what) == "value":
            raise ConfigError(
                f"{path} is of a run whose {what} was made in Python. Go on in Python: "
                f"run(config, {what}=..., resume=True)."
            )
    return RunConfig(**{**values, "problem": source.get("problem", values["problem"])})


def output_dir_of(path: str | Path, config: RunConfig) -> str | Path | None:
    """The results tree of a checkpoint or a partial record, wherever the command is given.

    It is beside the state folder in which the file lies; where that is in the user's folder for state, it is the
    configuration's.
    """
    for folder in Path(path).expanduser().absolute().parents:
        if folder.name.endswith(records.STATE_SUFFIX):
            beside = folder.with_name(folder.name.removesuffix(records.STATE_SUFFIX))
            same = config.output_dir is not None and records.output_path(config.output_dir).absolute() == beside
            return config.output_dir if same else beside
    return config.output_dir


def load(path: str | Path, problem: Problem | None = None, optimizer: Any = None) -> Loaded:
    """Loads the problem and the trained parameters of a checkpoint, for probes.

    Args:
        path: a checkpoint, `*.safetensors`.
        problem, optimizer: as given to `run`, if it was given one.

    Returns:
        The problem at the run's weight decay, the parameters that were evaluated, and the model state, on the CPU.

    Raises:
        DataError: the file is not a checkpoint.
        ConfigError: the problem or the optimizer is missing, or is not that of the run.

    >>> from deepobs_func import RunConfig, run
    >>> trained = run(RunConfig("two_d_beale", "adam", 0.01, epochs=1, checkpoint_every=1))
    >>> problem, params, state = load(next(Path("results.state").rglob("*.safetensors")))
    >>> all(params[name].equal(leaf) for name, leaf in trained.params.items())
    True
    """
    found = checkpoint.read(path)
    if problem is None and optimizer is None:
        config = configuration_in(found.head, found.path)
    else:
        config = RunConfig(**found.head["configuration"])
    plan = make_plan(dataclasses.replace(config, device="cpu"), problem, optimizer)
    shapes = {name: tuple(leaf.shape) for name, leaf in found.tree["params"].items()}
    expected = {name: tuple(shape) for name, shape in plan.problem.shapes.items()}
    if shapes != expected:
        raise ConfigError(
            f"{path} is of another {plan.problem.name}: its parameters are {shapes}, and {expected} here. Give the "
            "problem that was trained."
        )
    carry = found.carry(plan)
    return Loaded(plan.problem, plan.optimizer.eval_params(carry.opt_state, carry.params), carry.state)
