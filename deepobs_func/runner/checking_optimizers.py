"""A look at an optimizer before a study is built on it: is it pure, what it asks for, where it goes, what it costs."""

from __future__ import annotations

import functools
import inspect
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import optimizers, random
from deepobs_func.backend.allocations import allocations
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.generators import generators, kept
from deepobs_func.backend.threads import num_threads
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.imports import cause, load_object
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.factories import UnusedRateError
from deepobs_func.probes.differences import relative_distance
from deepobs_func.problems.oracle import Oracle
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.checking import MEMBERS, TOLERANCE, Finding
from deepobs_func.runner.config import is_path
from deepobs_func.runner.population.step import make_step_of_all
from deepobs_func.runner.step import make_gradient, make_step
from deepobs_func.runner.trial import Trial, trial_problem, trial_with_batch_norm, trial_without_ggn

RATES = tuple(10.0**power for power in range(-6, 2))
USUAL_RATE = 1e-2  # where nothing names one
STEPS, FEW = 40, 3
ROUNDS = 7  # in which steps take turns
GAIN = 0.98  # of the loss: what counts as going down


def examine_optimizer(
    name: str,
    value: Any = None,
    *,
    lr: float | None = None,
    hyperparams: Mapping[str, Any] | None = None,
    problem: Problem | None = None,
    compile: bool = True,
) -> Iterator[Finding]:
    """Tries an optimizer on a small problem, in float32; about a minute with compilation.

    Args:
        name: of the optimizer, or the import path of one, of a class of torch optimizers or of a function that makes
            one; of a `value`, what it is called.
        value: an optimizer of the user's own, as `run` takes it.
        lr: the learning rate of all checks but that of learning rates; by default the optimizer's own.
        hyperparams: besides the learning rate.
        problem: what it is tried on, on random batches; by default one with a convolution, a dense layer and biases,
            and then also one with batch norm and one without a GGN.
        compile: whether its step is compiled too.

    Yields:
        The findings, one by one.

    Raises:
        ConfigError: there is no such optimizer, or it does not take these hyperparameters.

    >>> [finding.check for finding in examine_optimizer("sgd", compile=False)][:4]
    ['kind', 'steps', 'pure', 'asks for']
    """
    trial = Trial(name, value, hyperparams or {}, problem or trial_problem())
    findings = _findings(trial, lr, everywhere=problem is None, compile=compile)
    while True:
        with kept(), num_threads(1 if problem is None else None):  # of so small a net several wait for each other
            finding = next(findings, None)
        if finding is None:
            return
        yield finding


def _findings(trial: Trial, lr: float | None, *, everywhere: bool, compile: bool) -> Iterator[Finding]:
    """All findings; on other problems too, if everywhere."""
    rate = lr if lr is not None else _usual_rate(trial.name, trial.value)
    try:
        optimizer = trial.at(rate)
    except UnusedRateError as error:
        if lr is not None:
            raise
        rate = error.rates[0]  # of a factory that takes none
        optimizer = trial.at(rate)
    kind = "functional" if optimizer.compiles else "of torch, whose state is changed in place: not compiled, no vmap"
    yield Finding("kind", None, f"{kind}; checked at lr={rate:g}")
    failure = _steps(trial, optimizer)
    yield failure or Finding("steps", True, f"{FEW} steps keep shapes and types, and are finite")
    if failure is not None:
        return
    yield _pure(trial, optimizer)
    yield _asked(trial, optimizer)
    if everywhere:
        yield _elsewhere(trial, rate, "batch norm", trial_with_batch_norm())
        yield _elsewhere(trial, rate, "a loss without a GGN", trial_without_ggn())
    yield _resumed(trial, optimizer)
    yield _population(trial, optimizer)
    yield _rates(trial, rate)
    if compile:
        yield _compiled(trial, optimizer)
    yield _cost(trial, optimizer)


def _usual_rate(name: str, value: Any) -> float:
    """The learning rate that an optimizer has of its own, or by default."""
    if value is None and name in optimizers.FUNCTIONAL:
        return optimizers.FUNCTIONAL[name].lr or USUAL_RATE
    found = _named(name, value)
    if isinstance(found, Optimizer):
        try:
            return float(found.init({"parameter": torch.zeros(1)}, random.key(0)).hyper["lr"])
        except Exception:  # a state of another kind says nothing of a learning rate
            return USUAL_RATE
    if not callable(found):
        return USUAL_RATE
    default = getattr(inspect.signature(found).parameters.get("lr"), "default", None)
    return float(default) if isinstance(default, int | float) and not isinstance(default, bool) else USUAL_RATE


def _named(name: str, value: Any) -> Any:
    """What an import path leads to, or the value."""
    return load_object(name, "optimizer") if value is None and is_path(name) else value


def _steps(trial: Trial, optimizer: Optimizer) -> Finding | None:
    """What is wrong with a few steps; None where nothing is."""
    try:
        carry = trial.after(optimizer, 1)
        wrong = {
            name: f"{tuple(leaf.shape)} {leaf.dtype}"
            for name, leaf in carry.params.items()
            if leaf.shape != trial.problem.shapes.get(name) or leaf.dtype != torch.float32
        }
        if wrong or carry.params.keys() != trial.problem.shapes.keys():
            found = wrong or list(carry.params)
            return Finding("steps", False, f"a step returned other parameters than it was given: {found}")
        carry = trial.after(optimizer, FEW)
    except Exception as error:  # whatever a user's code raises
        return Finding("steps", False, f"a step raised {cause(error)}")
    if not all(bool(leaf.isfinite().all()) for leaf in carry.params.values()):
        return Finding("steps", False, f"the parameters are not finite after {FEW} steps; give another lr")
    return None


def _leaves(tree: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(tree) if isinstance(leaf, Tensor)]


def _copied(tree: Any) -> list[Tensor]:
    return [leaf.detach().clone() for leaf in _leaves(tree)]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def _pure(trial: Trial, optimizer: Optimizer) -> Finding:
    """Whether a step is a function of what it is given; of torch's classes, whether two runs are the same."""
    step, before = make_step(trial.problem, optimizer), generators()
    carry = trial.after(optimizer, 1, step)
    params, given = _copied(carry.params), _copied(tuple(carry)) if optimizer.compiles else []
    one = step(carry, trial.batch(1))[0]
    drew = [name for name, state in generators().items() if state != before[name]]
    faults = [f"it draws from the generator of {', '.join(drew)}"] if drew else []
    faults += [] if _equal(params, _leaves(carry.params)) else ["it changes the parameters that it is given in place"]
    if optimizer.compiles:
        changed = not faults and not _equal(given, _leaves(tuple(carry)))
        faults += ["it changes its state in place"] if changed else []
        again, what = step(carry, trial.batch(1))[0], "two steps from one state"
    else:
        again, what = trial.after(optimizer, 2), "two runs under one key"
    faults += [] if _equal(_leaves(one.params), _leaves(again.params)) else [f"{what} differ"]
    return Finding("pure", not faults, "; ".join(faults) or f"{what} agree, and nothing else changes")


class _Asked:
    """An oracle that notes what it is asked, here and at other points."""

    def __init__(self, oracle: Any, notes: list[str]) -> None:
        self._oracle, self._notes = oracle, notes

    def __getattr__(self, name: str) -> Any:
        self._notes.append(name)
        return getattr(self._oracle, name)

    def at(self, params: Params) -> _Asked:
        self._notes.append("at")
        return _Asked(self._oracle.at(params), self._notes)


def _asked(trial: Trial, optimizer: Optimizer) -> Finding:
    """The questions of one step, each with how often it is asked; value and gradient are one computation."""
    notes: list[str] = []
    carry, differentiate = trial.start(optimizer), make_gradient(trial.problem, optimizer)
    oracle: Any = _Asked(Oracle(trial.problem, differentiate, carry.params, trial.batch(0)), notes)
    optimizer.update(oracle, carry.opt_state, carry.params)
    counts = {name: notes.count(name) for name in notes}
    words = [name if count == 1 else f"{name} ({count} times)" for name, count in counts.items()]
    return Finding("asks for", None, ", ".join(words) or "nothing")


def _elsewhere(trial: Trial, lr: float, what: str, problem: Problem) -> Finding:
    """Whether it goes on another kind of problem."""
    other = replace(trial, problem=problem)
    try:
        failure = _steps(other, other.at(lr))
    except ConfigError as error:
        return Finding(f"on {what}", None, f"refused: {error}")
    if failure is None:
        return Finding(f"on {what}", None, "goes")
    return Finding(f"on {what}", False, f"{failure.found}; let its check refuse such a problem")


def _resumed(trial: Trial, optimizer: Optimizer) -> Finding:
    """Whether it goes on from a snapshot of its state as if nothing had happened."""
    carry = trial.after(optimizer, FEW)
    try:
        kept = pytree.tree_map(
            lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, optimizer.save(carry.opt_state)
        )
        params = {name: leaf.clone() for name, leaf in carry.params.items()}
        loaded = carry._replace(params=params, opt_state=optimizer.load(kept, params, random.key(0)))
        whole, resumed = (trial.after(optimizer, FEW, carry=each) for each in (carry, loaded))
    except Exception as error:  # whatever a user's code raises
        return Finding("resumed", False, f"its state cannot be saved and loaded: {cause(error)}")
    same = _equal(_leaves(whole.params), _leaves(resumed.params))
    return Finding("resumed", same, "bit for bit" if same else "another run than without the break: save() is not all")


def _population(trial: Trial, optimizer: Optimizer) -> Finding:
    """Members of several seeds by `vmap`, beside each alone."""
    name = "alone and in a population"
    if not optimizer.compiles:
        return Finding(name, None, "one after the other, which is the same run")
    starts = [trial.start(optimizer, seed) for seed in range(MEMBERS)]
    try:
        carry = pytree.tree_map(lambda *leaves: torch.stack(leaves).unsqueeze(0), *starts)
        step = make_step_of_all(trial.problem, optimizer)
        for number in range(FEW):
            batch = pytree.tree_map(lambda leaf: leaf.unsqueeze(0), trial.batch(number))
            carry, _ = step(carry, {}, batch)
    except Exception as error:  # whatever a user's code raises under vmap
        return Finding(name, False, f"under vmap a step raised {cause(error)}")
    apart = 0.0
    for member, start in enumerate(starts):
        alone = trial.after(optimizer, FEW, carry=start).params
        together = [leaf[0, member] for leaf in carry.params.values()]
        apart = max(apart, relative_distance(together, list(alone.values())))
    return Finding(name, apart < TOLERANCE, f"{apart:.1e} apart after {FEW} steps of {MEMBERS} members by vmap")


def _rates(trial: Trial, lr: float) -> Finding:
    """Where training stays finite, and where the loss goes down."""
    sample, found, refused = trial.batch(0), dict[float, float](), dict[float, str]()
    fixed = isinstance(_named(trial.name, trial.value), Optimizer) or not _takes_rate(trial, lr)
    params, _ = trial.problem.init(0)
    before = float(trial.problem.loss(params, sample).mean())
    for rate in (lr,) if fixed else RATES:
        try:
            optimizer = trial.at(rate)
        except ConfigError as error:
            refused[rate] = str(error)
            continue
        try:
            carry = trial.after(optimizer, STEPS)
            found[rate] = float(trial.problem.loss(optimizer.eval_params(carry.opt_state, carry.params), sample).mean())
        except Exception as error:  # whatever a user's code raises on numbers that are not finite
            return Finding("learning rates", False, f"at {rate:g} a step raised {cause(error)}")
    ends = f"; refused at {_span(list(refused))}: {next(iter(refused.values()))}" if refused else ""
    finite = [rate for rate, loss in found.items() if math.isfinite(loss)]
    better = [rate for rate in finite if found[rate] < GAIN * before]
    if not better:
        words = f"finite at {_span(finite)}; the loss, {before:.3g}, falls nowhere in {STEPS} steps{ends}"
        return Finding("learning rates", False, words)
    best = min(better, key=lambda rate: found[rate])
    own = ", its own" if fixed else ""
    words = f"finite at {_span(finite)}{own}; the loss falls at {_span(better)}, from {before:.3g} to {found[best]:.3g}"
    return Finding("learning rates", True, f"{words} at {best:g}, in {STEPS} steps{ends}")


def _takes_rate(trial: Trial, lr: float) -> bool:
    """Whether a learning rate decides anything: not of a factory that has its own."""
    try:
        trial.at(lr / 2)
    except UnusedRateError:
        return False
    except ConfigError:  # it is looked at, and refused
        return True
    return True


def _span(rates: list[float]) -> str:
    if not rates:
        return "none of them"
    return f"{rates[0]:g}" if len(rates) == 1 else f"{rates[0]:g} to {rates[-1]:g}"


def _compiled(trial: Trial, optimizer: Optimizer) -> Finding:
    """A whole step as one graph, beside eager code."""
    if not optimizer.compiles:
        return Finding("compiled", None, "not as a whole; its gradient is, where a run is")
    step, start = make_step(trial.problem, optimizer), trial.start(optimizer)
    graph = compiled(step, trial.problem)
    began = time.perf_counter()
    try:
        graph(start, trial.batch(0))
        took = time.perf_counter() - began
        found = trial.after(optimizer, FEW, graph, start)
    except Exception as error:  # whatever cannot be traced
        return Finding("compiled", False, f"it cannot be traced to one graph: {cause(error)}")
    right = trial.after(optimizer, FEW, step, start)
    apart = relative_distance(list(found.params.values()), list(right.params.values()))
    words = f"one graph after {took:.0f} s, {apart:.1e} from eager code after {FEW} steps"
    return Finding("compiled", apart < TOLERANCE, words)


def _cost(trial: Trial, optimizer: Optimizer) -> Finding:
    """Time, allocations and state of a step, beside SGD's."""
    batch = trial.batch(0)
    both = (optimizer, replace(trial, name="sgd", value=None, hyperparams={}).at(USUAL_RATE))
    steps = [make_step(trial.problem, each, plain=True) for each in both]
    carries = [trial.after(each, FEW, step) for each, step in zip(both, steps, strict=True)]
    seconds: list[list[float]] = [[], []]
    for _ in range(ROUNDS):
        for index, step in enumerate(steps):
            began = time.perf_counter()
            carries[index], _metrics = step(carries[index], batch)
            seconds[index].append(time.perf_counter() - began)
    calls = [functools.partial(step, carry, batch) for step, carry in zip(steps, carries, strict=True)]
    mine, other = (allocations(call, torch.device("cpu")) for call in calls)
    time_of_mine, time_of_other = (1e3 * min(own) for own in seconds)
    state = _leaves(_state(optimizer, carries[0].opt_state))
    held = sum(leaf.nbytes for leaf in state if leaf.is_floating_point())  # no generators
    weights = sum(leaf.nbytes for leaf in carries[0].params.values())
    words = (
        f"{time_of_mine / time_of_other:.1f} of its time ({time_of_mine:.2f} and {time_of_other:.2f} ms a step, eager)",
        f"{mine.count / max(1, other.count):.1f} of its allocations",
        f"{mine.peak / max(1, other.peak):.1f} of its peak; a state of {held / weights:.1f} parameter vectors",
    )
    return Finding("beside SGD", None, ", ".join(words))


def _state(optimizer: Optimizer, opt_state: Any) -> Any:
    """What is held from step to step, as a tree."""
    try:
        return optimizer.save(opt_state)
    except ConfigError:  # it cannot be had
        return opt_state
