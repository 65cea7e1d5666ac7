"""Budgets of tuning, as data: how many trials, from where, judged by what, and which seeds are reported.

A budget is the same for every optimizer. Another package adds its own by an entry point of the group
`deepobs_func.budgets`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.registry import Registry
from deepobs_func.study.spaces import PUBLISHED

TuneOn = Literal["valid", "test"]
Quantity = Literal["final", "best"]
UNITS = ("trials", "gradients", "seconds")
"""Gradients are counted by `records.GRADIENTS`, products and evaluations too."""


@dataclass(frozen=True)
class Budget:
    """How an optimizer is tuned.

    Attributes:
        name: on the command line and in the records; one that ends in `-k` is given with a number: `random-20`.
        summary: one line.
        sampler: the name of a sampler (`samplers.SAMPLERS`).
        trials: of each study; None where the user says how many.
        studies: independent repetitions, each with a tuning seed and a winner of its own.
        searched: `"nothing"`, `"lr"`, or `"all"`: what is searched unless the user says otherwise.
        rates: the learning rates that are searched, where these are fixed.
        schedules: of the learning rate, that are searched.
        tune_on: the split by which trials are judged.
        quantity: the value after the last epoch, or the best of all epochs.
        tuning_seed: of the first study; the next has the next.
        seeds: with which winners are run again; several studies share them out.
        report_tuning_seed: whether the winning trial itself is among what is reported.
        free: whether `--sampler` may name another sampler.
    """

    name: str
    summary: str
    sampler: str
    trials: int | None
    studies: int = 1
    searched: str = "all"
    rates: tuple[Any, ...] = ()
    schedules: tuple[str, ...] = ("constant",)
    tune_on: TuneOn = "valid"
    quantity: Quantity = "final"
    tuning_seed: int = 42
    seeds: tuple[int, ...] = tuple(range(43, 53))
    report_tuning_seed: bool = False
    free: bool = field(default=False)


_HORIZONS = ("constant", "cosine")

BUDGETS = Registry(
    "budget",
    Budget,
    (
        Budget(
            "one-shot",
            "the authors' defaults, one trial: nothing is chosen, so its seed is reported too",
            "grid",
            trials=1,
            searched="nothing",
            seeds=tuple(range(43, 52)),
            report_tuning_seed=True,
        ),
        Budget(
            "published",
            "DeepOBS's baselines: 36 learning rates on seed 42, judged on the test set, the best run on 43 to 51 too",
            "grid",
            trials=36,
            searched="lr",
            rates=PUBLISHED.values,
            tune_on="test",
            seeds=tuple(range(43, 52)),
            report_tuning_seed=True,
        ),
        Budget("random-k", "k random draws", "random", trials=None, schedules=_HORIZONS),
        Budget(
            "halton",
            "AlgoPerf's external tuning: 3 studies of 5 quasi-random trials, each with a winner",
            "halton",
            trials=5,
            studies=3,
            schedules=_HORIZONS,
            seeds=(45, 46, 47),
        ),
        Budget("optuna-k", "k trials of an Optuna sampler", "tpe", trials=None, schedules=_HORIZONS, free=True),
    ),
    group="deepobs_func.budgets",
    listing="deepobs tune --help",
)


def find_budget(name: str | Budget, **changes: Any) -> Budget:
    """The budget that a user asks for.

    Args:
        name: of a budget, `random-20` for `random-k` with 20 trials; or a budget itself.
        **changes: replace fields, unless they are None.

    Returns:
        A budget that has a number of trials.

    Raises:
        ConfigError: there is no such budget (the message has the nearest), it has no trials, no seeds are left to be
            reported, or a field is of no use.

    >>> find_budget("random-20").trials, find_budget("published").trials, find_budget("halton", trials=7).studies
    (20, 36, 3)
    """
    found = name if isinstance(name, Budget) else _named(name)
    found = replace(found, **{field: value for field, value in changes.items() if value is not None})
    if found.trials is None:
        raise ConfigError(f"{option('budget')} {found.name} needs a number: {found.name.removesuffix('k')}20, say.")
    _check(found)
    return found


def _named(name: str) -> Budget:
    counted = re.fullmatch(r"(.+)-(\d+)", name)
    if counted and f"{counted[1]}-k" in BUDGETS:
        return replace(BUDGETS[f"{counted[1]}-k"], name=name, trials=int(counted[2]))
    if name not in BUDGETS:
        raise ConfigError(f"{option('budget')} {name}: {unknown('budget', name, BUDGETS)}")
    return BUDGETS[name]


def _check(budget: Budget) -> None:
    for name, value in (("trials", budget.trials), ("studies", budget.studies)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(
                f"{option('budget')} {budget.name} with {value} {name}: it must be a whole number from 1."
            )
    allowed = {"tune_on": ("valid", "test"), "quantity": ("final", "best")}
    for name, choices in allowed.items():
        if getattr(budget, name) not in choices:
            raise ConfigError(f"{option(name)} {getattr(budget, name)}: it must be {' or '.join(choices)}.")
    if len(set(budget.seeds)) < len(budget.seeds):
        raise ConfigError(f"{option('seeds')} {' '.join(map(str, budget.seeds))}: one is there twice.")
    tuning = range(budget.tuning_seed, budget.tuning_seed + budget.studies)
    both = [seed for seed in budget.seeds if seed in tuning]
    if both:
        raise ConfigError(
            f"{option('seeds')}: {both[0]} is a seed of tuning, on which the winner was chosen. Take others, or say "
            f"{option('report_tuning_seed')}, which reports the winning trial beside them."
        )
    if not budget.seeds and not budget.report_tuning_seed:
        raise ConfigError(f"{option('seeds')}: there is none, so nothing would be reported. Give some.")
