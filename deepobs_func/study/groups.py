"""Which runs a worker trains as one population."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.members import structure
from deepobs_func.study.jobs import Job
from deepobs_func.study.ledger import Ledger

# Of a step: above it, members do not gain by being trained side by side (docs/populations.md), and a run for each
# worker spreads better.
MOST_PRODUCTS = 4e6


def is_small(plan: Plan) -> bool:
    """Whether runs of a plan are worth being trained as one: functional, and parameters x batch size is small."""
    parameters = sum(shape.numel() for shape in plan.problem.shapes.values())
    is_simple = plan.optimizer.compiles and plan.workers is None and not plan.tracked
    return is_simple and parameters * plan.batch_size <= MOST_PRODUCTS


def groups(jobs: Sequence[Job], workers: int, ledger: Ledger) -> list[tuple[Job, ...]]:
    """Puts runs of one structure together, in as many equal parts as there are workers.

    What was together in an earlier sweep is so again: the rounding of a member depends on how many there are.

    Args:
        jobs: the runs, all different.
        workers: how many go on at a time.
        ledger: remembers who was together.

    Returns:
        Groups, in the order of their first runs; most are of one run.
    """
    by_id = {job.run_id: job for job in jobs}
    kept = ledger.setting("groups") or []
    found: list[tuple[Job, ...]] = []
    taken = set[str]()
    for group in kept:  # a study that was narrower for a while has groups of a part of others
        if by_id.keys() >= set(group) and taken.isdisjoint(group):
            found.append(tuple(by_id[run_id] for run_id in group))
            taken |= set(group)
    alike: dict[Hashable, list[Job]] = {}
    for job in jobs:
        if job.run_id not in taken:
            alike.setdefault(structure(job.config), []).append(job)
    new: list[tuple[Job, ...]] = []
    for each in alike.values():
        if len(each) > 1 and is_small(each[0].plan()):
            new += _parts(each, workers)
        else:
            new += [(job,) for job in each]
    several = [[job.run_id for job in group] for group in new if len(group) > 1]
    if several:
        ledger.setting("groups", [*kept, *several])
    place = {job.run_id: index for index, job in enumerate(jobs)}
    return sorted([*found, *new], key=lambda group: place[group[0].run_id])


def _parts(jobs: Sequence[Job], parts: int) -> list[tuple[Job, ...]]:
    """As equal as possible; each has a part of every stretch, since neighbours take equally long."""
    parts = min(parts, len(jobs))
    return [tuple(jobs[index::parts]) for index in range(parts)]
