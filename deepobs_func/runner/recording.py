"""The record of a run, made of its plan, its log and how it was executed."""

from __future__ import annotations

from typing import Any

from deepobs_func.records import RunRecord
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan, empty_record


def make_record(plan: Plan, log: Log, execution: Execution | None = None) -> RunRecord:
    """The record of a run, finished or not.

    Args:
        plan: what is run.
        log: what was found so far; the record has its own copy.
        execution: how it is executed; None where that is not known yet.

    Returns:
        The record; a log that is still running makes one with status `"interrupted"`.
    """
    record, log = empty_record(plan), log.copy()
    interval = plan.config.train_log_interval
    record.train_losses, record.test_losses = log.losses.get("train", []), log.losses.get("test", [])
    if plan.problem.has_accuracy:
        record.train_accuracies, record.test_accuracies = (
            log.accuracies.get("train", []),
            log.accuracies.get("test", []),
        )
    record.minibatch_train_losses = log.minibatch_losses + log.partial.losses[::interval]
    record.extra |= {
        "status": "interrupted" if log.status == "running" else log.status,
        "protocol": plan.protocol.name,
        "timings": log.timings,
        "penalties": log.penalties,
        "minibatch_penalties": log.minibatch_penalties + log.partial.penalties[::interval],
        **_execution(plan, execution),
        **{name: value for name, value in _optional(log).items() if value},
    }
    return record


def _execution(plan: Plan, execution: Execution | None) -> dict[str, Any]:
    if execution is None:
        return {}
    workers = {} if plan.workers is None else {"workers": plan.workers}
    return {"execution": execution.as_plain_data(), "execution_id": execution.id, **workers}


def _optional(log: Log) -> dict[str, Any]:
    """What stands in a record where there is some."""
    valid = {
        f"valid_{name}": column["valid"]
        for name, column in (("losses", log.losses), ("accuracies", log.accuracies))
        if "valid" in column
    }
    return {
        **valid,
        "divergence": log.divergence,
        "reports": log.reports,
        "tracked": log.tracked,
        "metrics": log.metrics,
        "calls": log.calls,
        "stopped": log.stop,
    }
