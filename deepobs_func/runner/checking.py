"""A look at a problem before a study is built on it: what it is, which derivatives are right, what compiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch.func import vmap
from torch.utils import _pytree as pytree

from deepobs_func.backend.compiling import compiled
from deepobs_func.base import Batch, Params
from deepobs_func.probes.catalog import MODES
from deepobs_func.probes.differences import raised, relative_distance
from deepobs_func.probes.per_example import explain
from deepobs_func.probes.ways import known
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem

MEMBERS, TOLERANCE = 3, 1e-4  # of the population that is compared, in float32


class Finding(NamedTuple):
    """One line of the examination.

    Attributes:
        check: what was looked at.
        good: whether it is as it should be; None where it is neither good nor bad.
        found: what was found.
    """

    check: str
    good: bool | None
    found: str


def examine_problem(problem: Problem, *, compile: bool = True) -> Iterator[Finding]:
    """Looks at a problem on a batch of random inputs, in float32; about a minute with compilation.

    Args:
        problem: any. That of a module was checked for purity and right derivatives when it was made.
        compile: whether its gradient is compiled too.

    Yields:
        The findings, one by one.

    >>> from deepobs_func import problems
    >>> [finding.check for finding in examine_problem(problems.get("quadratic_deep"), compile=False)][:3]
    ['parameters', 'pure', 'separable']
    """
    size = min(problem.batch_size, 32)
    params, state = problem.init()
    batch = problem.fake_batch(size)._replace(state=state)
    yield Finding("parameters", None, f"{sum(leaf.numel() for leaf in params.values()):,}")
    yield _pure(problem, params, batch)
    coupled = "no: per-example probes need bn=coupled" + (", frozen or eval" if problem.normalizes else "")
    yield Finding("separable", None, "yes" if problem.separable else coupled)
    yield Finding("noise", None, ", ".join(problem.noises) or "none")
    yield Finding("state", None, _state(problem, params, batch))
    bn = None if problem.separable else "eval" if problem.normalizes else "coupled"
    formulas = [way for way in explain(problem, params, bn=bn).values() if way.startswith("input")]
    yield Finding("per-example formulas", None, f"of {len(formulas)} of {len(params)} parameters")
    for mode in (*MODES, "jvp", "vmap"):
        fault = known(problem).faults.get(mode)
        yield Finding(f"derivatives by {mode}", fault is None, "right" if fault is None else fault)
    yield _population(problem, batch)
    plain = make_plain_value_and_grad(problem)
    yield Finding("gradient", None, f"{1000 * _seconds(lambda: plain(params, batch)):.2f} ms for {size} examples")
    if compile:
        yield _compiled(problem, params, batch)


def _pure(problem: Problem, params: Params, batch: Batch) -> Finding:
    one, other = problem.loss(params, batch), problem.loss(params, batch)
    same = torch.equal(one, other) and bool(one.isfinite().all())
    return Finding("pure", same, "two calls agree" if same else "two calls differ, or a loss is not finite")


def _state(problem: Problem, params: Params, batch: Batch) -> str:
    _, after = problem.loss_and_state(params, batch)
    before = batch.state.moments
    moved = [name for name, leaf in after.moments.items() if not torch.equal(leaf, before[name])]
    return f"{len(moved)} of {len(before)} moments move, {len(after.carry)} are carried"


def _population(problem: Problem, batch: Batch) -> Finding:
    """A population of a few seeds by `vmap` beside its members."""
    starts = [problem.init(seed) for seed in range(MEMBERS)]

    def of_member(params: Any, state: Any) -> Params:
        return make_value_and_grad(problem)(params, batch._replace(state=state)).grads

    try:
        params, state = pytree.tree_map(lambda *leaves: torch.stack(leaves), *starts)
        together = vmap(of_member)(params, state)
    except Exception as error:  # whatever a user's code raises under vmap
        return Finding("population by vmap", False, raised(error))
    apart = max(
        relative_distance([leaf[n] for leaf in together.values()], list(of_member(*start).values()))
        for n, start in enumerate(starts)
    )
    return Finding("population by vmap", apart < TOLERANCE, f"{apart:.1e} from its members")


def _compiled(problem: Problem, params: Params, batch: Batch) -> Finding:
    """Its gradient as one graph, beside eager code."""
    eager = make_value_and_grad(problem)
    function: Callable[..., Any] = compiled(eager, problem)
    try:
        began = time.perf_counter()
        found = function(params, batch)
        took = time.perf_counter() - began
        right = eager(params, batch)
    except Exception as error:  # whatever cannot be traced
        return Finding("compiled", False, raised(error))
    apart = relative_distance(list(found.grads.values()), list(right.grads.values()))
    after = 1000 * _seconds(lambda: function(params, batch))
    words = f"one graph after {took:.0f} s, {after:.2f} ms a gradient, {apart:.1e} from eager code"
    return Finding("compiled", apart < TOLERANCE, words)


def _seconds(call: Callable[[], Any], rounds: int = 3) -> float:
    """The shortest of a few calls."""
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return min(times)
