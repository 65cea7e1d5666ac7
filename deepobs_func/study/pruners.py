"""Pruners, as data: what ends a trial that does worse than others. Imports no Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.registry import Registry
from deepobs_func.study.samplers import check_installed


@dataclass(frozen=True)
class PrunerSpec:
    """A pruner of Optuna's, as data.

    Attributes:
        name: on the command line and in the records.
        summary: one line.
        kind: the name of a class of `optuna.pruners`.
        options: for its constructor.
        of_epochs: its options that are the number of epochs of a run.
    """

    name: str
    summary: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    of_epochs: tuple[str, ...] = ()


PRUNERS = Registry(
    "pruner",
    PrunerSpec,
    (
        PrunerSpec("median", "below the median of finished trials at the same epoch", "MedianPruner"),
        PrunerSpec(
            "percentile",
            "not among the best quarter of finished trials at the same epoch",
            "PercentilePruner",
            {"percentile": 25.0},
        ),
        PrunerSpec(
            "successive-halving",
            "not among the best quarter at epochs 1, 4, 16, ...",
            "SuccessiveHalvingPruner",
            {"min_resource": 1, "reduction_factor": 4},
        ),
        PrunerSpec(
            "hyperband",
            "successive halving with several first epochs",
            "HyperbandPruner",
            {"min_resource": 1, "reduction_factor": 3},
            of_epochs=("max_resource",),
        ),
    ),
    group="deepobs_func.pruners",
    listing="deepobs tune --help",
)


def find_pruner(name: str) -> PrunerSpec:
    """The pruner of a name.

    Raises:
        ConfigError: there is none (the message has the nearest), or Optuna is not installed.
    """
    if name not in PRUNERS:
        raise ConfigError(f"{option('pruner')} {name}: {unknown('pruner', name, PRUNERS)}")
    found = PRUNERS[name]
    check_installed(f"{option('pruner')} {name}", ("optuna",), "tune")
    return found
