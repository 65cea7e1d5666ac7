"""A loss taken apart: each example's own loss, and its gradient by the parameters or by what the layers put out."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.func import grad, vjp
from torch.utils import _pytree as pytree

from deepobs_func.backend.eager import is_traced
from deepobs_func.base import BATCH_DIMS, Batch, ModelState, Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes import contract, ways
from deepobs_func.probes.contract import check_params, exact_loss
from deepobs_func.probes.differences import fault, gradient
from deepobs_func.probes.many import leaves, many, mapped, sliced

BATCH_NORM = ("coupled", "frozen", "eval")
Rows = Callable[[slice], Params]


class Problem(contract.Problem, Protocol):
    """What is asked of a problem for its examples; `problems.Problem` has it."""

    @property
    def normalizes(self) -> bool: ...
    @property
    def layers(self) -> Mapping[str, tuple[Any, torch.Size]]: ...
    def loss_by_moments(self, params: Params, batch: Batch) -> Tensor: ...
    def batch_moments(self, params: Params, batch: Batch) -> ModelState: ...
    def tapped_outputs(self, params: Params, batch: Batch, tap: Callable[[Any, Tensor, Tensor], Tensor]) -> Any: ...


Loss = Callable[[Params, Any], Tensor] | Problem


class OutputGradients(NamedTuple):
    """One backward pass to the outputs of a problem's layers.

    Attributes:
        losses: `(B,)`.
        inputs: of each layer, by path.
        grads: of the sum of the losses, by each layer's output.
    """

    losses: Tensor
    inputs: dict[str, Tensor]
    grads: dict[str, Tensor]


@dataclass(frozen=True)
class Examples:
    """The losses of a batch at one point.

    Attributes:
        loss: `(params, batch) -> (B,)`.
        params: where.
        batch: of what.
        dims: the example axes of the batch.
        size: B.
        coupled: whether an example's loss depends on the other examples.
        problem: whose layers can be tapped; None where nothing is known of layers.
        at_once: whether gradients of many examples go through `vmap`; else one after the other.
    """

    loss: Callable[[Params, Any], Tensor]
    params: Params
    batch: Any
    dims: Any
    size: int
    coupled: bool
    problem: Problem | None
    at_once: bool = True

    def losses_at(self, params: Params) -> Tensor:
        """The losses at a point, `(B,)`.

        Raises:
            ConfigError: the loss returns another shape.
        """
        losses = self.loss(params, self.batch)
        if losses.shape != (self.size,):
            raise ConfigError(
                f"The loss returned the shape {tuple(losses.shape)} for a batch of {self.size}; it must return "
                f"one loss for each example, ({self.size},). With torch's losses pass reduction='none'."
            )
        return losses

    def part(self, piece: slice) -> Examples:
        """Some of the examples, where they can be taken apart."""
        batch = sliced(self.batch, self.dims, piece)
        return replace(self, batch=batch, size=piece.stop - piece.start)

    def rows(self, names: Sequence[str]) -> Rows:
        """Makes `slice -> {name: (examples, *shape)}`: the gradients of some examples by some parameters."""
        chosen = {name: self.params[name] for name in names}
        if self.coupled:
            losses, pull_back = vjp(lambda some: self.losses_at({**self.params, **some}), chosen)[:2]
            identity = torch.eye(self.size, dtype=losses.dtype, device=losses.device)
            return lambda piece: many(pull_back, at_once=self.at_once)(identity[piece])[0]

        def loss_of_one(some: Params, example: Any) -> Tensor:
            batch_of_one = mapped(lambda leaf, dim: leaf.unsqueeze(dim), example, self.dims)
            return self.loss({**self.params, **some}, batch_of_one)[0]

        differentiate = grad(loss_of_one) if self.at_once or _is_transformed(self) else _by_backward(loss_of_one)
        gradients = many(differentiate, (None, self.dims), at_once=self.at_once)
        return lambda piece: gradients(chosen, sliced(self.batch, self.dims, piece))

    def output_gradients(self, problem: Problem) -> OutputGradients:
        """The gradients of each example's loss by the outputs of the layers: half the price of a gradient.

        Eager code outside of any transform takes `torch.autograd`, which keeps no graph of its backward pass.
        """
        return (_by_transform if _is_transformed(self) else _by_autograd)(self, problem)


def examples(loss: Loss, params: Params, batch: Any, *, bn: str | None = None, batch_dims: Any = None) -> Examples:
    """Takes a loss apart at one point.

    Args:
        loss: a Problem, or any `(params, batch) -> (B,)` whose example n depends on example n alone.
        params: where.
        batch: a `Batch`, or whatever the loss takes.
        bn: on a problem whose batch norm couples the examples: `"coupled"`, `"frozen"` or `"eval"`.
        batch_dims: the example axes of another batch than `Batch`, as `vmap` takes them; by default 0 throughout.

    Raises:
        ConfigError: the parameters or the batch are not the problem's, the batch is empty, or `bn` is missing, unknown
            or out of place.
    """
    check_params(loss, params)
    dims = batch_dims if batch_dims is not None else BATCH_DIMS if isinstance(batch, Batch) else 0
    size = _size(batch, dims)
    check_batch_norm(loss, bn)
    if not hasattr(loss, "tapped_outputs"):
        plain = exact_loss(loss)
        at_once = ways.of_plain(loss, params, "vmap(grad)", lambda: fault_at_once(plain, params, batch, dims)) is None
        return Examples(plain, params, batch, dims, size, coupled=False, problem=None, at_once=at_once)
    problem = cast(Problem, loss)
    if not isinstance(batch, Batch):
        raise ConfigError(f"{problem.name} takes a Batch and got a {type(batch).__name__}; make one by Batch.of(x, y).")
    at_once = ways.known(problem).offers("vmap")
    if problem.separable:
        return Examples(problem.loss, params, batch, dims, size, coupled=False, problem=problem, at_once=at_once)
    if bn == "coupled":
        return Examples(problem.loss, params, batch, dims, size, coupled=True, problem=None, at_once=at_once)
    if bn == "frozen":
        batch = batch._replace(state=problem.batch_moments(params, batch))
    return Examples(problem.loss_by_moments, params, batch, dims, size, coupled=False, problem=problem, at_once=at_once)


def check_batch_norm(loss: Loss, bn: str | None) -> None:
    """Refuses a `bn` that does not fit the loss, or is missing where it is needed; see `examples`.

    Raises:
        ConfigError: it is missing, unknown or out of place.
    """
    if bn is not None and bn not in BATCH_NORM:
        raise ConfigError(unknown("choice for bn=", bn, BATCH_NORM))
    if not hasattr(loss, "tapped_outputs"):
        if bn is not None:
            raise ConfigError(
                f"bn={bn!r} needs a Problem, which says where its batch norm is; a plain loss is taken as it stands."
            )
        return
    problem = cast(Problem, loss)
    if problem.separable:
        return
    if bn is None:
        raise ConfigError(
            f"{problem.name} couples the examples of a batch through batch norm, so the gradient of one example "
            "needs a choice: bn='coupled' (rows of the Jacobian of the loss vector), bn='frozen' (the batch's mean and "
            "variance held constant) or bn='eval' (the moving moments); on the command line, --bn."
        )
    if bn != "coupled" and not problem.normalizes:
        raise ConfigError(
            f"{problem.name} couples its examples by other means than batch norms with running statistics that it "
            f"calls once each, so bn={bn!r} cannot take them apart; bn='coupled' can."
        )


def _by_transform(found: Examples, problem: Problem) -> OutputGradients:
    """Adds a zero to every output and differentiates by it; goes through every transform of `torch.func`."""
    zero = next(iter(found.params.values())).new_zeros(())
    zeros = {path: zero.expand(found.size, *shape) for path, (_, shape) in problem.layers.items()}

    def total(taps: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, dict[str, Tensor]]]:
        inputs = {}

        def tap(layer: Any, x: Tensor, y: Tensor) -> Tensor:
            inputs[layer.path] = x
            return y + taps[layer.path] if layer.path in taps else y

        losses = problem.criterion(problem.tapped_outputs(found.params, found.batch, tap), found.batch)
        return losses.sum(), (losses, inputs)

    grads, (losses, inputs) = grad(total, has_aux=True)(zeros)
    return OutputGradients(losses, inputs, grads)


def _by_autograd(found: Examples, problem: Problem) -> OutputGradients:
    """Gradients are caught as they pass by, so that no output is held for them."""
    inputs, grads = dict[str, Tensor](), dict[str, Tensor]()
    first = []  # outputs that depend on no other: the backward pass ends there

    def tap(layer: Any, x: Tensor, y: Tensor) -> Tensor:
        if layer.path not in problem.layers:
            return y
        is_first = not y.requires_grad
        if is_first:
            y = y.detach().requires_grad_()
            first.append(y)
        inputs[layer.path] = x.detach()
        y.register_hook(functools.partial(grads.__setitem__, layer.path))
        return y.clone() if is_first and layer.foreign else y  # what follows may be in place, which no leaf allows

    with torch.enable_grad():
        losses = problem.criterion(problem.tapped_outputs(found.params, found.batch, tap), found.batch)
        torch.autograd.grad(losses.sum(), first)
    return OutputGradients(losses.detach(), inputs, {path: grads[path] for path in inputs if path in grads})


def _is_transformed(found: Examples) -> bool:
    """Whether a compiler or a transform looks on, or somebody will differentiate the result."""
    return (
        is_traced()
        or any(leaf.requires_grad for leaf in found.params.values())
        or any(leaf.requires_grad for leaf in pytree.tree_leaves(found.batch) if isinstance(leaf, Tensor))
    )


def _by_backward(loss_of_one: Callable[[Params, Any], Tensor]) -> Callable[[Params, Any], Params]:
    """Makes `(params, example) -> gradient` by `torch.autograd`, which asks less of an operation than `torch.func`."""

    def differentiate(some: Params, example: Any) -> Params:
        return dict(zip(some, gradient(lambda p: loss_of_one(p, example), some), strict=True))

    return differentiate


def fault_at_once(loss: Callable[[Params, Any], Tensor], params: Params, batch: Any, dims: Any) -> str | None:
    """What is wrong with the gradients of two examples by `vmap`, compared with those by two backward passes."""
    two = Examples(loss, params, sliced(batch, dims, slice(0, 2)), dims, 2, coupled=False, problem=None)
    names = list(params)
    try:
        alone = list(replace(two, at_once=False).rows(names)(slice(0, 2)).values())
    except Exception:  # the loss itself fails, as it will again where it is asked
        return None
    tolerance = 1e-3 if alone[0].dtype == torch.float64 else 5e-2  # rounding moves the kinks of a deep net
    return fault(lambda: list(two.rows(names)(slice(0, 2)).values()), [alone], tolerance)


def _size(batch: Any, dims: Any) -> int:
    """B, by the first leaf that has an example axis."""
    for leaf, dim in leaves(batch, dims):
        if dim is not None:
            if leaf.shape[dim] == 0:
                raise ConfigError("The batch has no examples; a per-example quantity takes one or more.")
            return leaf.shape[dim]
    raise ConfigError(f"No tensor of the batch has an example axis (batch_dims={dims!r}); it needs one or more.")
