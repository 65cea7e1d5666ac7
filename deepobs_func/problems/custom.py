"""A test problem out of any `nn.Module`, so that users benchmark their own network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from deepobs_func import datasets, random
from deepobs_func.base import Params
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.problems import derivatives, purity
from deepobs_func.problems.description import Tensors, describe, on_meta
from deepobs_func.problems.measures import Measure
from deepobs_func.problems.modules import copied, held_tensors
from deepobs_func.problems.problem import Problem, kernels
from deepobs_func.problems.spec import checked_weight_decay

OfOutputs = Callable[[Any, Tensor], Tensor]


def from_module(
    module: nn.Module,
    criterion: OfOutputs | Measure,
    dataset: str | DatasetSpec,
    *,
    correct: OfOutputs | None = None,
    weight_decay: float | None = None,
    regularize: Callable[[str, Tensor], bool] = kernels,
    epochs: int = 10,
    batch_size: int = 128,
    name: str | None = None,
) -> Problem:
    """Makes a test problem of any module and a per-example criterion.

    Every run starts at the module's own values, whatever its seed; the seed still decides the order of the data. The
    module is copied and its tensors are not changed. Parameters with `requires_grad=False` are constants of
    the problem, in its model state; floating-point tensors of any precision become those of the run, float32.

    Every function is called on a few examples when the problem is made, so that an impure or unfitting one is found
    here.

    Args:
        module: maps inputs `(B, ...)` to outputs with a leading `B`. Its `train()` or `eval()` setting holds in both
            phases.
        criterion: `(outputs, y) -> (B,)`, e.g. `partial(F.cross_entropy, reduction="none")`, or a module without
            parameters of its own to train; or a `Measure`, such as `problems.measures.cross_entropy`, which also says
            what a GGN and its samples need to know.
        dataset: the name of a data set, or one made by `datasets.from_arrays`.
        correct: `(outputs, y) -> (B,)` in [0, 1], where an accuracy is wanted; a `Measure` has its own.
        weight_decay: the factor of the L2 penalty, finite and at least 0; None for a problem without one.
        regularize: `(name, parameter) -> bool`, which trained parameters the penalty counts; by default those of rank
            2 and up. The parameter has a shape and no data.
        epochs, batch_size: the defaults of a run, at least 1.
        name: for the record; by default the class of the module.

    Returns:
        The problem: a frozen value, which holds copies of the module's tensors.

    Raises:
        ConfigError: the module, the criterion or `correct` does not fit the data (an id of no class in either split,
            another shape or type than the one that it must return, a result that is not finite); or the loss is no
            pure, differentiable function of the parameters, since one of them draws random numbers, changes what it
            is given or what it holds, or keeps what it computed. The message says which, and what to use instead.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    >>> problem = from_module(net, lambda logits, y: nn.functional.cross_entropy(logits, y, reduction="none"), "mnist")
    >>> problem.loss(problem.init(seed=0)[0], problem.fake_batch(4)).shape
    torch.Size([4])
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(f"A problem is made of an nn.Module, not of {module!r}.")
    if weight_decay is not None:
        checked_weight_decay(weight_decay)
    for field, value in (("epochs", epochs), ("batch_size", batch_size)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{field}= is a whole number of at least 1, not {value!r}.")
    tensors = describe(module)
    described, again = on_meta(module), on_meta(module)
    _check_regularize(regularize, described)

    def draw(net: nn.Module, key: random.Key, dtype: torch.dtype) -> tuple[Params, Tensors]:
        def fresh(tensors: Tensors) -> Tensors:
            return {name: tensor.to(key.device, _as_in(dtype, tensor), copy=True) for name, tensor in tensors.items()}

        return fresh(tensors.params), fresh(tensors.constants)

    problem = Problem(
        name=name or type(module).__name__.lower(),
        dataset=datasets.spec(dataset) if isinstance(dataset, str) else dataset,
        make_net=lambda: described,
        measure=_measure(criterion, correct),
        weight_decay=weight_decay,
        separable=True,
        epochs=epochs,
        batch_size=batch_size,
        draw=draw,
        call=_call_plain,
        regularize=regularize,
    )
    separable = purity.check(problem, replace(problem, make_net=lambda: again), held_tensors(module))
    return derivatives.chosen(replace(problem, separable=separable))


def _as_in(dtype: torch.dtype, tensor: Tensor) -> torch.dtype:
    """The type of a tensor in a problem whose floating-point numbers are of a given type."""
    if tensor.is_complex():
        return dtype.to_complex()
    return dtype if tensor.is_floating_point() else tensor.dtype


def _measure(criterion: OfOutputs | Measure, correct: OfOutputs | None) -> Measure:
    if not isinstance(criterion, Measure):
        of_losses = _pure("criterion", criterion)
        of_correct = None if correct is None else _pure("correct", correct)
        right = None if of_correct is None else lambda outputs, batch: of_correct(outputs, batch.y)
        return Measure(lambda outputs, batch: of_losses(outputs, batch.y), right)
    if correct is not None:
        raise ConfigError("The criterion is a Measure, which has its own correct; leave correct= out.")
    return criterion


def _pure(role: str, function: OfOutputs) -> OfOutputs:
    """A function of outputs and targets; of a module, with its constants in the type and place of the outputs.

    Raises:
        ConfigError: it is not a function, or a module with parameters that nothing would train.
    """
    if not callable(function):
        raise ConfigError(f"{role}= is a function (outputs, y) -> (B,), not {function!r}.")
    if not isinstance(function, nn.Module):
        return function
    trained = [name for name, parameter in function.named_parameters() if parameter.requires_grad]
    if trained:
        raise ConfigError(
            f"{role}= has parameters of its own, {trained}, which nothing would train. Hold them in the module and "
            f"return them with its outputs, or call requires_grad_(False) on the {role}."
        )
    held = copied(function, {})
    constants = {name: tensor.detach() for name, tensor in (*held.named_parameters(), *held.named_buffers())}

    def call(outputs: Any, y: Tensor) -> Tensor:
        leaves = (leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point())
        like = next(leaves, y)
        moved = {name: tensor.to(like.device, _as_in(like.dtype, tensor)) for name, tensor in constants.items()}
        return functional_call(held, moved, (outputs, y))

    return call


def _check_regularize(regularize: Callable[[str, Tensor], bool], described: nn.Module) -> None:
    for name, parameter in described.named_parameters():
        if not parameter.requires_grad:
            continue
        try:
            result = regularize(name, parameter)
        except Exception as error:  # whatever a function of the user's raises
            raise ConfigError(
                f"regularize({name!r}, parameter) raised {type(error).__name__}: {error}. It is asked for each "
                "parameter by its name and a tensor that has its shape and no data."
            ) from error
        if not isinstance(result, bool):
            raise ConfigError(
                f"regularize({name!r}, parameter) returned {result!r}; it must return True or False: whether the "
                "penalty counts the parameter."
            )


def _call_plain(net: nn.Module, tensors: Tensors, x: Tensor, p: Pass) -> Any:
    return functional_call(net, tensors, (x,), strict=True)
