"""What the members of a population have found so far: the log of a run with a leading axis of members."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.evaluation import Found

NEVER, EVALUATION = -1, -1  # no divergence; one that an evaluation found, not a step


@dataclass
class PopulationLog:
    """The results of M members, columns of numbers on the CPU; NaN where a member was gone already.

    Attributes:
        members: M.
        losses, accuracies: by split, `(M,)` for each evaluation.
        penalties: `(M,)` for each evaluation.
        class_zero: by split, `(M,)`, the accuracy of predicting class 0.
        minibatch_losses, minibatch_penalties: `(logged steps, M)` for each epoch; losses with the penalty.
        reports: by name, `(logged steps, M)` for each epoch.
        calls: by kind, `(M,)` for each epoch.
        diverged_epoch, diverged_step: `(M,)`, as in `Log.divergence`; `NEVER`, `EVALUATION`.
        timings: a member's share of the seconds, in which all that train together take part alike.
    """

    members: int
    losses: dict[str, list[Tensor]] = field(default_factory=dict)
    accuracies: dict[str, list[Tensor]] = field(default_factory=dict)
    penalties: list[Tensor] = field(default_factory=list)
    class_zero: dict[str, Tensor] = field(default_factory=dict)
    minibatch_losses: list[Tensor] = field(default_factory=list)
    minibatch_penalties: list[Tensor] = field(default_factory=list)
    reports: dict[str, list[Tensor]] = field(default_factory=dict)
    calls: dict[str, list[Tensor]] = field(default_factory=dict)
    diverged_epoch: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    diverged_step: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    timings: dict[str, Any] = field(default_factory=lambda: {"warm_up": 0.0, "train": [], "evaluate": []})

    def __post_init__(self) -> None:
        if not len(self.diverged_epoch):
            self.diverged_epoch = torch.full((self.members,), NEVER)
            self.diverged_step = torch.full((self.members,), EVALUATION)

    @property
    def evaluations(self) -> int:
        """How many evaluations were made."""
        return len(self.penalties)

    def finite(self) -> set[int]:
        """The members whose objective was finite throughout."""
        return set((self.diverged_epoch == NEVER).nonzero().flatten().tolist())

    def as_plain_data(self) -> dict[str, Any]:
        """A tree of tensors and plain data, for a checkpoint."""
        return dict(vars(self))

    def evaluated(self, epoch: int, ids: Tensor, penalties: Tensor, found: Mapping[str, Found]) -> None:
        """Adds an evaluation.

        Args:
            epoch: how many are complete.
            ids: which members it is of, `(m,)`.
            penalties: `(m,)`.
            found: by split, losses without the penalty and accuracies, `(m,)`.
        """
        self.penalties.append(self._column(ids, penalties))
        finite = torch.ones(len(ids), dtype=torch.bool)
        for split, (losses, accuracies, zero) in found.items():
            total = losses + penalties
            finite &= total.isfinite()
            self.losses.setdefault(split, []).append(self._column(ids, total))
            if accuracies is not None and zero is not None:
                self.accuracies.setdefault(split, []).append(self._column(ids, accuracies))
                self.class_zero.setdefault(split, self._column(ids, zero))
        self._diverge(ids[~finite], epoch, torch.full((int((~finite).sum()),), EVALUATION))

    def end_epoch(
        self, epoch: int, ids: Tensor, losses: Tensor, penalties: Tensor, reports: Mapping[str, Tensor], interval: int
    ) -> None:
        """Adds an epoch of training.

        Args:
            epoch: its number, from 1.
            ids: which members it is of, `(m,)`.
            losses, penalties: of each step, `(steps, m)`.
            reports: of each logged step, `(logged steps, m)`.
            interval: steps between two losses that are kept.
        """
        total = losses + penalties
        bad = ~total.isfinite()
        diverged = bad.any(0)
        self._diverge(ids[diverged], epoch, bad.int().argmax(0)[diverged])
        self.minibatch_losses.append(self._column(ids, total[::interval]))
        self.minibatch_penalties.append(self._column(ids, penalties[::interval]))
        for name, column in reports.items():
            self.reports.setdefault(name, []).append(self._column(ids, column))

    def called(self, ids: Tensor, calls: Mapping[str, Tensor]) -> None:
        """Adds how often the oracle was called, after an epoch."""
        for kind, numbers in calls.items():
            self.calls.setdefault(kind, []).append(self._column(ids, numbers.double()))

    def _diverge(self, ids: Tensor, epoch: int, steps: Tensor) -> None:
        new = self.diverged_epoch[ids] == NEVER
        self.diverged_epoch[ids[new]], self.diverged_step[ids[new]] = epoch, steps[new]

    def _column(self, ids: Tensor, values: Tensor) -> Tensor:
        """Values of some members among those of all."""
        column = torch.full((*values.shape[:-1], self.members), math.nan, dtype=torch.float64)
        column[..., ids] = values.double()
        return column

    def logs(self, plans: Sequence[Plan], *, ended: bool) -> list[Log]:
        """The log of each member, as it would have it alone; a member that a divergence stopped has ended."""
        return [self._log(member, plan, ended=ended) for member, plan in zip(self._by_member(), plans, strict=True)]

    def _by_member(self) -> list[dict[str, Any]]:
        """All columns as lists by member: one copy of each, not one for each member."""

        def rows(columns: list[Tensor]) -> list[list[float]]:
            table = torch.stack(columns, -1) if columns and columns[0].ndim == 1 else None
            if table is None:
                table = torch.cat(columns).T if columns else torch.empty(self.members, 0)
            return table.tolist()

        found = {
            "losses": {split: rows(columns) for split, columns in self.losses.items()},
            "accuracies": {split: rows(columns) for split, columns in self.accuracies.items()},
            "class_zero": {split: column.tolist() for split, column in self.class_zero.items()},
            "reports": {name: rows(columns) for name, columns in self.reports.items()},
            "calls": {kind: rows(columns) for kind, columns in self.calls.items()},
        }
        plain = {name: rows(getattr(self, name)) for name in ("penalties", "minibatch_losses", "minibatch_penalties")}
        diverged = list(zip(self.diverged_epoch.tolist(), self.diverged_step.tolist(), strict=True))
        return [
            {name: {key: columns[member] for key, columns in tables.items()} for name, tables in found.items()}
            | {name: columns[member] for name, columns in plain.items()}
            | {"diverged": diverged[member]}
            for member in range(self.members)
        ]

    def _log(self, own: dict[str, Any], plan: Plan, *, ended: bool) -> Log:
        epoch, step = own.pop("diverged")
        log = Log(**own, timings={name: _copied(value) for name, value in self.timings.items()})
        if epoch != NEVER:
            log.divergence = {"epoch": epoch, "step": None if step == EVALUATION else step}
            if plan.config.on_divergence == "stop":
                _cut(log, plan)
                ended = True
        log.calls = {kind: list(map(int, numbers)) for kind, numbers in log.calls.items()}
        if ended:
            log.finish(plan.epochs, plan.logged_steps)
        return log


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _cut(log: Log, plan: Plan) -> None:
    """Leaves of a log what a run has that ends at its divergence."""
    assert log.divergence is not None, "only a log with a divergence is cut"
    epoch, step = log.divergence["epoch"], log.divergence["step"]
    assert epoch is not None, "it always has an epoch"
    interval = plan.config.train_log_interval
    an_epoch = -(-plan.steps_per_epoch // interval)
    evaluations = epoch + 1 if step is None else epoch
    steps = epoch * an_epoch if step is None else (epoch - 1) * an_epoch + step // interval + 1
    for columns in (log.losses, log.accuracies):
        for column in columns.values():
            del column[evaluations:]
    del log.penalties[evaluations:]
    for column in (log.minibatch_losses, log.minibatch_penalties, *log.reports.values()):
        del column[steps:]
    for numbers in log.calls.values():
        del numbers[epoch:]
    del log.timings["train"][epoch:]
    del log.timings["evaluate"][evaluations:]
