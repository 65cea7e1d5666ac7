"""DeepOBS's names and schedules: `float2str`, `make_run_name`, `make_lr_schedule`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from deepobs_func import records
from deepobs_func.records import RunRecord
from deepobs_func.records import float2str as float2str

__all__ = ["float2str", "make_lr_schedule", "make_run_name"]


def make_run_name(
    weight_decay: float | None,
    batch_size: int,
    num_epochs: int,
    learning_rate: float,
    lr_sched_epochs: Sequence[int] | None,
    lr_sched_factors: Sequence[float] | None,
    random_seed: int,
    **optimizer_hyperparams: Any,
) -> tuple[str, str]:
    """The names of a run's folder and file.

    Args:
        weight_decay: of the problem; None for its default.
        batch_size, num_epochs, learning_rate, lr_sched_epochs, lr_sched_factors, random_seed: of the run.
        optimizer_hyperparams: all but the learning rate.

    Returns:
        The name of the folder of the setting; the name of the file, with the time and without a suffix.

    >>> make_run_name(None, 128, 10, 0.01, None, None, 42, momentum=0.9)[0]
    'num_epochs__10__batch_size__128__momentum__9.e-01__lr__1.e-02'
    """
    record = RunRecord(
        train_losses=[],
        test_losses=[],
        minibatch_train_losses=[],
        train_accuracies=None,
        test_accuracies=None,
        optimizer="",
        testproblem="",
        weight_decay=weight_decay,
        batch_size=batch_size,
        num_epochs=num_epochs,
        learning_rate=learning_rate,
        lr_sched_epochs=None if lr_sched_epochs is None else list(lr_sched_epochs),
        lr_sched_factors=None if lr_sched_factors is None else list(lr_sched_factors),
        random_seed=random_seed,
        train_log_interval=1,
        hyperparams=optimizer_hyperparams,
    )
    return records.setting_name(record), f"random_seed__{random_seed}__{time.strftime('%Y-%m-%d-%H-%M-%S')}"


def make_lr_schedule(
    lr_base: float | torch.optim.Optimizer | None = None,
    lr_sched_epochs: Sequence[int] | None = None,
    lr_sched_factors: Sequence[float] | None = None,
    *,
    optimizer: torch.optim.Optimizer | None = None,
) -> Any:
    """A learning-rate schedule.

    Args:
        lr_base: the base rate; or an optimizer, as in DeepOBS 1.2.
        lr_sched_epochs: where the rate changes.
        lr_sched_factors: of the base rate, one for each epoch.
        optimizer: DeepOBS 1.2's name of the optimizer.

    Returns:
        From each epoch to the rate from there on; of an optimizer, a scheduler that is stepped after each epoch.

    Raises:
        TypeError: only one of epochs and factors is given.
        ValueError: they are no lists of one length.

    >>> make_lr_schedule(0.3, [50, 100], [0.1, 0.01])
    {0: 0.3, 50: 0.03, 100: 0.003}
    """
    if (lr_sched_epochs is None) != (lr_sched_factors is None):
        raise TypeError("Give both lr_sched_epochs and lr_sched_factors, or neither.")
    epochs, factors = lr_sched_epochs or (), lr_sched_factors or ()
    if not all(isinstance(each, list | tuple) for each in (epochs, factors)) or len(epochs) != len(factors):
        raise ValueError("lr_sched_epochs and lr_sched_factors must be lists of one length.")
    instance = optimizer if optimizer is not None else lr_base
    if not isinstance(instance, torch.optim.Optimizer):
        assert instance is not None, "a base rate or an optimizer"
        return records.lr_schedule(instance, epochs, factors)
    pairs = sorted(zip(epochs, factors, strict=True))

    def factor(epoch: int) -> float:
        return next((value for start, value in reversed(pairs) if epoch >= start), 1.0)

    return LambdaLR(instance, factor)
