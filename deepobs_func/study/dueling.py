"""A duel: two optimizers on one problem, with as many seeds as it takes, and no more.

Each seed is run with both, and the difference of their final metrics joins an interval that holds at every number of
seeds at once (`study.sequential`). It ends when the interval is certain of "A", "B" or "tie within delta", or when the
budget of seeds is spent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from deepobs_func.errors import ConfigError, UserError, option
from deepobs_func.runner.config import RunConfig
from deepobs_func.study.judging import Metric
from deepobs_func.study.sequential import Answer, Bounds, answer_of, find_test, running

LEAST = 4  # seeds, before which no interval has an end
_OWN = (  # what the two may differ in
    *("optimizer", "lr", "hyperparams", "schedule", "warm_up", "decay_factor", "lr_sched_epochs", "lr_sched_factors"),
    *("clip_norm", "clip_value", "seed", "track", "track_every", "track_bn"),
)


@dataclass(frozen=True)
class Delta:
    """The largest difference that is a tie.

    Attributes:
        value: in units of the metric; of a relative one, a share of the mean of B.
        relative: whether it is one.
    """

    value: float
    relative: bool = False

    def __post_init__(self) -> None:
        if not (self.value > 0 and math.isfinite(self.value)):
            raise ConfigError(f"{option('delta')} {self}: it must be positive, such as 0.005 or 1%.")

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"


@dataclass(frozen=True)
class Dueling:
    """What is compared, and how sure it must be.

    Attributes:
        a, b: the two; their seeds do not count. They differ in the optimizer and its settings alone.
        delta: the largest difference that is a tie; None for half a point of accuracy or 1 % of a loss.
        level: of certainty; a wrong answer is given with probability `1 - level` at most, whenever it is given.
        test: `"t"`, of means of normal differences, or `"sign"`, of medians of any.
        seeds: which, in this order; their number is the budget.
        metric: `"accuracy"` or `"loss"` on the test set after the last epoch; None for what the problem is judged by.
        names: of A and B.
    """

    a: RunConfig
    b: RunConfig
    delta: Delta | None = None
    level: float = 0.95
    test: str = "t"
    seeds: Sequence[int] = tuple(range(42, 72))
    metric: str | None = None
    names: tuple[str, str] = ("A", "B")

    def check(self) -> None:
        """Checks what can be checked before anything is run.

        Raises:
            ConfigError: the two differ in more than their optimizers, or not at all, or an option is none.
        """
        find_test(self.test)
        if not 0.0 < self.level < 1.0:
            raise ConfigError(f"{option('level')} {self.level}: it must lie between 0 and 1, such as 0.95.")
        if self.metric not in (None, "accuracy", "loss"):
            raise ConfigError(f"{option('metric')} {self.metric}: it must be accuracy or loss.")
        seeds = list(self.seeds)
        if len(seeds) < LEAST or len(set(seeds)) < len(seeds):
            raise ConfigError(f"{option('max_seeds')} {len(set(seeds))}: nothing is certain before {LEAST} seeds.")
        for each in fields(RunConfig):
            a, b = getattr(self.a, each.name), getattr(self.b, each.name)
            if each.name not in _OWN and a != b:
                raise ConfigError(f"A has {option(each.name)} {a} and B {b}: what is not of the optimizer is the same.")
        if replace(self.a, seed=0) == replace(self.b, seed=0):
            raise ConfigError("A and B are the same: give two optimizers, or two settings of one.")


@dataclass
class Standings:
    """How a duel stands.

    Attributes:
        dueling: what is compared.
        metric: `"accuracy"` or `"loss"`, of the test set after the last epoch.
        delta: what counts as a tie.
        values: of A and B, in the order of the seeds; a run that diverged is infinitely bad.
        bounds: the interval of the difference, positive where A is better, after each seed.
        answer: `"A"`, `"B"`, `"tie"`, or `"undecided"`.
        reason: why it is undecided; "" while it goes on.
    """

    dueling: Dueling
    metric: str
    delta: Delta
    values: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    bounds: list[Bounds] = field(default_factory=list)
    answer: Answer = "undecided"
    reason: str = ""

    @property
    def winner(self) -> str | None:
        """The name of the better one; None for a tie or no decision."""
        return dict(zip("AB", self.dueling.names, strict=True)).get(self.answer)

    @property
    def seeds(self) -> list[int]:
        """That the answer rests on."""
        return list(self.dueling.seeds)[: len(self.values[0])]

    @property
    def is_over(self) -> bool:
        """Whether nothing more is run."""
        return self.answer != "undecided" or bool(self.reason)

    @property
    def differences(self) -> list[float]:
        """How much better A was, for each seed; 0 where both diverged."""
        sign = 1.0 if self.metric == "accuracy" else -1.0
        return [0.0 if a == b else sign * (a - b) for a, b in zip(*self.values, strict=True)]

    def __str__(self) -> str:
        a, b = self.dueling.names
        said = {
            "A": f"{a} is better than {b}",
            "B": f"{b} is better than {a}",
            "tie": f"{a} and {b} tie within {self.delta}",
            "undecided": f"{a} or {b}: undecided",
        }[self.answer]
        low, high = self.bounds[-1] if self.bounds else Bounds(-math.inf, math.inf)
        what = "mean" if self.dueling.test == "t" else "median"
        said += f" after {len(self.values[0])} seeds: {what} difference of test {self.metric} in favour of {a} in "
        said += f"[{low:.4g}, {high:.4g}] at {self.dueling.level:.3g}"
        return f"{said} ({self.reason})" if self.reason else said

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, for JSON; what is infinite is None."""
        low, high = self.bounds[-1] if self.bounds else Bounds(-math.inf, math.inf)
        return {
            "answer": self.answer,
            "winner": self.winner,
            "names": list(self.dueling.names),
            "problem": self.dueling.a.problem,
            "metric": f"test_{self.metric}",
            "level": self.dueling.level,
            "test": self.dueling.test,
            "delta": str(self.delta),
            "synthetic": self.dueling.a.data == "synthetic",
            "seeds": self.seeds,
            "values": [[each if math.isfinite(each) else None for each in column] for column in self.values],
            "difference": [each if math.isfinite(each) else None for each in (low, high)],
            "reason": self.reason,
        }

    def add(self, a: float, b: float) -> None:
        """Counts the next seed.

        Args:
            a, b: the final metric of both.
        """
        for column, value in zip(self.values, (a, b), strict=True):
            column.append(value)
        if self.dueling.test == "t" and not all(map(math.isfinite, self.differences)):
            which = " and ".join(n for n, value in zip(self.dueling.names, (a, b), strict=True) if math.isinf(value))
            self.reason = f"seed {self.seeds[-1]} of {which} diverged, so that there is no mean; --test sign counts it"
            return
        test, level = find_test(self.dueling.test), self.dueling.level
        self.bounds = running(self.differences, level, test)
        self.answer = self._answer(self.bounds[-1])
        if self.answer == "undecided" and len(self.values[0]) == len(self.dueling.seeds):
            self.reason = f"the budget of {len(self.dueling.seeds)} seeds is spent"

    def _answer(self, bounds: Bounds) -> Answer:
        """A relative tie is one of `A - (1 +- delta) B`, whose intervals hold as well, each on its side."""
        if not self.delta.relative:
            return answer_of(bounds, self.delta.value)
        test, level = find_test(self.dueling.test), self.dueling.level
        allowed = [self.delta.value * abs(b) if math.isfinite(b) else 0.0 for b in self.values[1]]
        pairs = list(zip(self.differences, allowed, strict=True))
        above = running([each - tolerance for each, tolerance in pairs], level, test)[-1].high
        below = running([each + tolerance for each, tolerance in pairs], level, test)[-1].low
        return "tie" if above <= 0.0 <= below else answer_of(bounds, None)


class RunPool(Protocol):
    """What runs the seeds, such as a `study.pool.Pool`."""

    def submit(self, config: RunConfig) -> Any:
        """Takes a run, and returns what has its `run_id`."""

    def next(self) -> Any:
        """The next outcome: `run_id`, `status`, `record`, `error`."""


Watch = Callable[[Standings], None]


def duel(
    dueling: Dueling,
    make_pool: Callable[[], AbstractContextManager[RunPool]] | None = None,
    watch: Watch = lambda standings: None,
    *,
    jobs: int = 1,
) -> Standings:
    """Runs two optimizers seed by seed until it is certain which is better, or that they tie, or the budget is spent.

    Seeds count in their order, whichever ends first, so that the answer depends on neither `jobs` nor interruptions.
    Runs that are finished in the results tree are not run again; half-done ones go on.

    Args:
        dueling: what is compared.
        make_pool: what runs the seeds; by default a `Pool` in the results tree of A.
        watch: is shown the standings after each seed.
        jobs: how many runs at a time.

    Returns:
        The standings at the end.

    Raises:
        ConfigError: something cannot be; nothing was run.
        UserError: a run failed or was cancelled.
    """
    dueling.check()
    standings = _standings(dueling)
    judge = Metric("test", "final", accuracy=standings.metric == "accuracy")
    ended: dict[str, float] = {}
    pairs: list[tuple[str, str]] = []
    seeds = iter(dueling.seeds)
    with (make_pool or _default_pool(dueling, jobs))() as pool:

        def submit(count: int) -> None:
            for _, seed in zip(range(count), seeds, strict=False):  # in this order: none is lost
                configs = (replace(each, seed=seed) for each in (dueling.a, dueling.b))
                a, b = (pool.submit(each).run_id for each in configs)
                pairs.append((a, b))

        submit(max(1, jobs // 2))
        while not standings.is_over:
            outcome = pool.next()
            if outcome.status not in ("finished", "diverged"):
                raise UserError(f"A run of the duel {outcome.status}, seed {outcome.config.seed}: {outcome.error}")
            loss = judge.loss(outcome.record)
            ended[outcome.run_id] = -loss if judge.accuracy else loss
            while not standings.is_over and len(standings.values[0]) < len(pairs):
                a, b = pairs[len(standings.values[0])]
                if a not in ended or b not in ended:
                    break
                standings.add(ended[a], ended[b])
                watch(standings)
                if not standings.is_over:
                    submit(1)
    return standings


def _standings(dueling: Dueling) -> Standings:
    """Before the first seed."""
    from deepobs_func.runner.plan import make_plan

    plans = [make_plan(each) for each in (dueling.a, dueling.b)]
    if plans[0].run_id == plans[1].run_id:
        raise ConfigError("A and B are the same: give two optimizers, or two settings of one.")
    has_accuracy = plans[0].problem.has_accuracy
    metric = dueling.metric or ("accuracy" if has_accuracy else "loss")
    if metric == "accuracy" and not has_accuracy:
        raise ConfigError(f"{option('metric')} accuracy: {plans[0].problem.name} has none. Take loss.")
    return Standings(dueling, metric, dueling.delta or DELTAS[metric])


DELTAS = {"accuracy": Delta(0.005), "loss": Delta(0.01, relative=True)}
"""What counts as a tie unless the user says otherwise: a port's usual tolerances."""


def _default_pool(dueling: Dueling, jobs: int) -> Callable[[], AbstractContextManager[RunPool]]:
    def make() -> AbstractContextManager[RunPool]:
        from deepobs_func.study.pool import Pool

        return Pool(dueling.a.output_dir or "results", jobs=jobs)

    return make
