"""Fisher matrices times vectors: exact, by Monte-Carlo, and empirical."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes.contract import LossOrProblem, Problem, checked_count, checked_ggn, checked_key, loss_of
from deepobs_func.probes.curvature import chosen_sandwich, ggn_map
from deepobs_func.probes.jacobians import Middle, Tensors, TensorsOf
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.tree import Tree

Kind = Literal["exact", "monte-carlo", "empirical"]


def fisher_vp(
    problem: LossOrProblem,
    params: Params,
    batch: Any,
    v: Tree,
    *,
    kind: Kind = "exact",
    key: random.Key | None = None,
    samples: int = 1,
) -> Tree:
    """The product with a Fisher matrix.

    `"exact"`: `F v`, equal to the GGN where the criterion is a negative log-likelihood up to a factor.
    `"monte-carlo"`: `1/(B S) sum_n sum_s J_n^T s (s . J_n v)` for S random vectors s with `E[s s^T] = H_n`, such as the
    gradients of sampled targets: unbiased for the GGN, and with it for the exact Fisher.
    `"empirical"`: `1/B sum_n g_n (g_n . v)` for the gradients g_n of the losses, rows of the losses' Jacobian where
    examples are coupled; by one forward and one backward pass.

    Args:
        problem: a Problem; the empirical one takes a loss `(params, batch) -> (B,)` too.
        params, batch: the point.
        v: a tree like `params`, or K of them with one leading axis on every leaf.
        kind: which of the three.
        key: what the Monte-Carlo vectors are drawn from.
        samples: S, of an example.

    Returns:
        A tree like `v`.

    Raises:
        ConfigError: the kind is unknown, the criterion is not a likelihood or cannot be sampled, the key is missing,
            the losses are not `(B,)`, or `v` does not match `params`.

    Source: F. Kunstner, L. Balles and P. Hennig, "Limitations of the empirical Fisher approximation", NeurIPS 2019.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> fisher_vp(problem, params, problem.fake_batch(4), params, kind="empirical")["dense.0.bias"].shape
    torch.Size([10])
    """
    return _fisher(problem, params, batch, kind, key, samples, keep=False)(v)


def make_fisher_vp(
    problem: LossOrProblem,
    params: Params,
    batch: Any,
    *,
    kind: Kind = "exact",
    key: random.Key | None = None,
    samples: int = 1,
) -> LinearMap:
    """A Fisher matrix at one point as a map that keeps the forward pass and its draws; see `fisher_vp`.

    Args:
        problem, params, batch: as in `fisher_vp`.
        kind: `"exact"`, `"monte-carlo"` or `"empirical"`.
        key: what the Monte-Carlo vectors are drawn from.
        samples: S, of an example.

    Returns:
        The map `v -> F v`, of a tree or K of them.

    Raises:
        ConfigError: as in `fisher_vp`.

    >>> from deepobs_func import problems, random
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> make_fisher_vp(problem, params, problem.fake_batch(4), kind="monte-carlo", key=random.key(0)).size
    7850
    """
    return _fisher(problem, params, batch, kind, key, samples, keep=True)


def _fisher(
    subject: LossOrProblem, params: Params, batch: Any, kind: Kind, key: random.Key | None, samples: int, *, keep: bool
) -> LinearMap:
    if kind == "empirical":
        return _empirical_fisher(subject, params, batch, keep=keep)
    if kind == "monte-carlo":
        return _monte_carlo_fisher(subject, params, batch, key, samples, keep=keep)
    if kind != "exact":
        raise ConfigError(unknown("kind of Fisher", str(kind), ("exact", "monte-carlo", "empirical")))
    problem = checked_ggn(subject, params, batch, "fisher_vp")
    if not problem.measure.likelihood:
        raise ConfigError(
            f"{problem.name} has no exact Fisher: its criterion is no negative log-likelihood (allowed: cross entropy "
            "and square loss). Use ggnvp."
        )
    return ggn_map(problem, params, batch, keep=keep)


def _monte_carlo_fisher(
    subject: LossOrProblem, params: Params, batch: Any, key: random.Key | None, samples: int, *, keep: bool
) -> LinearMap:
    problem = checked_sampler(subject, params, batch, "fisher_vp")
    keys = random.split(checked_key(key, "fisher_vp of kind 'monte-carlo'"), checked_count("samples", samples, 1))
    outputs = TensorsOf(lambda p: problem.outputs(p, batch))

    def make_middle(tensors: Tensors) -> Middle:
        draws = [sampled(problem, outputs.rebuilt(tensors), batch, each) for each in keys]
        scale = 1.0 / (tensors[0].shape[0] * samples)

        def middle(tangents: Tensors) -> Tensors:
            terms = [[scale * part for part in _project(draw, tangents)] for draw in draws]
            return [torch.stack(parts).sum(0) for parts in zip(*terms, strict=True)]

        return middle

    return chosen_sandwich(problem, outputs, params, batch, make_middle, keep=keep, purpose="fisher_vp")


def _empirical_fisher(subject: LossOrProblem, params: Params, batch: Any, *, keep: bool) -> LinearMap:
    losses = loss_of(subject, batch)

    def rows(p: Params) -> Tensors:
        result = losses(p)
        if result.ndim == 0:
            raise ConfigError("The empirical Fisher needs one loss for each example, (B,), and got an objective, ().")
        return [result]

    middle = lambda _: lambda tangents: [tangents[0] / tangents[0].shape[0]]
    return chosen_sandwich(subject, rows, params, batch, middle, keep=keep, purpose="fisher_vp")


def checked_sampler(subject: LossOrProblem, params: Params, batch: Any, purpose: str) -> Problem:
    """The subject, if it is a problem with a GGN whose root can be sampled.

    Raises:
        ConfigError: it is not.
    """
    problem = checked_ggn(subject, params, batch, purpose)
    if problem.measure.sample is None:
        raise ConfigError(
            f"{purpose}: the criterion of {problem.name} says nothing of how to draw vectors with its Hessian as "
            "their covariance (Measure.sample). Use ggnvp, or give from_module a measure with a sampler."
        )
    return problem


def sampled(problem: Problem, outputs: Any, batch: Any, key: random.Key) -> Tensors:
    """One draw of s for each example, with `E[s s^T] = H_n`, as the list of its tensors."""
    assert problem.measure.sample is not None
    draws = problem.measure.sample(outputs, batch, key.to(pytree.tree_leaves(outputs)[0].device))
    return [leaf for leaf in pytree.tree_leaves(draws) if isinstance(leaf, Tensor)]


def _project(vectors: Tensors, tangents: Tensors) -> Tensors:
    """`s_n (s_n . u_n)` for each example n, over all parts of the outputs."""
    products = [(s * u).flatten(1).sum(1) for s, u in zip(vectors, tangents, strict=True)]
    inner = torch.stack(products).sum(0)  # (B,)
    return [inner.view(-1, *[1] * (s.ndim - 1)) * s for s in vectors]
