"""What a problem that is made from a user's module offers of derivatives: right ones only.

Operations of torch whose derivatives are wrong or missing are computed by formulas (`probes.formulas`), but for the
plain gradient, for which torch's kernels are right. Then every way to a product is held against finite differences in
float64 at a random point; one that is wrong is not offered, and the reason names the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from deepobs_func.base import BATCH_DIMS, Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.probes.differences import gradient, raised, relative_distance
from deepobs_func.probes.examination import examine, moved
from deepobs_func.probes.examples import fault_at_once
from deepobs_func.probes.formulas import Recorder, exactly
from deepobs_func.probes.jacobians import TensorsOf
from deepobs_func.probes.rows import MODES
from deepobs_func.probes.ways import Ways
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.tree import Tree

EXAMPLES = 2  # of the batch at which a problem is examined: batch norm refuses one


def chosen(problem: Problem) -> Problem:
    """The same problem with right derivatives, and with those ways left out that have none.

    Args:
        problem: made from a user's module and criterion, whose loss is known to be pure.

    Raises:
        ConfigError: the gradient cannot be computed, or is not that of the module by itself.
    """
    problem = _with_formulas(problem)
    params, batch = _place(problem)
    _check_gradient(problem, params, batch)
    faults = _faults(problem, params, batch)
    if not faults:
        return problem
    where = _culprit(problem, params, batch, faults)
    mode = next((mode for mode in (problem.hvp_mode, *MODES) if mode not in faults), problem.hvp_mode)
    return replace(problem, ways=Ways(faults, where), hvp_mode=mode)


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
        problem = replace(problem, call=_exact_call(problem.call))
    if of_criterion.called:
        problem = replace(problem, measure=problem.measure._replace(losses=_exact_losses(problem.measure.losses)))
    return problem


def _exact_call(call: Callable[[nn.Module, Tensors, Tensor, Pass], Any]) -> Callable[..., Any]:
    def exact_call(net: nn.Module, tensors: Tensors, x: Tensor, p: Pass) -> Any:
        if p.fused:
            return call(net, tensors, x, p)
        with exactly():
            return call(net, tensors, x, p)

    return exact_call


def _exact_losses(losses: Callable[[Any, Batch], Tensor]) -> Callable[[Any, Batch], Tensor]:
    def exact_losses(outputs: Any, batch: Batch) -> Tensor:
        with exactly():
            return losses(outputs, batch)

    return exact_losses


def _place(problem: Problem) -> tuple[Params, Batch]:
    """A point and a batch in float64, or in float32 where the module goes with no other."""
    error: Exception | None = None
    for dtype in (torch.float64, torch.float32):
        params, state = problem.init(dtype=dtype)
        batch = problem.fake_batch(EXAMPLES, dtype=dtype)._replace(state=state)
        try:
            gradient(lambda p, batch=batch: problem.loss(p, batch).mean(), params)
        except Exception as found:  # what a user's code raises, on tensors of another type
            error = found
            continue
        return moved(params), batch
    assert error is not None, "a type that works has returned"
    raise ConfigError(f"The gradient of the module cannot be computed: it {raised(error)}. {MEND}") from error


MEND = (
    "A problem calls its module with other tensors as parameters (torch.func.functional_call), so that nothing in it "
    "may be computed again later: leave out activation checkpointing (torch.utils.checkpoint)."
)


def _check_gradient(problem: Problem, params: Params, batch: Batch) -> None:
    """Compares with a module that holds the parameters itself, as the user's own loop does."""
    memo: dict[int, Any] = {
        id(leaf): nn.Parameter(params[name]) for name, leaf in problem.net.named_parameters() if name in params
    }
    fixed = (*problem.net.named_parameters(), *problem.net.named_buffers())
    memo |= {id(leaf): batch.state.moments[name].clone() for name, leaf in fixed if name in batch.state.moments}
    net = copy.deepcopy(problem.net, memo)
    leaves = [net.get_parameter(name) for name in params]
    losses = problem.measure.losses(net(batch.x), batch)
    right = torch.autograd.grad(losses.mean(), leaves, allow_unused=True, materialize_grads=True)
    fused = problem.with_fused_kernels()
    for found in (fused, problem):
        grads = gradient(lambda p, found=found: found.loss(p, batch).mean(), params)
        if relative_distance(grads, [leaf.to_dense() for leaf in right]) > 1e-3:
            raise ConfigError(f"The gradient of the problem is not that of the module by itself. {MEND}")


def _outputs_of(problem: Problem, batch: Batch) -> Callable[[Params], list[Tensor]]:
    """The differentiable tensors of the outputs."""
    outputs = TensorsOf(lambda p: problem.outputs(p, batch))
    return lambda p: [part for part in outputs(p) if part.is_floating_point()]


def _faults(problem: Problem, params: Params, batch: Batch) -> dict[str, str]:
    """The faults of all ways, in the losses and in the outputs."""
    losses = lambda p: problem.loss(p, batch)
    outputs = _outputs_of(problem, batch)
    found = examine(losses, lambda p: [losses(p), *outputs(p)], params)
    if "vmap" not in found and problem.separable:
        fault = fault_at_once(problem.loss, params, batch, BATCH_DIMS)
        found |= {} if fault is None else {"vmap": fault}
    return found


def _culprit(problem: Problem, params: Params, batch: Batch, faults: dict[str, str]) -> str:
    """The smallest part of the module through which one of the ways is wrong, for a message."""
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
        if path in calls and _is_at_fault(problem, module, path, tensors, calls[path], faults):
            return (
                f"the layer {path!r} ({type(module).__module__.split('.')[0]}'s {type(module).__name__})"
                if path
                else (f"the forward method of {type(module).__name__}")
            )
    return "the criterion"


def _inner_first(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules, each after those that it is made of."""
    yield from reversed(list(net.named_modules()))


def _is_at_fault(
    problem: Problem, module: nn.Module, path: str, tensors: Tensors, called: tuple[Any, Any], faults: dict[str, str]
) -> bool:
    """Whether one of the faulty ways is wrong through a module alone, in its parameters and in its inputs."""
    prefix = f"{path}." if path else ""
    own = {name.removeprefix(prefix): leaf for name, leaf in tensors.items() if name.startswith(prefix)}
    inputs, spec = pytree.tree_flatten(called)
    differentiable = {str(n): leaf for n, leaf in enumerate(inputs) if _is_floating(leaf)}
    trained = {f"own.{name}": leaf for name, leaf in own.items() if _is_floating(leaf)}

    def outputs(point: Tree) -> list[Tensor]:
        args, kwargs = pytree.tree_unflatten([point.get(str(n), leaf) for n, leaf in enumerate(inputs)], spec)
        given = {name: point.get(f"own.{name}", leaf) for name, leaf in own.items()}
        with exactly():
            found = functional_call(module, given, args, kwargs)
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
