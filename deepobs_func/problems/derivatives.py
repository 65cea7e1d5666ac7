"""What a problem that is made from a user's module offers of derivatives: right ones only.

Operations of torch whose derivatives are wrong or missing are computed by formulas (`probes.formulas`), except for the
plain gradient, for which torch's kernels are right. Then every way to a product is compared with finite differences in
float64 at a random point; one that is wrong is not offered, and the reason names the layer.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func.backend.kernels import using
from deepobs_func.base import BATCH_DIMS, Batch, Params, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.nets.ties import call_tied, names_of, places_of
from deepobs_func.probes.catalog import MODES
from deepobs_func.probes.differences import gradient, nodes, raised, relative_distance
from deepobs_func.probes.examination import examine, moved
from deepobs_func.probes.example_losses import fault_at_once
from deepobs_func.probes.formulas import Recorder, exactly
from deepobs_func.probes.jacobians import TensorsOf
from deepobs_func.probes.known import RIGHT
from deepobs_func.probes.ways import Ways
from deepobs_func.problems.conversion.phases import Phases
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.tree import Tree

EXAMPLES = 3  # of the batch of an examination: of two, batch norm makes 1 and -1, whose gradient is rounding alone


def chosen(problem: Problem) -> Problem:
    """The same problem with right derivatives, and with those ways left out that have none.

    Args:
        problem: made from a user's module and criterion, whose loss is known to be pure.

    Raises:
        ConfigError: the gradient cannot be computed, or is not that of the module by itself.
    """
    with torch.inference_mode(False), torch.enable_grad():
        return _examined(_with_formulas(problem))


def _examined(problem: Problem) -> Problem:
    """The problem with those ways left out that are not right."""
    params, batch = place(problem, torch.float32, torch.float64)
    _check_gradient(problem, params, batch)
    faults = {} if _is_known(problem, params, batch) else _faults(problem)
    fault = fault_at_once(problem.loss, params, batch, BATCH_DIMS) if problem.separable else None
    faults |= {} if fault is None else {"vmap": fault}
    if not faults:
        return problem
    mode = next((mode for mode in (problem.hvp_mode, *MODES) if mode not in faults), problem.hvp_mode)
    return replace(problem, ways=Ways(faults, _culprit(problem, faults)), hvp_mode=mode)


def _is_known(problem: Problem, params: Params, batch: Batch) -> bool:
    """Whether the loss goes through nothing but operations whose derivatives are known to be right."""
    leaves = {name: leaf.detach().requires_grad_() for name, leaf in params.items()}
    return nodes(problem.loss(leaves, batch).mean()) <= RIGHT


def _with_formulas(problem: Problem) -> Problem:
    """Formulas in the place of what the net and the criterion call of torch's that has one."""
    params, state = problem.init()
    batch = problem.fake_batch(EXAMPLES)._replace(state=state)
    with torch.no_grad():
        with Recorder() as of_net:
            outputs = problem.outputs(params, batch)
        with Recorder() as of_criterion:
            problem.criterion(outputs, batch)
    if of_net.called:
        assert isinstance(problem.call, Phases), "of a user's module"
        call = replace(problem.call, exact=True)  # of the same net, as it is described
        same = replace(problem.description, of=(problem.make_net, call, problem.dataset.shape))
        problem = replace(problem, call=call, description=same)
    if of_criterion.called:
        problem = replace(problem, measure=problem.measure._replace(losses=_exact_losses(problem.measure.losses)))
    return problem


def _exact_losses(losses: Callable[[Any, Batch], Tensor]) -> Callable[[Any, Batch], Tensor]:
    def exact_losses(outputs: Any, batch: Batch) -> Tensor:
        with exactly():
            return losses(outputs, batch)

    return exact_losses


def place(problem: Problem, *dtypes: torch.dtype) -> tuple[Params, Batch]:
    """A point near the initial one, and a batch, in the first of some types that the module goes with.

    Raises:
        ConfigError: the gradient cannot be computed in any of them.
    """
    error: Exception | None = None
    for dtype, of_targets in itertools.product(dtypes, (torch.float32, torch.float64)):
        params, state = problem.init(dtype=dtype)
        targets = problem.fake_batch(EXAMPLES, dtype=of_targets).y  # as a run has them, where the criterion can do so
        batch = problem.fake_batch(EXAMPLES, dtype=dtype)._replace(y=targets, state=state)
        try:
            gradient(functools.partial(_mean_loss, problem, batch), params)
        except Exception as found:  # what a user's code raises, on tensors of another type
            error = found
            continue
        return moved(params), batch
    assert error is not None, "a type that works has returned"
    raise ConfigError(f"The gradient of the module cannot be computed: it {raised(error)}. {MEND}") from error


def _mean_loss(problem: Problem, batch: Batch, params: Params) -> Tensor:
    return problem.loss(params, batch).mean()


MEND = (
    "A problem calls its module with other tensors as parameters (torch.func.functional_call), so that nothing in it "
    "may be computed again later: leave out activation checkpointing (torch.utils.checkpoint)."
)


def _check_gradient(problem: Problem, params: Params, batch: Batch) -> None:
    """Compares with a module that holds the parameters itself, as the user's own loop does."""
    given = {**params, **batch.state.moments}
    described = dict((*problem.net.named_parameters(), *problem.net.named_buffers()))
    memo: dict[int, Any] = {id(described[name]): leaf.detach().clone() for name, leaf in given.items()}
    memo |= {id(described[name]): nn.Parameter(leaf.detach().clone()) for name, leaf in params.items()}
    held = (value for module in problem.net.modules() for value in vars(module).values() if isinstance(value, Tensor))
    memo |= {id(value): value.detach() for value in held if not value.is_leaf}  # what a forward pass left behind
    net = copy.deepcopy(problem.net, memo)
    own = {name: memo[id(described[name])] for name in given}
    losses = problem.measure.losses(problem.call(net, own, batch.x, Pass(True, batch.noise, {}, fused=True)), batch)
    right = torch.autograd.grad(
        losses.mean(), [own[name] for name in params], allow_unused=True, materialize_grads=True
    )
    with using(fused=True):
        found = gradient(lambda p: problem.loss(p, batch).mean(), params)
    if relative_distance(found, [leaf.to_dense() for leaf in right]) > 1e-2:  # rounding in float32 stays below
        raise ConfigError(f"The gradient of the problem is not that of the module by itself. {MEND}")


def _outputs_of(problem: Problem, batch: Batch) -> Callable[[Params], list[Tensor]]:
    """The differentiable tensors of the outputs."""
    outputs = TensorsOf(lambda p: problem.outputs(p, batch))
    return lambda p: [part for part in outputs(p) if part.is_floating_point()]


def _faults(problem: Problem) -> dict[str, str]:
    """The faults of all ways, in the losses and in the outputs."""
    params, batch = place(problem, torch.float64, torch.float32)
    losses = lambda p: problem.loss(p, batch)
    outputs = _outputs_of(problem, batch)
    return examine(losses, lambda p: [losses(p), *outputs(p)], params)


def _culprit(problem: Problem, faults: dict[str, str]) -> str:
    """The smallest part of the module through which one of the ways is wrong, for a message."""
    params, batch = place(problem, torch.float64, torch.float32)
    tensors = {**params, **batch.state.moments}
    calls: dict[str, tuple[Any, Any]] = {}
    net = copy.deepcopy(problem.net)
    for path, module in net.named_modules():
        module.register_forward_pre_hook(
            lambda _, args, kwargs, path=path: calls.setdefault(path, (args, kwargs)) and None, with_kwargs=True
        )
    with torch.no_grad():
        problem.call(net, tensors, batch.x, Pass(True, {}, {}))
    for path, module in _inner_first(problem.net):
        if path in calls and _is_at_fault(problem, module, tensors, calls[path], faults):
            kind = f"{type(module).__module__.split('.')[0]}'s {type(module).__name__}"
            return f"the layer {path!r} ({kind})" if path else f"the module itself ({kind})"
    return "the module's forward method" if _is_by_outputs(problem, params, batch) else "the criterion"


def _is_by_outputs(problem: Problem, params: Params, batch: Batch) -> bool:
    """Whether it is the outputs whose gradients `vmap` does not give example by example."""

    def totals(params: Params, batch: Batch) -> Tensor:
        parts = [part for part in pytree.tree_leaves(problem.outputs(params, batch)) if _is_floating(part)]
        return torch.stack([part.reshape(size_of(batch), -1).sum(1) for part in parts]).sum(0)

    return problem.separable and fault_at_once(totals, params, batch, BATCH_DIMS) is not None


def _inner_first(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules, each after those that it is made of."""
    yield from reversed(list(net.named_modules()))


def _is_at_fault(
    problem: Problem, module: nn.Module, tensors: Tensors, called: tuple[Any, Any], faults: dict[str, str]
) -> bool:
    """Whether one of the faulty ways is wrong through a module alone, in its parameters and in its inputs."""
    places, of_net = places_of(module), names_of(problem.net)
    own = {name: tensors[of_net[leaf]] for leaf, name in names_of(module).items()}
    inputs, spec = pytree.tree_flatten(called)
    differentiable = {str(n): leaf for n, leaf in enumerate(inputs) if _is_floating(leaf)}
    trained = {f"own.{name}": leaf for name, leaf in own.items() if _is_floating(leaf)}

    def outputs(point: Tree) -> list[Tensor]:
        args, kwargs = pytree.tree_unflatten([point.get(str(n), leaf) for n, leaf in enumerate(inputs)], spec)
        given = {name: point.get(f"own.{name}", leaf) for name, leaf in own.items()}
        with exactly():
            found = call_tied(module, places, given, args, kwargs)
        return [part for part in pytree.tree_leaves(found) if _is_floating(part)]

    def losses(point: Tree) -> Tensor:
        return torch.stack([(part * _weights(part)).sum() for part in outputs(point)])

    try:
        found = examine(losses, outputs, {**trained, **differentiable}, faults)  # type: ignore[arg-type]  # ways
    except Exception:  # a module that cannot be called alone tells nothing
        return False
    return bool(found.keys() & faults.keys())


def _is_floating(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _weights(like: Tensor) -> Tensor:
    """Numbers without a pattern, by which outputs are weighted."""
    numbers = torch.arange(1, like.numel() + 1, device=like.device, dtype=like.dtype)
    return (numbers * 1.7).sin().view(like.shape)
