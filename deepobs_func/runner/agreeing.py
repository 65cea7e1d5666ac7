"""What a run is asked for and a given `Execution` says, too: the two agree, or the run does not start."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from deepobs_func.errors import ConfigError, ResumeError, option
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import Plan

_DEFAULTS = Execution()


def asked(plan: Plan) -> dict[str, Any]:
    """The fields of an execution that are not measured but asked for.

    Args:
        plan: the run.

    Returns:
        `micro_batch`, `processes`, `bn_sync`, `deterministic` and `activation_checkpointing`, by name.
    """
    return {
        "micro_batch": plan.micro_batch,
        "processes": plan.ranks.size,
        "bn_sync": plan.config.bn_sync == "sync",
        "deterministic": plan.config.deterministic,
        "activation_checkpointing": plan.config.activation_checkpointing,
    }


def agreed(plan: Plan, execution: Execution) -> Execution:
    """A given execution with what the run asks for, in the place of defaults.

    Args:
        plan: the run.
        execution: given by the user. A field at its default says nothing.

    Returns:
        The execution, which does what the run asks for.

    Raises:
        ConfigError: it says something else than the run asks for, compiles what is to be computed anew, or is none for
            this device or these batches.
    """
    _check_possible(plan, execution)
    wanted = asked(plan)
    for name, value in wanted.items():
        said = _normal(plan, name, getattr(execution, name))
        if said not in (value, getattr(_DEFAULTS, name)):
            raise ConfigError(
                f"{option('execution')} has {name} {said!r}, and the run {value!r}. {_mend(name, said)}, or leave "
                f"{name} out of the execution."
            )
    if execution.compile and wanted["activation_checkpointing"]:
        raise ConfigError(
            f"{option('execution')} compiles the step, and {option('activation_checkpointing')} is of eager code: give "
            "an execution that does not compile, or leave one of the two out."
        )
    return dataclasses.replace(execution, **wanted)


def _check_possible(plan: Plan, execution: Execution) -> None:
    """Checks that an execution, of another run perhaps, is one for the device and the batches of this one."""
    k, steps = execution.steps_per_call, plan.steps_per_epoch
    if execution.cuda_graphs and plan.device.type != "cuda":
        raise ConfigError(
            f"{option('execution')} has cuda_graphs true, which needs an NVIDIA GPU; the device is {plan.device.type}. "
            "Leave cuda_graphs out of the execution."
        )
    if k > 1 and plan.problem.dataset.streamed:
        raise ConfigError(
            f"{option('execution')} has steps_per_call {k}; batches that are streamed are read one by one, so it must "
            "be 1. Leave steps_per_call out of the execution."
        )
    if steps % k:
        raise ConfigError(
            f"{option('execution')} has steps_per_call {k}; it must divide the {steps} steps of an epoch. Give one "
            "that does, or leave steps_per_call out of the execution."
        )


def check_kept(plan: Plan, kept: Execution, path: Path) -> None:
    """Checks that a run goes on as it was executed before.

    Args:
        plan: the run.
        kept: how it was executed, by its checkpoint.
        path: of the checkpoint.

    Raises:
        ResumeError: the run asks for something else now.
    """
    for name, value in asked(plan).items():
        said = _normal(plan, name, getattr(kept, name))
        if said != value:
            raise ResumeError(
                f"{path} was executed with {name} {said!r}, and the run now asks for {value!r}: its numbers would not "
                f"be those of one run. {_mend(name, said)}, or start anew, without resuming."
            )


def _normal(plan: Plan, name: str, value: Any) -> Any:
    """The value as a plan has it: pieces that are as large as the shard are none."""
    return 0 if name == "micro_batch" and value >= plan.shard_size else value


def _mend(name: str, value: Any) -> str:
    if name == "processes":
        return f"Start {value} process{'es' if value > 1 else ''}"
    if name == "bn_sync":
        return f"Give {option('bn_sync')} {'sync' if value else 'local'}"
    if name in ("deterministic", "activation_checkpointing"):
        return f"Give {option(name)}" if value else f"Leave {option(name)} out"
    return f"Give {option('micro_batch')} {value}" if value else f"Leave {option('micro_batch')} out"
