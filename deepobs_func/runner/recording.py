"""The record of a run, made of its plan, its log and how it was executed."""

from __future__ import annotations

from typing import Any

from deepobs_func.records import RunRecord
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan


def make_record(plan: Plan, log: Log, execution: Execution | None = None) -> RunRecord:
    """The record of a run, finished or not.

    Args:
        plan: what is run.
        log: what was found so far; the record has its own copy.
        execution: how it is executed; None where that is not known yet.

    Returns:
        The record; a log that is still running makes one with status `"interrupted"`.
    """
    config, chosen, log = plan.config, plan.chosen, log.copy()
    interval, accuracies = config.train_log_interval, plan.problem.has_accuracy
    return RunRecord(
        train_losses=log.losses.get("train", []),
        test_losses=log.losses.get("test", []),
        minibatch_train_losses=log.minibatch_losses + log.partial.losses[::interval],
        train_accuracies=log.accuracies.get("train", []) if accuracies else None,
        test_accuracies=log.accuracies.get("test", []) if accuracies else None,
        valid_losses=log.losses.get("valid", []) if plan.valid else None,
        valid_accuracies=log.accuracies.get("valid", []) if plan.valid and accuracies else None,
        optimizer=chosen.name,
        testproblem=plan.problem.name,
        weight_decay=config.weight_decay,
        batch_size=plan.batch_size,
        num_epochs=plan.epochs,
        learning_rate=config.lr,
        lr_sched_epochs=None if config.lr_sched_epochs is None else list(config.lr_sched_epochs),
        lr_sched_factors=None if config.lr_sched_factors is None else list(config.lr_sched_factors),
        random_seed=config.seed,
        train_log_interval=interval,
        hyperparams=dict(chosen.hyperparams),
        extra=_about(plan, execution) | _found(log, interval),
    )


def _about(plan: Plan, execution: Execution | None) -> dict[str, Any]:
    """What was run, and how."""
    about = {
        "protocol": plan.protocol.name,
        "data": dict(plan.data_source),
        "configuration": plan.plain_configuration(),
        "defaults": list(plan.chosen.defaults),
        "code": dict(plan.code),
        "run_id": plan.run_id,
        "steps_per_epoch": plan.steps_per_epoch,
        "source": dict(plan.source),
        "environment": plan.environment,
        **plan.statistics,
    }
    if execution is not None:
        about |= {"execution": execution.as_plain_data(), "execution_id": execution.id(plan.device)}
    return about | ({} if plan.workers is None else {"workers": plan.workers})


def _found(log: Log, interval: int) -> dict[str, Any]:
    """What was found that DeepOBS does not have; what may be missing stands there where there is some."""
    optional = {
        "divergence": log.divergence,
        "reports": log.reports,
        "tracked": log.tracked,
        "metrics": log.metrics,
        "calls": log.calls,
        "stopped": log.stop,
        "limit": log.limit,
    }
    return {
        "status": "interrupted" if log.status == "running" else log.status,
        "timings": log.timings,
        "penalties": log.penalties,
        "minibatch_penalties": log.minibatch_penalties + log.partial.penalties[::interval],
        **{name: value for name, value in optional.items() if value},
    }
