"""A loop of a runner's subclass, `training(tproblem, hyperparams, num_epochs, ...)`: its arguments and its record."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from deepobs_func import records
from deepobs_func.compat import config
from deepobs_func.compat.datasets import RegisteredDataSet
from deepobs_func.compat.runners import arguments
from deepobs_func.compat.testproblems import RegisteredTestProblem, TestProblem
from deepobs_func.datasets.loading import SYNTHETIC
from deepobs_func.errors import ConfigError
from deepobs_func.records import RunRecord
from deepobs_func.runner.digest import digest

Loop = Callable[..., Mapping[str, Any]]
_SCHEDULE = ("lr_sched_epochs", "lr_sched_factors")
_OF_TRAINING = ("print_train_iter", "train_log_interval", *_SCHEDULE)  # what DeepOBS 1.2 hands over in any case
_EXECUTION = ("testproblem", "data_dir", "output_dir", "print_train_iter", "tf_logging", "no_logs")


def extra_of(training: Loop, given: Mapping[str, Any], hyperparams: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a loop among those that were given: such as no other runner has.

    Args:
        training: the loop.
        given: the arguments of the run.
        hyperparams: those of the optimizer, by key.
    """
    named = [*inspect.signature(training).parameters][3:]
    return {
        name: value
        for name, value in given.items()
        if (name in named and name not in _OF_TRAINING)
        or (_takes_all(training) and name not in arguments.NAMES and name not in hyperparams)
    }


def arguments_of(training: Loop, found: Mapping[str, Any], tb_log_dir: str | None) -> dict[str, Any]:
    """What a loop is handed by name, besides its own arguments.

    Args:
        training: the loop.
        found: all arguments of the run.
        tb_log_dir: where TensorBoard's files go.

    Raises:
        ConfigError: there is a schedule, which the loop does not take.
    """
    taken = inspect.signature(training).parameters
    schedule = {name: found[name] for name in _SCHEDULE if found[name]}
    if not (_takes_all(training) or schedule.keys() <= taken.keys()):
        raise ConfigError(
            f"lr_sched_epochs {found['lr_sched_epochs']}: {training.__qualname__} takes no schedule. Give it the "
            "parameters lr_sched_epochs and lr_sched_factors, or leave the schedule out."
        )
    logs = {"tb_log": found["tf_logging"], "tb_log_dir": tb_log_dir}
    return schedule | {name: value for name, value in {**found, **logs}.items() if name in taken and _is_handed(name)}


def _is_handed(name: str) -> bool:
    return name in _OF_TRAINING or name.startswith("tb_log")


def _takes_all(training: Loop) -> bool:
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(training).parameters.values())


def empty_record(
    runner: Any, optimizer: Any, tproblem: TestProblem, found: Mapping[str, Any], hyperparams: dict[str, Any]
) -> RunRecord:
    """The record of a run by a loop, before it ran.

    Args:
        runner: whose loop it is.
        optimizer: the class.
        tproblem: the test problem.
        found: all arguments of the run.
        hyperparams: those of the optimizer and of the loop.

    Returns:
        A record with everything but losses and accuracies.
    """
    own = [type(runner), *([] if isinstance(tproblem, RegisteredTestProblem) else [type(tproblem)])]
    own += [optimizer] if "." in records.class_name(optimizer) else []  # torch's own have names that say all
    extra = {
        "status": "finished",
        "protocol": f"{type(runner).__name__}.training",
        "code": {"training": digest(*own)},
        "data": _data_source(tproblem),
    }
    decides = {name: value for name, value in found.items() if name not in _EXECUTION}
    name, problem = optimizer.__name__, type(tproblem).__name__
    identity = {**decides, **extra, "optimizer": name, "problem": problem, "hyperparams": repr(hyperparams)}
    return RunRecord(
        train_losses=[],
        test_losses=[],
        minibatch_train_losses=[],
        train_accuracies=None,
        test_accuracies=None,
        optimizer=name,
        testproblem=problem,
        weight_decay=found["weight_decay"],
        batch_size=found["batch_size"],
        num_epochs=found["num_epochs"],
        learning_rate=found["learning_rate"],
        lr_sched_epochs=found["lr_sched_epochs"] or None,
        lr_sched_factors=found["lr_sched_factors"] or None,
        random_seed=found["random_seed"],
        train_log_interval=found["train_log_interval"],
        hyperparams=hyperparams,
        extra={**extra, "run_id": records.run_id(identity)},
    )


def _data_source(tproblem: TestProblem) -> dict[str, Any]:
    """Where the data come from, in the words of the functional core's records."""
    data = tproblem.dataset
    if not isinstance(data, RegisteredDataSet):
        return {"synthetic": False}
    if data.spec.generated:
        return {"source": data.spec.source, "synthetic": False}
    return {"synthetic": config.get_data_dir() == SYNTHETIC}
