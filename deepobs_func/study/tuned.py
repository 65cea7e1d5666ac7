"""What comes of tuning: the trials, the best so far after each of them, the winner, and what is reported of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from deepobs_func.records import RunRecord
from deepobs_func.study.judging import Metric


@dataclass(frozen=True)
class Trial:
    """A trial that has ended.

    Attributes:
        number: from 0, in its study.
        seed: of its run.
        values: what was chosen for it, by name.
        run_id: of its run.
        status: `"finished"`, `"diverged"`, `"stopped"` by the pruner, or `"failed"`.
        value: by which it is judged; None where that is not finite.
        loss: the same as a loss, of which the least is best; infinite where it is not finite.
        cost: what it took of the budget.
        path: of its record.
    """

    number: int
    seed: int
    values: Mapping[str, Any]
    run_id: str
    status: str
    value: float | None
    loss: float
    cost: float
    path: Path | None

    @property
    def is_whole(self) -> bool:
        """Whether it may win: it was not pruned and did not fail, and has a value."""
        return self.status in ("finished", "diverged") and math.isfinite(self.loss)


class Reported(NamedTuple):
    """A run of the winner.

    Attributes:
        seed, run_id, status: of the run.
        value: the test accuracy after the last epoch, or the test loss where there is none; None if not finite.
        path: of its record.
    """

    seed: int
    run_id: str
    status: str
    value: float | None
    path: Path | None


@dataclass(frozen=True)
class Tuned:
    """A search, as far as it is.

    Attributes:
        problem, optimizer, study: of what.
        budget: its name.
        unit, amount: how much there is of what.
        metric: by which trials are judged.
        trials: those that have ended, in order.
        reported: the runs of the winner, by seed.
        is_complete: whether nothing is left to be run.
        path: of the file that has all this; None where nothing is written.
    """

    problem: str
    optimizer: str
    study: int
    budget: str
    unit: str
    amount: float
    metric: Metric
    trials: tuple[Trial, ...]
    reported: tuple[Reported, ...]
    is_complete: bool
    path: Path | None = None

    @property
    def winner(self) -> Trial | None:
        """The best whole trial, the first among equals; None where none has a finite value.

        Where there is one trial alone, nothing is chosen: it is the winner even if it diverged.
        """
        whole = [trial for trial in self.trials if trial.is_whole]
        if not whole and self.amount == len(self.trials) == 1:
            whole = [trial for trial in self.trials if trial.status == "diverged"]
        return min(whole, key=lambda trial: trial.loss) if whole else None

    @property
    def best(self) -> tuple[float | None, ...]:
        """The best value of whole trials so far, after each trial; None before the first finite one."""
        found, least = [], math.inf
        for trial in self.trials:
            least = min(least, trial.loss) if trial.is_whole else least
            found.append(self.metric.shown(least))
        return tuple(found)

    @property
    def spent(self) -> tuple[float, ...]:
        """What the trials took of the budget, summed up after each."""
        total, found = 0.0, []
        for trial in self.trials:
            total += trial.cost
            found.append(total)
        return tuple(found)

    def as_plain_data(self) -> dict[str, Any]:
        """What the file has of it."""
        winner = self.winner
        return {
            "problem": self.problem,
            "optimizer": self.optimizer,
            "study": self.study,
            "budget": self.budget,
            "unit": self.unit,
            "amount": self.amount,
            "metric": self.metric.name,
            "is_complete": self.is_complete,
            "curve": {"trial": [*range(1, len(self.trials) + 1)], "spent": [*self.spent], "best": [*self.best]},
            "winner": None if winner is None else winner.number,
            "trials": [
                {
                    "trial": trial.number,
                    "seed": trial.seed,
                    "values": dict(trial.values),
                    "run_id": trial.run_id,
                    "status": trial.status,
                    "value": trial.value,
                    "cost": trial.cost,
                }
                for trial in self.trials
            ],
            "reported": [each._asdict() | {"path": str(each.path or "")} for each in self.reported],
        }


def reported(record: RunRecord | None, seed: int, run_id: str, status: str) -> Reported:
    """What is reported of a run."""
    metric = Metric("test", "final", record is not None and record.test_accuracies is not None)
    return Reported(seed, run_id, status, metric.shown(metric.loss(record)), None if record is None else record.path)
