"""Studies: many runs, planned, executed and tuned. Imports no torch before it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy

if TYPE_CHECKING:
    from deepobs_func.study.budgets import Budget as Budget
    from deepobs_func.study.dueling import Delta as Delta
    from deepobs_func.study.dueling import Dueling as Dueling
    from deepobs_func.study.dueling import Standings as Standings
    from deepobs_func.study.dueling import duel as duel
    from deepobs_func.study.limits import Limits as Limits
    from deepobs_func.study.merging import merge as merge
    from deepobs_func.study.pool import Pool as Pool
    from deepobs_func.study.scheduler import Outcome as Outcome
    from deepobs_func.study.spaces import Choice as Choice
    from deepobs_func.study.spaces import IntUniform as IntUniform
    from deepobs_func.study.spaces import LinearGrid as LinearGrid
    from deepobs_func.study.spaces import LogGrid as LogGrid
    from deepobs_func.study.spaces import LogUniform as LogUniform
    from deepobs_func.study.spaces import OneMinusLogUniform as OneMinusLogUniform
    from deepobs_func.study.spaces import Space as Space
    from deepobs_func.study.spaces import Uniform as Uniform
    from deepobs_func.study.spaces import Values as Values
    from deepobs_func.study.spec import Study as Study
    from deepobs_func.study.status import study_status as study_status
    from deepobs_func.study.sweeping import Swept as Swept
    from deepobs_func.study.sweeping import sweep as sweep
    from deepobs_func.study.tuned import Tuned as Tuned
    from deepobs_func.study.tuning import Tuning as Tuning
    from deepobs_func.study.tuning import tune as tune

_ROOMS = {
    "budgets": ("Budget",),
    "spaces": (
        *("Choice", "IntUniform", "LinearGrid", "LogGrid", "LogUniform", "OneMinusLogUniform", "Space", "Uniform"),
        "Values",
    ),
    "dueling": ("Delta", "Dueling", "Standings", "duel"),
    "limits": ("Limits",),
    "merging": ("merge",),
    "pool": ("Pool",),
    "scheduler": ("Outcome",),
    "spec": ("Study",),
    "status": ("study_status",),
    "sweeping": ("Swept", "sweep"),
    "tuned": ("Tuned",),
    "tuning": ("Tuning", "tune"),
}
_PATHS = {name: f"{__name__}.{room}:{name}" for room, names in _ROOMS.items() for name in names}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS)
