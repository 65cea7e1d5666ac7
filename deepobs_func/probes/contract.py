"""What the curvature probes take: a loss or a problem, a direction like the parameters, and a key."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Batch, Params, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.probes.formulas import exactly
from deepobs_func.tree import Tree

Loss = Callable[[Params, Any], Tensor]
Distribution = Literal["rademacher", "normal"]


class Measure(Protocol):
    """What a problem knows of its criterion's curvature; see `deepobs_func.problems.measures.Measure`."""

    @property
    def convex(self) -> bool: ...
    @property
    def likelihood(self) -> bool: ...
    @property
    def sample(self) -> Callable[[Any, Any, random.Key], Any] | None: ...


class Problem(Protocol):
    """The part of `deepobs_func.problems.Problem` that curvature needs."""

    @property
    def name(self) -> str: ...
    @property
    def separable(self) -> bool: ...
    @property
    def measure(self) -> Measure: ...
    def loss(self, params: Params, batch: Any) -> Tensor: ...
    def outputs(self, params: Params, batch: Any) -> Any: ...
    def criterion(self, outputs: Any, batch: Any) -> Tensor: ...


LossOrProblem = Loss | Problem


def loss_of(subject: LossOrProblem, batch: Any) -> Callable[[Params], Tensor]:
    """The losses at one batch as a function of the parameters alone, `params -> (B,)` or, of an objective, `()`.

    Raises:
        ConfigError: on a call, where the loss is neither.
    """
    loss = exact_loss(subject)
    check_batch(batch)

    def losses(params: Params) -> Tensor:
        check_params(subject, params)
        result = loss(params, batch)
        if result.shape == (0,):
            raise ConfigError(NO_EXAMPLES)
        fits = result.ndim <= 1
        if isinstance(batch, Batch):
            fits = result.shape in ((), (size_of(batch),))
        if not fits:
            raise ConfigError(
                f"The loss has the shape {tuple(result.shape)}; it must be (B,), one number for each example of the "
                "batch, or (), an objective. Sum or average over all other axes."
            )
        return result

    return losses


def exact_loss(subject: LossOrProblem) -> Loss:
    """The loss of a problem; a plain loss with torch's operations by formulas that have right derivatives."""
    found: Any = getattr(subject, "loss", subject)
    loss: Loss = found
    if hasattr(subject, "ways") or hasattr(getattr(loss, "__self__", loss), "ways"):
        return loss

    def exact(params: Params, batch: Any) -> Tensor:
        with exactly():
            return loss(params, batch)

    return exact


NO_EXAMPLES = "The batch has no examples; every quantity of a loss takes one or more."


def check_batch(batch: Any) -> None:
    """Refuses a `Batch` without examples, of which no mean is defined.

    Raises:
        ConfigError: it has none.
    """
    if isinstance(batch, Batch) and size_of(batch) == 0:
        raise ConfigError(NO_EXAMPLES)


def check_params(subject: Any, params: Params) -> None:
    """Refuses parameters that are not a problem's own; of a plain loss nothing is known.

    Args:
        subject: a problem, one of its methods, or any loss.
        params: what it is asked at.

    Raises:
        ConfigError: a parameter is missing, unknown, or has another shape.
    """
    shapes = getattr(getattr(subject, "__self__", subject), "shapes", None)
    if shapes is None:
        return
    found = {name: leaf.shape for name, leaf in params.items()}
    if found != shapes:
        lacks, unknown = sorted(shapes.keys() - found.keys()), sorted(found.keys() - shapes.keys())
        wrong = {name: tuple(found[name]) for name in found if name in shapes and found[name] != shapes[name]}
        faults = [("they lack", lacks), ("they have besides", unknown), ("these shapes differ:", wrong)]
        raise ConfigError(
            f"The parameters are not the problem's: {'; '.join(f'{text} {what}' for text, what in faults if what)}. "
            "Pass a tree like problem.init()[0]; members stacked along a first axis go through torch.func.vmap."
        )


def mean_loss_of(subject: LossOrProblem, batch: Any) -> Callable[[Params], Tensor]:
    """`params -> ()`, the mean of the losses over the batch; an objective, which is 0-d, is taken as it is."""
    losses = loss_of(subject, batch)
    return lambda params: losses(params).mean()


def checked_ggn(subject: LossOrProblem, params: Params, batch: Any, purpose: str) -> Problem:
    """The subject, if it is a problem whose criterion has a GGN, asked at parameters of its own.

    Raises:
        ConfigError: it is a loss, whose outputs and criterion are not apart; the criterion is not convex; the
            parameters are not its own; or the batch is empty.
    """
    measure = getattr(subject, "measure", None)
    if measure is None:
        raise ConfigError(
            f"{purpose} needs the outputs and the criterion apart, so it takes a Problem and no plain loss. Make one "
            "with problems.from_module, or use hvp."
        )
    problem: Problem = subject  # type: ignore[assignment]  # what has a measure is a problem
    if not measure.convex:
        raise ConfigError(
            f"{purpose}: {problem.name} has a criterion without a GGN: it is not known to be convex in the outputs. "
            "Use hvp, or give from_module a Measure with convex=True."
        )
    check_params(problem, params)
    check_batch(batch)
    return problem


def checked_key(key: random.Key | None, purpose: str) -> random.Key:
    """The key of the probe vectors that a user's key stands for.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(key, Tensor):
        raise ConfigError(
            f"{purpose} draws random vectors, so it needs a key and got {key!r}. Pass key=random.key(seed), with "
            "deepobs_func.random."
        )
    return random.fold_in(key, random.PROBE)


def checked_count(name: str, value: int, low: int, high: int | None = None) -> int:
    """A whole number within its bounds.

    Raises:
        ConfigError: it is out of them.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        bound = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise ConfigError(f"{name} is {value!r}; it must be a whole number {bound}.")
    return value


def count_vectors(like: Tree, v: Tree) -> int | None:
    """How many vectors `v` holds: None for one in the shapes of `like`, K where every leaf has one leading axis of K.

    Raises:
        ConfigError: keys, shapes or dtypes do not match.
    """
    if v.keys() != like.keys():
        missing, unknown = sorted(like.keys() - v.keys()), sorted(v.keys() - like.keys())
        raise ConfigError(
            f"The vector is no tree like the parameters: it lacks {missing or 'nothing'} and has {unknown or 'nothing'}"
            " besides. Its keys must be those of params."
        )
    first = next(iter(like))
    count = v[first].shape[0] if v[first].ndim == like[first].ndim + 1 else None
    lead = () if count is None else (count,)
    for name, leaf in like.items():
        if v[name].shape != (*lead, *leaf.shape):
            shape = tuple(leaf.shape)
            raise ConfigError(
                f"The vector's {name!r} has the shape {tuple(v[name].shape)}, the parameter {shape}. Allowed are "
                f"{shape}, and (K, *{shape}) for K vectors with the same K in every leaf."
            )
        if v[name].dtype != leaf.dtype:
            raise ConfigError(
                f"The vector's {name!r} is {v[name].dtype}, the parameter {leaf.dtype}; they must be the same. Use "
                "v.to(dtype)."
            )
    return count


def draw(key: random.Key, like: Tree, distribution: Distribution = "rademacher") -> Tree:
    """A random vector with mean 0 and identity covariance, in the shapes, dtypes and place of `like`.

    Args:
        key: where from.
        like: the tree that it is like.
        distribution: `"rademacher"`, entries of -1 and 1, or `"normal"`.

    Raises:
        ConfigError: the distribution is neither.
    """
    if distribution not in ("rademacher", "normal"):
        raise ConfigError(f"Unknown distribution {distribution!r}. Known: rademacher, normal.")
    first = next(iter(like.values()))
    key, size = key.to(first.device), (tree.size(like),)
    make = random.normal if distribution == "normal" else random.rademacher
    entries = make(key, size, first.dtype)
    return tree.map(lambda part, leaf: part.to(leaf.dtype), tree.unflatten(entries, like), like)


def stack(vectors: list[Tree]) -> Tree:
    """Vectors along a new leading axis, `(K, *shape)`."""
    return tree.map(lambda *leaves: torch.stack(leaves), *vectors)


def is_known_to_hold(condition: Tensor) -> bool:
    """Whether a condition holds and its value can be looked at, which it cannot under `vmap` or in a compiled graph."""
    if torch.compiler.is_compiling():
        return False
    try:
        return bool(condition)
    except RuntimeError:  # vmap has many values for one
        return False
