"""Tuning: every optimizer on every problem under the same budget, from the first trial to the seeds that are reported.

from deepobs_func.study import Tuning, tune

for tuned in tune(Tuning(["mnist_logreg"], ["adam", "momentum"], "random-20")):
    print(tuned.optimizer, tuned.winner.values, tuned.reported)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from deepobs_func import problems
from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.runner.config import SCHEDULES, RunConfig, is_path
from deepobs_func.study.budgets import UNITS, Budget, find_budget
from deepobs_func.study.pruners import PrunerSpec, find_pruner
from deepobs_func.study.samplers import SamplerSpec, find_sampler
from deepobs_func.study.searched import CONSTANT, row_of
from deepobs_func.study.tuned import Reported, Trial, Tuned

if TYPE_CHECKING:
    from deepobs_func.study.search import Search

__all__ = ["Reported", "RunPool", "Trial", "Tuned", "Tuning", "tune"]

Decide = Callable[[RunConfig, int, dict[str, list[float]]], str | None]
Watch = Callable[[Tuned], None]
_CHOSEN = ("problem", "optimizer", "lr", "hyperparams", "seed", "valid", "schedule", "warm_up")  # by tuning


class RunPool(Protocol):
    """What runs trials, such as a `study.pool.Pool` that was made with `decide`."""

    def submit(self, config: RunConfig, *, prune: bool = False, about: Mapping[str, Any] | None = None) -> Any:
        """Takes a run; with `prune`, its pool asks `decide` after each evaluation."""

    def next(self) -> Any:
        """The next outcome: `run_id`, `status`, `record`, `error`."""


@dataclass(frozen=True)
class Tuning:
    """What is tuned, and under which budget.

    Attributes:
        problems, optimizers: names or import paths.
        budget: a name (`budgets.BUDGETS`), such as `"published"` or `"random-20"`, or a `Budget`.
        trials, studies, tune_on, quantity, tuning_seed, seeds, report_tuning_seed, schedules: replace the budget's,
            unless they are None.
        sampler: of Optuna's, for `optuna-k`; None for the budget's own.
        pruner: of Optuna's (`pruners.PRUNERS`); None for none.
        unit: what the budget is counted in: `"trials"`, `"gradients"` or `"seconds"` of training.
        amount: of the unit, for each study; None for the budget's trials, or for as many gradients as these trials
            would take of an optimizer that asks for one a step.
        search: spaces by name, instead of those of the optimizers' rows or beside them; see `searched.spaces_for`.
        warm_ups: epochs of linear growth of the learning rate that are searched.
        valid: how many training examples are set aside where trials are judged by the validation split; True for as
            many as the test set has.
        at_once: how many trials are asked for at a time where the next ones depend on the last ones. The trials
            depend on it, so that it is not the number of jobs.
        settings: fields of `RunConfig` of every run, such as `epochs`, `data` and `output_dir`.
    """

    problems: Sequence[str]
    optimizers: Sequence[str]
    budget: str | Budget
    trials: int | None = None
    studies: int | None = None
    tune_on: str | None = None
    quantity: str | None = None
    tuning_seed: int | None = None
    seeds: Sequence[int] | None = None
    report_tuning_seed: bool | None = None
    schedules: Sequence[str] | None = None
    sampler: str | None = None
    pruner: str | None = None
    unit: str = "trials"
    amount: float | None = None
    search: Mapping[str, Any] = field(default_factory=dict)
    warm_ups: Sequence[float] | None = None
    valid: int | bool = True
    at_once: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    def chosen_budget(self) -> Budget:
        """The budget, with what replaces parts of it.

        Raises:
            ConfigError: there is no such budget, or a part is of no use.
        """
        names = ("trials", "studies", "tune_on", "quantity", "tuning_seed", "report_tuning_seed")
        changes = {name: getattr(self, name) for name in names}
        changes |= {name: _tuple(getattr(self, name)) for name in ("seeds", "schedules")}
        budget = find_budget(self.budget, **changes)
        if self.sampler not in (None, budget.sampler) and not budget.free:
            raise ConfigError(
                f"{option('sampler')} {self.sampler}: the budget {budget.name} has its own, {budget.sampler}. Take "
                f"{option('budget')} optuna-20, say, or drop it."
            )
        return budget

    def chosen_sampler(self) -> SamplerSpec:
        """The sampler of the trials.

        Raises:
            ConfigError: there is none of that name, or a package is missing.
        """
        return find_sampler(self.sampler or self.chosen_budget().sampler)

    def chosen_pruner(self) -> PrunerSpec | None:
        """The pruner; None for none.

        Raises:
            ConfigError: there is none of that name, or Optuna is missing.
        """
        return None if self.pruner is None else find_pruner(self.pruner)

    def check(self) -> None:
        """Checks what can be checked without a problem.

        Raises:
            ConfigError: something cannot be.
        """
        self.chosen_budget()
        self.chosen_sampler()
        self.chosen_pruner()
        for name in ("problems", "optimizers"):
            values = getattr(self, name)
            if isinstance(values, str) or not values or len(set(values)) < len(values):
                raise ConfigError(
                    f"{option(name.removesuffix('s'))} {values!r}: it must be a list of names, each once."
                )
        for name in self.problems:
            if not is_path(name):
                problems.spec_of(name)
        for name in self.optimizers:
            row_of(name)
        if self.unit not in UNITS:
            raise ConfigError(f"{option('budget_unit')} {self.unit}: {unknown('unit', self.unit, UNITS)}")
        if self.amount is not None and not self.amount > 0:
            raise ConfigError(f"{option('amount')} {self.amount}: it must be positive.")
        if self.unit == "seconds" and self.amount is None:
            raise ConfigError(f"{option('budget_unit')} seconds needs {option('amount')}, how many there are.")
        if self.unit == "trials" and self.amount is not None:
            raise ConfigError(f"{option('amount')} {self.amount}: trials are counted by the budget; drop it.")
        for name in self.schedules or ():
            if name not in (CONSTANT, *SCHEDULES):
                raise ConfigError(f"{option('schedules')} {name}: {unknown('schedule', name, (CONSTANT, *SCHEDULES))}")
        for name in ("schedules", "warm_ups"):
            if getattr(self, name) is not None and not getattr(self, name):
                raise ConfigError(f"{option(name)}: there is none; give one at least.")
        if self.at_once < 1:
            raise ConfigError(f"{option('at_once')} {self.at_once}: it must be a whole number from 1.")
        self._check_settings()

    def _check_settings(self) -> None:
        known = {each.name for each in fields(RunConfig)} - set(_CHOSEN)
        for name in self.settings:
            if name in _CHOSEN:
                raise ConfigError(f"The setting {name} is what tuning chooses; give it by {option('search')}.")
            if name not in known:
                raise ConfigError(unknown("setting", name, known))


def tune(
    tuning: Tuning,
    make_pool: Callable[[Decide], AbstractContextManager[RunPool]] | None = None,
    watch: Watch = lambda tuned: None,
    *,
    jobs: int = 1,
) -> tuple[Tuned, ...]:
    """Tunes each optimizer on each problem, and runs the winners on the reported seeds.

    What was done before is found in its records: the trials are asked for anew, in the same order, and those that are
    finished end at once. So a tuning that was killed goes on where it was, and finds the same winner.

    Args:
        tuning: what, and under which budget.
        make_pool: from `decide` to what runs the trials; by default a `Pool` in `settings["output_dir"]`.
        watch: is shown the state of a search whenever trials have ended.
        jobs: how many runs at a time, of the default pool.

    Returns:
        One result for each problem, optimizer and study, in this order.

    Raises:
        ConfigError: something cannot be; nothing was run.
        UserError: a trial was cancelled, or cannot be judged.
    """
    from deepobs_func.runner.plan import make_plan
    from deepobs_func.study.search import Search

    tuning.check()
    searches = [
        Search(tuning, problem, optimizer, study)
        for problem in tuning.problems
        for optimizer in tuning.optimizers
        for study in range(tuning.chosen_budget().studies)
    ]
    waiting: dict[str, list[Search]] = {}

    def decide(config: RunConfig, epoch: int, log: dict[str, list[float]]) -> str | None:
        run_id = make_plan(config).run_id
        return waiting[run_id][0].decide(run_id, log)

    with (make_pool or _default_pool(tuning, jobs))(decide) as pool:

        def submit(search: Search) -> None:
            for each in search.ask():
                waiting.setdefault(each.run_id, []).append(search)
                if len(waiting[each.run_id]) == 1:
                    pool.submit(each.config, prune=each.prune, about=each.about)

        for search in searches:
            submit(search)
        while waiting:
            outcome = pool.next()
            for search in waiting.pop(outcome.run_id):
                if search.take(outcome):
                    watch(search.result())
                    submit(search)
    return tuple(search.result() for search in searches)


def _default_pool(tuning: Tuning, jobs: int) -> Callable[[Decide], AbstractContextManager[RunPool]]:
    from deepobs_func.study.pool import Pool

    output_dir = tuning.settings.get("output_dir", "results")
    return lambda decide: Pool(output_dir, jobs=jobs, decide=decide)


def _tuple(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
