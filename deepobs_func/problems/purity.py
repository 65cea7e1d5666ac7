"""Whether a problem of a user's functions is a pure function of parameters and batch, found by calling it.

Each function is called on a few examples, and what it does beside returning its result is looked at: numbers drawn,
tensors changed, things remembered. What it returns is checked for shape, type and finite values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.problems.watch import attributes, is_same, watched


def check(problem: Problem, again: Problem, held: Tensors) -> bool:
    """Refuses a problem that is not pure, or whose functions do not fit the data.

    Args:
        problem: made of a user's functions.
        again: the same problem on another copy of the module, which has not been called.
        held: the tensors that the module holds as plain attributes.

    Returns:
        Whether the problem is separable: an example's loss is the same alone as in a batch.

    Raises:
        ConfigError: it is not pure or does not fit; the message says which function does what, and the mend.
    """
    with torch.inference_mode(False), torch.enable_grad():
        params, state = problem.init()
        batch = _plain(problem.fake_batch(3), state)
        found = _Functions(problem, params).losses(batch)
        edge = _edge(problem, state)
        _Functions(problem, params).losses(edge)
        _check_memory(problem, again, params, batch, found)
        _check_gradient(again, params, batch, held)
        return _is_separable(problem, params, batch, found)


def _plain(batch: Batch, state: ModelState) -> Batch:
    return Batch(batch.x, batch.y, {}, ModelState(state.moments, {}))


def _edge(problem: Problem, state: ModelState) -> Batch:
    """Examples with the smallest and the largest ids of both splits, and of another number than the others."""
    spec, batch = problem.dataset, problem.fake_batch(4, seed=1)
    x, y = batch.x, batch.y
    if spec.extremes:
        more_x, more_y = spec.function("extremes")(spec, torch.float32)
        x, y = torch.cat([x, more_x]), torch.cat([y, more_y])
    elif spec.num_classes is not None:
        ids = (spec.num_classes - 1) * (torch.arange(4) % 2)
        x, y = (
            part if part.is_floating_point() else ids.view(4, *[1] * (part.ndim - 1)).expand_as(part) for part in (x, y)
        )
    return _plain(Batch(x.contiguous(), y.contiguous(), {}, state), state)


@dataclass(frozen=True)
class _Functions:
    """The functions of a problem, called one after the other at one point."""

    problem: Problem
    params: Params

    def losses(self, batch: Batch) -> Tensor:
        """The loss of each example, `(B,)`, after a look at what each function does and returns."""
        problem, params, data = self.problem, self.params, {"inputs x": batch.x, "targets y": batch.y}
        held = {**params, **batch.state.moments}
        outputs = self._called("module", lambda: problem.outputs(params, batch), batch, {**data, **held})
        leaves = {f"outputs {i}": t for i, t in enumerate(pytree.tree_leaves(outputs)) if isinstance(t, Tensor)}
        self._check_outputs(list(leaves.values()), batch)
        given = {**data, **leaves, **batch.state.moments}
        losses = self._called("criterion", lambda: problem.criterion(outputs, batch), batch, given)
        self._check_losses(losses, list(leaves.values()), batch)
        correct = problem.measure.correct
        if correct is not None:
            result = self._called("correct function", lambda: correct(outputs, batch), batch, given)
            _check_correct(result, len(batch.x))
        return losses

    def _called(self, who: str, function: Callable[[], Any], batch: Batch, given: Tensors) -> Any:
        net = self.problem.net if who == "module" else None
        try:
            return watched(who, function, given, self.params, net)
        except ConfigError:
            raise
        except Exception as error:  # whatever a function of the user's raises
            data = " and ".join(f"{what} are {_seen(t)}" for what, t in (("inputs", batch.x), ("targets", batch.y)))
            raise ConfigError(
                f"The module and its criterion do not fit {self.problem.dataset.title}, whose {data} for a batch of "
                f"{len(batch.x)}: the {who} raised {type(error).__name__}: {error}. {_mend(who, batch, error)}"
            ) from error

    def _check_outputs(self, leaves: list[Tensor], batch: Batch) -> None:
        if any(leaf.requires_grad for leaf in leaves):
            raise ConfigError(
                "The module computes with tensors that require gradients and are none of its parameters, so nothing "
                "would train them. Register them: as an nn.Parameter attribute, in an nn.ParameterList, or with "
                "register_buffer where they are constants."
            )
        if not leaves:
            raise ConfigError("The module returned no tensor; a criterion needs outputs with a leading B.")
        if all(_is_finite(leaf) for leaf in leaves):
            return
        wrong = [
            name for name, tensor in (*self.params.items(), *batch.state.moments.items()) if not _is_finite(tensor)
        ]
        raise ConfigError(
            f"The module's outputs are not finite for {len(batch.x)} examples of {self.problem.dataset.title}"
            + (f": {wrong} hold NaN or infinite values. Initialise them." if wrong else ", at its own parameters.")
        )

    def _check_losses(self, losses: Any, outputs: list[Tensor], batch: Batch) -> None:
        size = len(batch.x)
        must = f"it must return a tensor of one loss for each example, ({size},), of floating-point numbers"
        if not isinstance(losses, Tensor):
            raise ConfigError(f"The criterion returned {_kind(losses)}; {must}.")
        if losses.shape != (size,):
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in outputs)
            raise ConfigError(
                f"The criterion returned the shape {tuple(losses.shape)} for a batch of {size}; {must}. With torch's "
                f"losses pass reduction='none', and sum or average over all axes but the first. Outputs {shapes} and "
                f"targets {tuple(batch.y.shape)} of different shapes are broadcast: nn.Flatten(0) as the last layer, "
                "or targets y[:, None], make them one."
            )
        if not losses.is_floating_point():
            raise ConfigError(f"The criterion returned numbers of the type {losses.dtype}; {must}.")
        if losses.requires_grad:
            raise ConfigError(
                "The criterion computes with tensors that require gradients, which nothing would train. Hold them as "
                "parameters of the module and return them with its outputs, or detach them."
            )
        if not _is_finite(losses):
            raise ConfigError(
                f"The criterion returned {losses.tolist()} for finite outputs of {size} examples, at the module's own "
                "parameters. A loss must be finite where a run starts."
            )


def _check_correct(correct: Any, size: int) -> None:
    must = f"it must return a tensor of one value in [0, 1] for each example, ({size},), truth values or numbers"
    if not isinstance(correct, Tensor):
        raise ConfigError(f"The function correct returned {_kind(correct)}; {must}.")
    if correct.shape != (size,):
        raise ConfigError(
            f"The function correct returned the shape {tuple(correct.shape)} for a batch of {size}; {must}. Take no "
            "mean over the examples, as in outputs.argmax(1) == y; where an example has several predictions, average "
            "over them, as in (outputs.argmax(-1) == y).float().mean(1)."
        )
    if correct.is_complex() or not bool(((correct >= 0) & (correct <= 1)).all()):
        raise ConfigError(f"The function correct returned {correct.tolist()}; {must}.")


def _check_memory(problem: Problem, again: Problem, params: Params, batch: Batch, found: Tensor) -> None:
    """Refuses a module that remembers: calls, or parameters that it was called at."""
    key = random.key(0)
    other = {
        name: 2 * tensor + 0.1 * random.normal(random.fold_in(key, index), tensor.shape, tensor.dtype)
        for index, (name, tensor) in enumerate(params.items())
    }
    elsewhere, back = problem.loss(other, batch), problem.loss(params, batch)
    if not is_same(found, back):
        raise ConfigError(
            "Two calls of the module on the same input differ, so it keeps state or draws random numbers outside of "
            "the generators of torch, NumPy and Python. A test problem must be a pure function; remove what it "
            "remembers."
        )
    if not torch.allclose(elsewhere, again.loss(other, batch), rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ConfigError(
            "The module's loss at some parameters depends on the parameters of an earlier call, so it keeps what it "
            "computed from them. Compute it anew in each forward pass (some layers keep it in eval mode only: call "
            "module.train())."
        )
    before = attributes(problem.net)
    problem.loss(params, batch)
    after = attributes(problem.net)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if changed:
        raise ConfigError(
            f"The module's attributes {changed} change from call to call, so it may compute something else after some "
            "calls. A test problem must be a pure function; remove what counts or collects."
        )


def _check_gradient(problem: Problem, params: Params, batch: Batch, held: Tensors) -> None:
    """Refuses a loss that does not follow the parameters, or has no gradient."""
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in params.items()}
    try:
        losses = problem.loss(leaves, batch)
        grads: Any = [None] * len(leaves)
        if losses.requires_grad:
            grads = torch.autograd.grad(losses.sum(), list(leaves.values()), allow_unused=True)
    except Exception as error:  # whatever a function of the user's raises
        raise ConfigError(
            f"The gradient of the loss raised {type(error).__name__}: {error}. Activation checkpointing must be "
            "left out: the parameters are put into the module for one call, and not for that of the backward pass. "
            "Targets that are compared with outputs must be floating-point numbers like them."
        ) from error
    unused = [name for name, grad in zip(leaves, grads, strict=True) if grad is None]
    if len(unused) == len(leaves):
        raise ConfigError(
            f"The loss does not depend on the parameters {unused} in a way that can be differentiated. The module or "
            "the criterion cuts the graph (torch.no_grad, detach, argmax, NumPy), or keeps what it computed from the "
            "parameters earlier."
        )
    for name in unused:
        path = name.rpartition(".")[0]
        kept = [
            other for other, tensor in held.items() if other.rpartition(".")[0] == path and tensor.is_floating_point()
        ]
        if kept:
            raise ConfigError(
                f"The loss does not depend on the parameter {name!r}, beside which the module holds {kept}: it seems "
                "that this was computed from the parameter and is kept. Compute it in each forward pass; register a "
                "constant with register_buffer, or freeze an unused parameter with requires_grad_(False)."
            )


@torch.no_grad()
def _is_separable(problem: Problem, params: Params, batch: Batch, found: Tensor) -> bool:
    """Whether an example's loss is the same alone as in the batch."""
    alone = []
    try:
        for n in range(len(found)):
            alone.append(problem.loss(params, batch._replace(x=batch.x[n : n + 1], y=batch.y[n : n + 1])))
    except ConfigError:
        raise
    except ValueError:  # a batch norm refuses a single value per channel
        return False
    except Exception as error:  # whatever a function of the user's raises
        raise ConfigError(
            f"The module and its criterion work for a batch of {len(found)} and not for one example: "
            f"{type(error).__name__}: {error}. Name the axis that squeeze() removes, as in squeeze(1)."
        ) from error
    if any(losses.shape != (1,) for losses in alone):
        raise ConfigError(
            f"The criterion returned the shape {tuple(alone[0].shape)} for a batch of one example; it must return "
            "(1,), one loss for each example. Name the axis that squeeze() removes, as in squeeze(1)."
        )
    return torch.allclose(torch.cat(alone), found, rtol=1e-4, atol=1e-5)


def _mend(who: str, batch: Batch, error: Exception) -> str:
    """What to try, by what was given."""
    data = batch.x if who == "module" else batch.y
    whole = not (data.is_floating_point() or data.is_complex())
    beyond = isinstance(error, IndexError) or "out of bounds" in str(error) or "out of range" in str(error)
    if whole and beyond and data.numel():
        need = "rows of an embedding" if who == "module" else "outputs"
        kind = "inputs" if who == "module" else "targets"
        return (
            f"The {kind} of both splits hold ids from {data.min()} to {data.max()}, which need {data.max() + 1} "
            f"{need}; change the module or these ids."
        )
    if who == "module":
        if whole:
            return "Whole numbers reach the module as they are; give images as floats: x.astype('float32') / 255."
        return "A run is in float32: constants of the module go with it where they are buffers (register_buffer)."
    if data.ndim == 2 and data.shape[1] == 1:
        return "Where it takes targets (B,), give y[:, 0]."
    if whole:
        return "Targets that are no class ids must be floating-point numbers: y.astype('float32')."
    return "Class ids must be whole numbers, (B,): y.astype('int64')."


def _seen(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _kind(value: Any) -> str:
    return f"{value!r}" if isinstance(value, bool | int | float | None) else f"an object of {type(value).__name__}"


def _is_finite(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex()) or bool(tensor.isfinite().all())
