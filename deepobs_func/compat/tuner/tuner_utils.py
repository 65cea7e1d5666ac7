"""What DeepOBS's tuners share: `log_uniform`, and `rerun_setting`, which runs a good setting again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from deepobs_func import analysis, records
from deepobs_func.analysis.choosing import MODES, is_accuracy, settings_of
from deepobs_func.compat.analyzer import column_of
from deepobs_func.compat.runners.arguments import Declared, declared, name_of
from deepobs_func.compat.runners.loops import extra_of
from deepobs_func.datasets.loading import SYNTHETIC
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.records import RunRecord

SEEDS = tuple(range(43, 52))
"""DeepOBS's seeds of the runs after tuning."""


class log_uniform:  # noqa: N801  # DeepOBS's name
    """`base**u`, u from U(a, b).

    Args:
        a, b: the ends of the exponent.
        base: of the power.
    """

    def __init__(self, a: float, b: float, base: float = 10) -> None:
        self.a: float = a
        self.b: float = b
        self.base: float = base

    def rvs(self, size: int | None = None, random_state: Any = None) -> Any:
        """Draws, as distributions of SciPy do.

        Args:
            size: how many; None for one number.
            random_state: a seed or a generator of NumPy's; None for NumPy's global one.

        Returns:
            A number, or an array.
        """
        if random_state is None:
            generator: Any = np.random
        else:
            generator = np.random.RandomState(random_state) if isinstance(random_state, int) else random_state
        drawn = np.power(float(self.base), generator.uniform(self.a, self.b, size))
        return float(drawn) if size is None else drawn


def rerun_setting(
    runner: Any,
    optimizer_class: Any,
    hyperparam_names: Declared,
    optimizer_path: str | Path,
    seeds: Iterable[int] = SEEDS,
    rank: int = 1,
    mode: str = "final",
    metric: str = "valid_accuracies",
) -> list[dict[str, Any]]:
    """Runs a setting that is there again, with other seeds; by default the best one.

    Args:
        runner: the class of runner.
        optimizer_class, hyperparam_names: as for a runner; of a record's hyperparameters those are taken that are
            declared, or all where nothing is.
        optimizer_path: `<results>/<problem>/<optimizer>`, where the new runs go, too.
        seeds: of the new runs.
        rank: 1 for the best setting, 2 for the one after it.
        mode: by what settings are ordered: `"final"`, `"best"` or `"most"`.
        metric: DeepOBS's name of the metric; what is not there gives way to the test set's, or the loss.

    Returns:
        What the runner returned, a run each.

    Raises:
        ConfigError: there is no such mode, or there are fewer settings.
    """
    path, results = Path(optimizer_path), analysis.load(str(optimizer_path))
    if mode not in MODES:
        raise ConfigError(unknown("mode", mode, MODES))
    if not results.optimizers:
        raise ConfigError(f"There is no run in {optimizer_path}.")
    problem, optimizer = results.problems[0], results.optimizers[0]
    column = column_of(results, metric, problem) or results.metric(problem)
    sign = -1.0 if is_accuracy(column) else 1.0
    ranked = sorted(settings_of(results, problem, optimizer, column), key=lambda each: MODES[mode](each, sign))
    if not 1 <= rank <= len(ranked):
        raise ConfigError(f"rank {rank}: {optimizer_path} has {len(ranked)} settings with a complete run.")
    record = records.read(results.row(ranked[rank - 1].runs[0])["path"])
    names = record.hyperparams if hyperparam_names is None else map(name_of, declared(hyperparam_names))
    values = {name: record.hyperparams[name] for name in names if name in record.hyperparams}
    made = runner(optimizer_class, hyperparam_names)
    loop = getattr(made, "training", None)  # whose arguments are recorded, too
    values |= {} if loop is None else extra_of(loop, record.hyperparams, {})
    return [
        made._run(
            problem,
            hyperparams=values,
            learning_rate=record.learning_rate,
            lr_sched_epochs=record.lr_sched_epochs,
            lr_sched_factors=record.lr_sched_factors,
            weight_decay=record.weight_decay,
            batch_size=record.batch_size,
            num_epochs=record.num_epochs,
            random_seed=int(seed),
            train_log_interval=record.train_log_interval,
            data_dir=_data_of(record),
            output_dir=str(path.parent.parent),
        )
        for seed in seeds
    ]


def _data_of(record: RunRecord) -> str | None:
    """The stand-in, where the run was on it; else what the settings say."""
    return SYNTHETIC if record.synthetic else None
