"""What a study will take, from a few steps of each kind of run."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import NamedTuple

from deepobs_func.datasets.loading import SYNTHETIC, is_missing
from deepobs_func.errors import UserError
from deepobs_func.imports import cause
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.events import Evaluated
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.training import Training
from deepobs_func.study.jobs import Job

MEASURED = 1.0  # seconds of steps, for each kind of run


class Missing(NamedTuple):
    """A data set that is not there, so that the first run that needs it downloads it.

    Attributes:
        title: of the data set.
        data: the folder that runs look in.
        runs: how many need it.
    """

    title: str
    data: str
    runs: int


@dataclass(frozen=True)
class Estimate:
    """What runs of one kind take, in eager code and one after the other.

    Attributes:
        problem, optimizer: of the runs.
        runs: how many are left to be run.
        seconds: of one run, on a stand-in where its data are missing; NaN where steps of it cannot be made.
        error: why they cannot; else "".
    """

    problem: str
    optimizer: str
    runs: int
    seconds: float
    error: str = ""

    @property
    def total(self) -> float:
        """Seconds of all of them."""
        return self.runs * self.seconds


def missing_data(jobs: Iterable[Job]) -> list[Missing]:
    """The data sets that runs need and that are not there. Nothing is downloaded.

    Args:
        jobs: the runs.

    Raises:
        DataError: what should be a data folder is none.
    """
    kinds = Counter[tuple[str, str]]()
    examples: dict[tuple[str, str], Job] = {}
    for job in jobs:
        kind = (str(job.config.problem), str(job.config.data))
        kinds[kind] += 1
        examples.setdefault(kind, job)
    found = Counter[tuple[str, str]]()
    for kind, job in examples.items():
        spec = job.plan().problem.dataset
        if is_missing(spec, kind[1]):
            found[spec.title, kind[1]] += kinds[kind]
    return [Missing(*where, runs) for where, runs in found.items()]


def estimate(jobs: Iterable[Job], *, watch: Callable[[str], None] = lambda label: None) -> list[Estimate]:
    """Times an evaluation and some steps of each kind of run, and writes nothing.

    Args:
        jobs: the runs that are left.
        watch: is told what is timed.

    Returns:
        An estimate for each problem, optimizer, number of epochs and batch size. Compiled, runs are faster.
    """
    kinds: dict[tuple[object, ...], list[RunConfig]] = {}
    for job in jobs:
        config = job.config
        kinds.setdefault((config.problem, config.optimizer, config.epochs, config.batch_size), []).append(config)
    found = []
    for configs in kinds.values():
        watch(f"{configs[0].problem} {configs[0].optimizer}")
        found.append(_of(configs[0], len(configs)))
    return found


def _of(config: RunConfig, runs: int) -> Estimate:
    try:
        seconds, error = seconds_of(config), ""
    except UserError as mistake:  # its words say what to do, and where it was found does not matter
        seconds, error = math.nan, str(mistake)
    except (Exception, SystemExit) as raised:  # whatever an optimizer raises
        seconds, error = math.nan, cause(raised)
    return Estimate(config.problem, config.optimizer, runs, seconds, error)


def seconds_of(config: RunConfig) -> float:
    """Seconds of a run: its evaluations and its steps, of which some are made.

    Args:
        config: the run; it is executed in eager code, on a stand-in where its data are missing.
    """
    config = replace(config, output_dir=None, train_log_interval=1, track=(), on_divergence="continue")
    plan = make_plan(config)
    data = plan.problem.dataset
    if data.stand_in and is_missing(data, config.data):
        plan = make_plan(replace(config, data=SYNTHETIC))
    training = Training(plan, Execution(reason="an estimate"))
    steps, spent = 0, 0.0
    with closing(training(training.start())) as iteration:
        first = next(iteration)
        assert isinstance(first, Evaluated), "a run begins with an evaluation"
        evaluation = first.log.timings["evaluate"][0]
        start = time.perf_counter()
        for event in iteration:
            spent = time.perf_counter() - start
            if isinstance(event, Evaluated) or spent > MEASURED:
                break
            steps += 1
    per_step = spent / max(steps, 1)
    return plan.epochs * (plan.steps_per_epoch * per_step + evaluation) + evaluation


def total(estimates: Sequence[Estimate], jobs: int = 1) -> float:
    """Seconds of all runs that can be timed, so many at a time.

    >>> total([Estimate("two_d_beale", "adam", 10, 2.0)], jobs=2)
    10.0
    """
    return sum(each.total for each in estimates if not each.error) / jobs


def by_stage(stages: Iterable[str]) -> dict[str, int]:
    """How many runs are at each stage, in the order in which they are met."""
    return dict(Counter(stages))
