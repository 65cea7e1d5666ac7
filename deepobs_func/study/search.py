"""One search: an optimizer on a problem, from trial to trial, and the winner on other seeds.

Trials are asked for in rounds. The next round is asked for when all trials of the last have ended and were told in the
order of their numbers, so that the trials are a function of finished ones, whatever runs at a time and however fast.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from deepobs_func import files, records
from deepobs_func.errors import ConfigError, UserError, option
from deepobs_func.runner.config import RunConfig, default_data, identity
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.study.judging import Metric, cost, log_of
from deepobs_func.study.samplers import Told, make_sampler
from deepobs_func.study.searched import corners, default_lr, point, spaces_for
from deepobs_func.study.spaces import Values
from deepobs_func.study.tuned import Reported, Trial, Tuned, reported
from deepobs_func.study.tuning import Tuning

MOST = 10
"""Times the trials of the budget, beyond which none is started, whatever it costs: one that diverges costs little."""


@dataclass
class Asked:
    """A run that a search wants.

    Attributes:
        config, run_id: what to run.
        about: what its record states.
        number: of the trial.
        values: what was chosen for it.
        prune: whether the pruner is asked.
        outcome: how it ended; None until it has.
    """

    config: RunConfig
    run_id: str
    about: dict[str, Any]
    number: int
    values: Mapping[str, Any]
    prune: bool = False
    outcome: Any = None


class Search:
    """An optimizer on a problem under a budget, in one study.

    Args:
        tuning: what is tuned.
        problem, optimizer: of this search.
        study: its number, from 0.

    Raises:
        ConfigError: something cannot be run; nothing was.
    """

    def __init__(self, tuning: Tuning, problem: str, optimizer: str, study: int) -> None:
        self._tuning, self._problem, self._optimizer, self._study = tuning, problem, optimizer, study
        self._budget = tuning.chosen_budget()
        self._seed = self._budget.tuning_seed + study
        self._spaces = spaces_for(optimizer, tuning.optimizers, self._budget, tuning.search)
        if tuning.warm_ups is not None:
            self._spaces["warm_up"] = Values(tuple(tuning.warm_ups))
        self._base = self._make_base()
        plan = self._checked()
        self._epochs, self._output_dir = plan.epochs, plan.config.output_dir
        self._metric = Metric(self._budget.tune_on, self._budget.quantity, plan.problem.has_accuracy)
        whole = float(self._budget.trials or 0)
        self._amount = tuning.amount or whole * (plan.epochs * plan.steps_per_epoch if self._in("gradients") else 1)
        self._sampler = make_sampler(tuning.chosen_sampler(), self._spaces, self._seed)
        self._check_grid()
        self._pruning = self._make_pruning()
        self._pruned: dict[int, Any] = {}
        self._round: list[Asked] = []
        self._trials: list[Trial] = []
        self._reported: list[Reported] = []
        self._on_test: list[Reported] = []  # of the trials, which is looked at where one of them is reported
        self._is_sampled = self._is_complete = False
        self._facts = self._make_facts()

    def ask(self) -> list[Asked]:
        """The runs that can start now: a round of trials, or those that are reported; none when all is done."""
        self._round = self._next_trials()
        if not self._round and not self._is_complete:
            self._round = self._reports()
            if not self._round:
                self._complete()
        return self._round

    def decide(self, run_id: str, log: Mapping[str, list[float]]) -> str | None:
        """Why a trial under way ends here; None where it goes on."""
        for each in self._round:
            if each.run_id == run_id and each.prune and each.outcome is None:
                pruned = self._pruned[each.number].prunes(self._metric.losses(log))
                return f"pruned by {self._tuning.pruner}" if pruned else None
        return None

    def take(self, outcome: Any) -> bool:
        """Takes how a run ended.

        Returns:
            Whether the round has ended with it.

        Raises:
            UserError: the run was cancelled, or cannot be judged.
        """
        if outcome.status == "cancelled":
            raise UserError(
                f"The run {outcome.run_id[:12]} of the tuning was cancelled; without it there is no winner."
            )
        each = next(each for each in self._round if each.run_id == outcome.run_id and each.outcome is None)
        each.outcome = outcome
        if any(other.outcome is None for other in self._round):
            return False
        for each in self._round:
            if each.about["role"] == "tuning":
                self._end_trial(each)
            else:
                out = each.outcome
                self._reported.append(reported(out.record, each.config.seed, each.run_id, out.status))
        if self._round[0].about["role"] == "report":
            self._complete()
        self._write()
        return True

    def result(self) -> Tuned:
        """What came of it so far."""
        return Tuned(
            self._problem,
            self._optimizer,
            self._study,
            self._budget.name,
            self._tuning.unit,
            self._amount,
            self._metric,
            tuple(self._trials),
            tuple(sorted(self._reported)),
            self._is_complete,
            self._path,
        )

    def _in(self, unit: str) -> bool:
        return self._tuning.unit == unit

    def _make_base(self) -> RunConfig:
        """What is not searched."""
        lr = default_lr(self._optimizer)
        if lr is None and "lr" not in self._spaces:
            raise ConfigError(
                f"{option('optimizer')} {self._optimizer} has no learning rate by default, and the budget "
                f"{self._budget.name} searches none. Give one by {option('search')} lr=0.1, say."
            )
        valid = self._tuning.valid if self._budget.tune_on == "valid" else 0
        settings = {"data": default_data(), **self._tuning.settings}
        return RunConfig(self._problem, self._optimizer, lr or 1.0, seed=self._seed, valid=valid, **settings)

    def _checked(self) -> Plan:
        """The plan at a point of the search space; every end of it can be run."""
        try:
            plans = [make_plan(point(self._base, values)) for values in corners(self._spaces)]
        except ConfigError as error:
            if error.field != "valid":
                raise
            raise ConfigError(
                f"{option('tune_on')} valid: {error.told(option).rstrip('.')} of {self._problem}, or judge trials by "
                f"the test set: {option('tune_on')} test."
            ) from error
        if self._budget.tune_on == "valid" and not plans[0].valid:
            raise ConfigError(f"{option('tune_on')} valid needs examples to judge by: {option('valid')} 1000, say.")
        return plans[0]

    def _check_grid(self) -> None:
        size, most = getattr(self._sampler, "size", 0), self._budget.trials or 0
        if size > most and self._in("trials"):
            raise ConfigError(
                f"{option('search')}: {size} settings of {self._optimizer}, but the budget {self._budget.name} has "
                f"{most} trials. Search fewer values."
            )

    def _make_pruning(self) -> Any:
        pruner = self._tuning.chosen_pruner()
        if pruner is None:
            return None
        from deepobs_func.study.optuna_samplers import Pruning

        return Pruning(pruner, self._epochs)

    def _next_trials(self) -> list[Asked]:
        """The next round, as far as the budget goes."""
        found: list[Asked] = []
        one_by_one = self._tuning.chosen_sampler().adaptive or self._pruning is not None or not self._in("trials")
        size = self._tuning.at_once if one_by_one else self._budget.trials or 0
        while not self._is_sampled and len(found) < size and self._is_affordable(len(self._trials) + len(found)):
            values = self._sampler.ask()
            if values is None:
                break
            found.append(self._trial(len(self._trials) + len(found), values))
        self._is_sampled = self._is_sampled or not found
        return found

    def _is_affordable(self, number: int) -> bool:
        """Whether a trial may start: something is left of the budget. What it takes beyond that is stated."""
        spent = float(number) if self._in("trials") else sum(trial.cost for trial in self._trials)
        return spent < self._amount and number < MOST * (self._budget.trials or 0)

    def _trial(self, number: int, values: dict[str, Any]) -> Asked:
        config = point(self._base, values)
        asked = self._asked(config, number, values, "tuning", prune=self._pruning is not None)
        if asked.prune:
            self._pruned[number] = self._pruning.start(number)
        return asked

    def _asked(
        self, config: RunConfig, number: int, values: Mapping[str, Any], role: str, prune: bool = False
    ) -> Asked:
        about = {**self._facts, "role": role, "trial": number}
        return Asked(config, make_plan(config).run_id, about, number, values, prune)

    def _end_trial(self, each: Asked) -> None:
        """Adds a trial; they come in the order of their numbers."""
        out, record = each.outcome, each.outcome.record
        if out.status == "stopped" and not each.prune:
            raise UserError(
                f"Trial {each.number} was stopped by an earlier study ({getattr(record, 'path', None)}); this one has "
                f"no pruner. Remove that file, or name another folder with {option('output_dir')}."
            )
        losses = self._metric.losses(log_of(record)) if record is not None else []
        loss = math.inf if out.status == "failed" else self._metric.loss(record)
        told = Told(loss, losses, out.status == "stopped")
        if each.prune:
            self._pruning.end(self._pruned.pop(each.number), told)
        self._sampler.tell(told)
        self._on_test.append(reported(record, each.config.seed, each.run_id, out.status))
        self._trials.append(
            Trial(
                each.number,
                each.config.seed,
                each.values,
                each.run_id,
                out.status,
                self._metric.shown(loss),
                loss,
                self._cost(out),
                None if record is None else record.path,
            )
        )

    def _cost(self, outcome: Any) -> float:
        found = cost(outcome.record, self._tuning.unit)
        if found is None and outcome.status not in ("failed", "diverged"):
            raise UserError(
                f"{self._optimizer} does not say how many gradients it asks for, so a budget of gradients cannot be "
                "kept. Count trials or seconds."
            )
        return found or 0.0

    def _reports(self) -> list[Asked]:
        """The winner on the reported seeds, of which several studies have a share each."""
        winner = self.result().winner
        if winner is None or self._reported:
            return []
        if self._budget.report_tuning_seed:
            self._reported.append(self._on_test[winner.number])
        config = point(self._base, winner.values)
        return [
            self._asked(replace(config, seed=seed), winner.number, winner.values, "report") for seed in self._seeds()
        ]

    def _seeds(self) -> tuple[int, ...]:
        return self._budget.seeds[self._study :: self._budget.studies]

    def _complete(self) -> None:
        self._is_complete = True
        self._write()

    def _make_facts(self) -> dict[str, Any]:
        """What every record of the tuning states."""
        tuning, budget = self._tuning, self._budget
        own = [self._seed] if budget.report_tuning_seed else []
        facts = {
            "budget": budget.name,
            "unit": tuning.unit,
            "amount": self._amount,
            "sampler": tuning.chosen_sampler().name,
            "pruner": tuning.pruner,
            "study": self._study,
            "studies": budget.studies,
            "metric": self._metric.name,
            "tuning_seed": self._seed,
            "reported_seeds": [*own, *self._seeds()],
            "search": {name: each.plain() for name, each in self._spaces.items()},
        }
        if self._in("gradients"):
            facts["counted"] = dict(records.GRADIENTS)
        about = {**facts, "configuration": identity(self._base), "budget": asdict(budget), "at_once": tuning.at_once}
        return {"tuning": records.run_id(json.loads(json.dumps(about, default=repr)))[:16], **facts}

    @property
    def _path(self) -> Path | None:
        """In the state folder, named by what decides the trials."""
        if self._output_dir is None:
            return None
        parts = (self._problem, self._optimizer, self._budget.name, f"study_{self._study}", self._facts["tuning"])
        name = re.sub(r"[^A-Za-z0-9._-]", "_", "__".join(parts))[-240:]
        return records.state_dir(self._output_dir) / "tuning" / f"{name}.json"

    def _write(self) -> None:
        path = self._path
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {**self._facts, **self.result().as_plain_data()}
        files.replace(path, json.dumps(content, indent=1, default=repr).encode())
