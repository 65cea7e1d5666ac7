"""Curvature products: Hessian and generalised Gauss-Newton matrix (GGN) times vectors.

All are of `loss(params, batch).mean()`, the penalty excluded; pass `problem.objective` for it. Where batch norm couples
the examples, they are of the coupled loss of the batch as it stands. All run in eager code, in a compiled graph and
under `vmap` over stacked parameters.

`hvp` and `ggnvp` compute one product, or K at once. `make_hvp` and `make_ggnvp` make a `LinearMap` for many products
at one point, as Lanczos and conjugate gradients need: the graph of the forward pass and of its gradient is kept, so
that a product is nothing but backward passes, at the cost of the memory. (`torch.func.linearize` would save a little
more, but its tracing costs tens to hundreds of gradients, and it works neither under `vmap` nor in a compiled graph.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal

from torch.func import grad, vjp

from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes.catalog import MODES, HVPMode, Way
from deepobs_func.probes.contract import LossOrProblem, Problem, checked_ggn, mean_loss_of
from deepobs_func.probes.jacobians import Middle, Tensors, TensorsOf, hessian, sandwich
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.probes.ways import at_once, choose
from deepobs_func.tree import Tree

Matrix = Literal["hessian", "ggn"]


def hvp(subject: LossOrProblem, params: Params, batch: Any, v: Tree, *, mode: HVPMode | None = None) -> Tree:
    """The Hessian-vector product `H v`, `H = d^2/dparams^2 loss(params, batch).mean()`.

    Args:
        subject: a loss `(params, batch) -> (B,)`, a Problem, or an objective `(params, batch) -> ()`.
        params: the point.
        batch: whatever the loss takes.
        v: a tree like `params`, or K of them with one leading axis on every leaf.
        mode: `"reverse-over-forward"`, the gradient of the derivative along `v`; `"reverse-over-reverse"`, the gradient
            of `grad . v`; or `"forward-over-reverse"`, a directional derivative of the gradient (Pearlmutter 1994). By
            default the problem's `hvp_mode`, the one that was measured to be the fastest in eager code; reverse over
            forward for a plain loss, or the first other one that is right for it. (torch 2.13 does not compile K
            products at once by reverse over forward where a float64 objective ends in a scalar times a number.)

    Returns:
        A tree like `v`.

    Raises:
        ConfigError: the mode is unknown, `v` does not match `params`, the loss is neither `(B,)` nor `()`, or torch has
            no right derivative by the mode, or, where none is given, by any.

    Source: B. Pearlmutter, "Fast exact multiplication by the Hessian", Neural Computation 1994.

    >>> from deepobs_func import problems
    >>> problem = problems.get("two_d_branin")
    >>> params, _ = problem.init()
    >>> sorted(hvp(problem, params, problem.fake_batch(4), params))
    ['u', 'v']
    """
    preferred: Any = mode or getattr(subject, "hvp_mode", None) or "reverse-over-forward"
    return _make_hvp(subject, params, batch, mode, preferred, "hvp")(v)


def make_hvp(subject: LossOrProblem, params: Params, batch: Any, *, mode: HVPMode | None = None) -> LinearMap:
    """The Hessian at one point as a map; see `hvp`.

    Args:
        subject, params, batch: as in `hvp`.
        mode: by default reverse over reverse, which keeps the gradient's graph, so that a product is one pass through
            it, unless it is not right for the subject; the other two keep nothing and need less memory.

    Returns:
        The map `v -> H v`, of a tree or K of them.

    Raises:
        ConfigError: the mode is unknown or wrong for the subject, or the loss is neither `(B,)` nor `()`.

    >>> from deepobs_func import problems, tree
    >>> problem = problems.get("two_d_beale")
    >>> params, _ = problem.init()
    >>> hessian = make_hvp(problem, params, problem.fake_batch(4))
    >>> hessian.size, tree.size(hessian(params))
    (2, 2)
    """
    return _make_hvp(subject, params, batch, mode, mode or "reverse-over-reverse", "make_hvp")


def _make_hvp(
    subject: LossOrProblem, params: Params, batch: Any, mode: HVPMode | None, preferred: HVPMode, purpose: str
) -> LinearMap:
    """By the mode that was asked for; where none was, by the preferred one or the first other that is right."""
    if preferred not in MODES:
        raise ConfigError(unknown("mode", str(preferred), MODES))
    mean_loss = mean_loss_of(subject, batch)
    others = [] if mode else [other for other in REVERSE_FIRST if other != preferred]
    chosen: Any = choose(subject, params, batch, [preferred, *others], purpose)
    product = hessian(mean_loss, params, chosen).product
    return LinearMap(product, params, functools.partial(at_once, subject, params, batch, chosen))


REVERSE_FIRST: tuple[HVPMode, ...] = ("reverse-over-reverse", "forward-over-reverse", "reverse-over-forward")


def ggnvp(problem: Problem, params: Params, batch: Any, v: Tree) -> Tree:
    """The product with the generalised Gauss-Newton matrix, `G v = 1/B sum_n J_n^T H_n J_n v`.

    `J_n` is the Jacobian of example n's outputs in the parameters, `H_n` the Hessian of its criterion in its outputs.
    One forward pass with tangents, one backward pass.

    Args:
        problem: with outputs, any pytree, and a criterion that is convex in them.
        params, batch: the point.
        v: a tree like `params`, or K of them with one leading axis on every leaf.

    Returns:
        A tree like `v`.

    Raises:
        ConfigError: a loss without outputs, a criterion without a GGN, or `v` does not match `params`.

    Source: N. Schraudolph, "Fast curvature matrix-vector products for second-order gradient descent", Neural
    Computation 2002.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> ggnvp(problem, params, problem.fake_batch(4), params)["dense.0.bias"].shape
    torch.Size([10])
    """
    return ggn_map(problem, params, batch, keep=False)(v)


def make_ggnvp(problem: Problem, params: Params, batch: Any) -> LinearMap:
    """The GGN at one point as a map that keeps the forward pass; see `ggnvp`.

    Args:
        problem, params, batch: as in `ggnvp`.

    Returns:
        The map `v -> G v`, of a tree or K of them.

    Raises:
        ConfigError: a loss without outputs, or a criterion without a GGN.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> make_ggnvp(problem, params, problem.fake_batch(4)).size
    7850
    """
    return ggn_map(problem, params, batch, keep=True)


def ggn_map(subject: LossOrProblem, params: Params, batch: Any, *, keep: bool) -> LinearMap:
    """The GGN as a map that keeps the forward pass, or does it anew at each product."""
    problem = checked_ggn(subject, params, batch, "ggnvp")
    outputs = TensorsOf(lambda p: problem.outputs(p, batch))
    middle = lambda tensors: criterion_hessian(problem, batch, outputs, tensors)
    return chosen_sandwich(problem, outputs, params, batch, middle, keep=keep, purpose="ggnvp")


def chosen_sandwich(
    subject: LossOrProblem,
    function: Callable[[Params], Tensors],
    params: Params,
    batch: Any,
    make_middle: Callable[[Tensors], Middle],
    *,
    keep: bool,
    purpose: str,
) -> LinearMap:
    """`sandwich` by a way that is right for the subject, the wanted one if it is.

    Raises:
        ConfigError: neither is.
    """
    wanted: list[Way] = ["vjp of vjp", "jvp"] if keep else ["jvp", "vjp of vjp"]
    way = choose(subject, params, batch, wanted, purpose)
    product = sandwich(function, params, make_middle, keep=way == "vjp of vjp").product
    return LinearMap(product, params, functools.partial(at_once, subject, params, batch, way))


def criterion_hessian(problem: Problem, batch: Any, outputs: TensorsOf, tensors: Tensors) -> Middle:
    """`u -> H u` for the Hessian H of the mean criterion in the outputs, at `tensors`."""
    gradient = grad(lambda parts: problem.criterion(outputs.rebuilt(parts), batch).mean())
    pull = vjp(gradient, tensors)[1]
    return lambda tangents: pull(tangents)[0]


def linear_map(
    subject: LossOrProblem | LinearMap, params: Params | None = None, batch: Any = None, matrix: Matrix | None = None
) -> LinearMap:
    """The map that a derived quantity is asked of: a map itself, or a matrix of a loss at a point.

    Args:
        subject: a `LinearMap`, of which nothing else is needed, or what `hvp` takes.
        params, batch: the point.
        matrix: `"hessian"` (the default) or `"ggn"`.

    Returns:
        The map.

    Raises:
        ConfigError: the matrix is unknown, something is missing, or is given together with a map.
    """
    if isinstance(subject, LinearMap):
        if params is not None or batch is not None or matrix is not None:
            raise ConfigError("A LinearMap has its point and its matrix: pass no params, batch or matrix beside it.")
        return subject
    if params is None or batch is None:
        raise ConfigError("A loss has a Hessian at a point only: pass params and batch, or a LinearMap alone.")
    if matrix in (None, "hessian"):
        return make_hvp(subject, params, batch)
    if matrix == "ggn":
        return make_ggnvp(subject, params, batch)  # type: ignore[arg-type]  # a loss without outputs is refused there
    raise ConfigError(unknown("matrix", str(matrix), ("hessian", "ggn")))
