"""Whether two runs of a study are one and the same, or would share a folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from deepobs_func import datasets, problems
from deepobs_func.records import RunRecord, relative_folder, run_id
from deepobs_func.runner.config import RunConfig, as_plain_data, identity, is_path, resolve

_SYNTHETIC = "synthetic"  # `RunConfig.data` of the stand-in


class FileKey(NamedTuple):
    """What decides where the record of a run lies, and which run it is; both without the seed.

    Attributes:
        folder: `<testproblem>/<optimizer>/<setting>`.
        identity: a hash of what decides the numbers.
    """

    folder: Path
    identity: str


def file_key(config: RunConfig) -> FileKey:
    """Where the record of a configuration will lie.

    Names of problems and optimizers of this package import no torch. What is given by an import path is made, since
    its record's name and its code's digest are in the folder's name.

    Args:
        config: of a run.

    Raises:
        ConfigError: the configuration cannot be run.

    >>> file_key(RunConfig("quadratic_deep", "sgd", lr=0.01, protocol="deepobs-1.1.2")).folder.name
    'num_epochs__100__batch_size__128__lr__1.e-02'
    """
    config = replace(config, seed=0)
    if is_path(config.problem) or is_path(config.optimizer):
        return _made(config)
    resolved = resolve(config)
    spec = problems.spec_of(resolved.problem)
    data = datasets.spec(spec.dataset)
    decided: dict[str, Any] = {
        "weight_decay": spec.weight_decay if resolved.weight_decay is None else resolved.weight_decay,
        "valid": data.test_size if resolved.valid is True else int(resolved.valid),
    }
    synthetic = resolved.data == _SYNTHETIC and not data.generated
    folder = relative_folder(_record(replace(resolved, valid=decided["valid"]), synthetic))
    return FileKey(folder, run_id(identity(resolved, **decided, synthetic=synthetic)))


def _record(config: RunConfig, synthetic: bool) -> RunRecord:
    """What of a record its folder's name is made of."""
    assert config.epochs is not None, "a resolved configuration has epochs"
    assert config.batch_size is not None, "a resolved configuration has a batch size"
    return RunRecord(
        train_losses=[],
        test_losses=[],
        minibatch_train_losses=[],
        train_accuracies=None,
        test_accuracies=None,
        optimizer=config.optimizer,
        testproblem=config.problem,
        weight_decay=config.weight_decay,
        batch_size=config.batch_size,
        num_epochs=config.epochs,
        learning_rate=config.lr,
        lr_sched_epochs=None if config.lr_sched_epochs is None else list(config.lr_sched_epochs),
        lr_sched_factors=None if config.lr_sched_factors is None else list(config.lr_sched_factors),
        random_seed=config.seed,
        train_log_interval=config.train_log_interval,
        hyperparams=dict(config.hyperparams),
        extra={
            "protocol": config.protocol,
            "data": {"synthetic": synthetic},
            "configuration": as_plain_data(config),
        },
    )


def _made(config: RunConfig) -> FileKey:
    """The same of a configuration with a problem or an optimizer by import path, which is made here.

    The device, the compiler and the format of numbers may be another machine's.
    """
    from deepobs_func.runner.log import Log
    from deepobs_func.runner.plan import make_plan
    from deepobs_func.runner.recording import make_record

    plan = make_plan(replace(config, device="cpu", compile="off", precision="float32"))
    record = make_record(plan, Log())
    elsewhere = {"precision": config.precision, "device": config.device}
    record.extra["configuration"] |= elsewhere
    return FileKey(relative_folder(record), run_id({**plan.identity, **elsewhere}))
