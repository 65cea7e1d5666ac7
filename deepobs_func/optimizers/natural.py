"""K-FAC and EKFAC: the gradient times the inverse of a Kronecker-factored Fisher matrix.

The factors come from the inputs of the layers and the gradients of their outputs (`oracle.layer_gradients`), every
`update_every`-th step, on the whole batch or on its first `curvature_batch` examples. The steps between compute none,
in eager and in compiled code (`torch.cond`). A population, whose members count their own steps, computes them in every
one, and so does a compiled step of a user's own net, whose layers the compiler does not look into inside a branch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Outer, Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import checked
from deepobs_func.optimizers.axes import wide
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.blocks import (
    bases_of,
    factors_of,
    inverses_of,
    multiplied,
    sides,
    solved,
    squares_in,
    squares_of,
    zero_factors,
)
from deepobs_func.optimizers.conditional import in_any_case, only_if
from deepobs_func.optimizers.counting import rounded_up, share_of
from deepobs_func.optimizers.schedules import Schedule
from deepobs_func.optimizers.transforms import Hyper, Transform, View, compose
from deepobs_func.optimizers.transforms import weight_decay as decay
from deepobs_func.probes.example_losses import check_batch_norm
from deepobs_func.probes.outer_products import MOST_OUTPUTS, LayerGradients, layerless, outputs_of_an_example
from deepobs_func.tree import Tree

_PARTS = ("factors", "used", "squares")  # of what is computed anew when it is due

Transforms = Sequence[Transform]


class Curvature(NamedTuple):
    """What K-FAC and EKFAC remember.

    Attributes:
        factors: averages, by parameter and side (see `optimizers.blocks`).
        used: what the gradient is multiplied by: inverses of the factors; for EKFAC their eigenbases.
        squares: for EKFAC, the mean squares of the gradients in these bases.
        buffer: of the momentum.
    """

    factors: Tree
    used: Tree
    squares: Tree
    buffer: Params


class How(NamedTuple):
    """What decides what is computed; see the arguments of `kfac`."""

    corrected: bool  # EKFAC
    fisher: str
    curvature_batch: int | None
    bn: str | None
    others: str | None
    max_dim: int
    is_first: bool  # the direction that comes in is the gradient itself


@cache
def _make_rule(how: How) -> tuple[Callable[[Params], Curvature], Callable[..., tuple[Params, Curvature]]]:
    """The functions of a structure, so that a compiled step serves every value."""

    def init(params: Params) -> Curvature:
        factors = zero_factors(params, how.max_dim)
        if how.corrected:
            used = {name: torch.zeros_like(leaf) for name, leaf in factors.items() if not name.endswith("/squares")}
            squares = {squares_of(name): torch.zeros_like(leaf, dtype=wide(leaf)) for name, leaf in params.items()}
            squares = {name: _as_matrix(leaf) for name, leaf in squares.items()}
        else:
            used, squares = tree.zeros_like(factors), {}
        return Curvature(factors, used, squares, tree.zeros_like(params))

    def act(view: View, direction: Params, slots: Curvature) -> tuple[Params, Curvature]:
        hyper = view.hyper
        due = torch.remainder(view.step - 1, hyper["update_every"]) == 0
        found = None
        # Before the branch: after one, Dynamo does not see that the oracle has another gradient, and keeps both passes.
        if how.is_first and not how.corrected and torch.compiler.is_compiling():
            found = view.oracle.gradient_factors()
            direction = direction if found is None else view.oracle.grad()
        whole = tree.joined(factors=slots.factors, used=slots.used, squares=slots.squares)
        when = in_any_case if torch.compiler.is_compiling() and not view.oracle.taps_in_branches() else only_if
        factors, used, squares = tree.parted(when(due, lambda now: _renewed(view, how, now), whole), *_PARTS)
        plain = set(view.oracle.layerless()) if how.others else set()
        moved, product = _preconditioned(direction, found, used, squares, hyper, plain)
        moved = tree.scale(_shortening(product, view.lr, hyper["kl_clip"]), moved)
        buffer = tree.add_scaled(moved, 1, hyper["momentum"], slots.buffer)
        return buffer, Curvature(factors, used, squares, buffer)

    return init, act


def _as_matrix(leaf: Tensor) -> Tensor:
    return leaf.reshape(leaf.shape[0], -1) if leaf.ndim >= 2 else leaf


def _renewed(view: View, how: How, whole: Tree) -> Tree:
    """The factors with this step's, and what is computed from them."""
    factors, used, squares = tree.parted(whole, *_PARTS)
    hyper, key = view.hyper, random.fold_in(view.key, view.step)
    oracle = view.oracle.part(how.curvature_batch)
    found = oracle.layer_gradients(how.fisher, key=key, bn=how.bn)  # type: ignore[arg-type]  # checked
    weight = torch.where(view.step == 1, 1.0, 1 - hyper["beta"])
    blend = lambda old, new: torch.lerp(old, new, weight.to(old.dtype))
    factors = tree.map(blend, factors, factors_of(found, factors))
    if how.corrected:
        used = bases_of(factors)
        squares = tree.map(blend, squares, squares_in(found, used, squares))
    else:
        used = inverses_of(factors, hyper["damping"])
    return tree.joined(factors=factors, used=used, squares=squares)


def _preconditioned(
    grads: Params, found: LayerGradients | None, used: Tree, squares: Tree, hyper: Hyper, plain: set[str]
) -> tuple[Params, Tensor]:
    """The direction, and its inner product with the gradient, 0-d float64."""
    moved, products = {}, []
    for name, grad in grads.items():
        outer = None if found is None else found.grads.get(name)
        if name in plain:
            moved[name] = grad
        elif isinstance(outer, Outer) and _is_thin(outer, used, name):
            moved[name], product = _of_outer(outer, used, name)
            moved[name] = moved[name].view(grad.shape).to(grad.dtype)
            products.append(product)
            continue
        else:
            moved[name] = _of_dense(name, grad, used, squares, hyper["damping"])
        products.append((moved[name] * grad).sum())
    return moved, torch.stack([product.to(torch.float64) for product in products]).sum()


def _is_thin(outer: Outer, used: Tree, name: str) -> bool:
    """Whether it takes less to multiply the factors of a gradient than the gradient."""
    m, n, t = outer.sizes
    full = all(used[side].ndim == 2 for side in sides(name))
    return full and t == 1 and outer.rows.shape[0] * (m * m + n * n) < m * n * (m + n)


def _of_outer(outer: Outer, used: Tree, name: str) -> tuple[Tensor, Tensor]:
    """`L G R` of `G = sum_b r_b c_b^T`, and its inner product with G, without G."""
    dtype = next(iter(used.values())).dtype
    rows, columns = outer.rows.squeeze(2).to(dtype), outer.columns.squeeze(2).to(dtype)
    turned = [solved(each, used[side]) for each, side in zip((rows, columns), sides(name), strict=True)]
    product = ((turned[0] @ rows.transpose(0, 1)) * (turned[1] @ columns.transpose(0, 1))).sum()
    return turned[0].transpose(0, 1) @ turned[1], product


def _of_dense(name: str, grad: Tensor, used: Tree, squares: Tree, damping: Tensor) -> Tensor:
    """A parameter's gradient times the inverse of its block."""
    place, (rows, columns) = squares_of(name), sides(name)
    if grad.ndim < 2:
        scale = 1 / (squares[place] + damping.to(squares[place].dtype)) if squares else used[place]
        return (grad * scale).to(grad.dtype)
    matrix = _as_matrix(grad).to(next(iter(used.values())).dtype)
    if not squares:
        turned = solved(solved(matrix, used[columns]).transpose(0, 1), used[rows]).transpose(0, 1)
        return turned.reshape(grad.shape).to(grad.dtype)
    left, right = used[rows], used[columns]
    back = [basis if basis.ndim == 1 else basis.transpose(0, 1) for basis in (left, right)]
    turned = multiplied(matrix, back[0], right) / (squares[place] + damping.to(matrix.dtype))
    return multiplied(turned, left, back[1]).view(grad.shape).to(grad.dtype)


def _shortening(product: Tensor, lr: Tensor, bound: Tensor) -> Tensor:
    """`min(1, sqrt(bound / (lr^2 |<d, g>|)))`; 1 for a bound of 0."""
    ratio = bound / (lr * lr * product.abs())
    return torch.where((bound > 0) & (product != 0), torch.sqrt(ratio).clamp(max=1.0), 1.0)


def _a_pass_when_due(hyper: Hyper, step: Tensor, slots: Any, weight: float = 1.0) -> dict[str, Tensor]:
    """In steps 1, 1 + update_every, and so on."""
    return {"gradients": rounded_up(weight * torch.ceil(step / hyper["update_every"]))}


def _passes(how: How, problem: Any, batch_size: int) -> float:
    """What factors cost in gradients: a forward pass is a third of one, each of D backward passes two thirds."""
    backward = outputs_of_an_example(problem) if how.fisher == "exact" else 1
    return share_of(how.curvature_batch, batch_size) * (1 + 2 * backward) / 3


def _check(problem: Any, name: str, how: How) -> None:
    measure = problem.measure
    if how.fisher != "empirical" and not measure.convex:
        raise ConfigError(
            f"{name} needs a GGN, and {problem.name} has none: its criterion is not known to be convex in the outputs "
            "(Measure.convex). Take fisher='empirical', or soap or shampoo, which need none."
        )
    if how.fisher == "monte-carlo" and measure.sample is None:
        raise ConfigError(
            f"{name} draws targets, and the criterion of {problem.name} does not say how (Measure.sample). Take "
            "fisher='exact' or 'empirical'."
        )
    if how.fisher == "exact" and (outputs := outputs_of_an_example(problem)) > MOST_OUTPUTS:
        raise ConfigError(
            f"{name}: fisher='exact' takes a backward pass for each output of an example, at most {MOST_OUTPUTS}, and "
            f"{problem.name} has {outputs}. Take fisher='monte-carlo', one draw of each target."
        )
    check_batch_norm(problem, how.bn)
    if how.bn == "coupled":
        raise ConfigError(f"{name}: bn='coupled' has no gradients by layers; take bn='frozen' or 'eval'.")
    missing = layerless(problem)
    if missing and how.others is None:
        raise ConfigError(
            f"{name} has no factors for {', '.join(missing)} of {problem.name}: their layers do not know their "
            "per-example gradients. With others='gradient' they follow the plain gradient; soap and shampoo need no "
            "layers."
        )


def _composed(
    name: str,
    how: How,
    hyper: dict[str, float],
    weight_decay: float,
    lr: float,
    chain: tuple[Transforms, Transforms],
    schedule: Schedule | None,
) -> Optimizer:
    init, act = _make_rule(how)
    hyper = {each: checked(each, value, of=name) for each, value in hyper.items()}

    def made(weight: float) -> Optimizer:
        rule = Transform(hyper, init, calls=partial(_a_pass_when_due, weight=weight), act=act)
        return compose(*chain[0], rule, decay(weight_decay), *chain[1], lr=lr, schedule=schedule)

    def calls_at(problem: Any, batch_size: int) -> Callable[[Any], Mapping[str, Any]]:
        found = made(_passes(how, problem, batch_size)).calls
        assert found is not None, "all are declared"
        return found

    optimizer = made(1.0)
    return optimizer._replace(
        check=partial(_check, name=name, how=how),
        curvature_batch=how.curvature_batch,
        by_layers=True,
        calls_at=None if optimizer.calls is None else calls_at,
    )


def kfac(
    lr: float,
    damping: float = 1e-2,
    beta: float = 0.95,
    momentum: float = 0.9,
    kl_clip: float = 1e-3,
    weight_decay: float = 0.0,
    update_every: int = 10,
    fisher: str = "monte-carlo",
    curvature_batch: int | None = None,
    bn: str | None = None,
    others: str | None = None,
    max_dim: int = 10000,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """K-FAC: natural gradient descent with a Kronecker-factored Fisher matrix.

    For a weight `(m, n)` whose gradient is `sum_t g_t a_t^T` in each example, a_t being what the layer multiplies (an
    input, a patch of it), `R` and `C` are averages of `sum_t g_t g_t^T` and of the mean over t of `a_t a_t^T`, the g
    being gradients for random targets, drawn from the model. With `pi^2 = (tr C / n) / (tr R / m)`,
    `D = (R + sqrt(damping) / pi I)^-1 G (C + pi sqrt(damping) I)^-1`. Biases and other vectors have the diagonal F of
    their block, `D = G / (F + damping)`. With `nu = min(1, sqrt(kl_clip / (lr^2 <D, G>)))`,
    `M <- momentum M + nu D`, `params - lr (M + weight_decay params)`.

    Args:
        lr: the base learning rate.
        damping: more than 0. A matrix that it leaves indefinite has an inverse of NaN, and the run diverges.
        beta: of the averages, `beta old + (1 - beta) new`; the first replaces what is there.
        momentum: from 0 to below 1.
        kl_clip: bounds the change of the model that a step makes, `lr^2 <D, G>`; 0 for no bound.
        weight_decay: decoupled, 0 or more.
        update_every: steps between two computations of the factors and their inverses, from the first on.
        fisher: `"monte-carlo"`, one draw of each target; `"exact"`, a pass for each of the outputs; `"empirical"`, the
            targets of the batch.
        curvature_batch: how many examples of the batch, from the first on, the factors are computed from; None for all.
        bn: where batch norm couples the examples, `"frozen"` or `"eval"`, as in `probes.statistics`.
        others: `"gradient"` has parameters of layers without factors follow the plain gradient; None refuses them.
        max_dim: a longer side of a matrix has a diagonal factor.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: a value is out of its range; (from `check`) the criterion has no GGN or cannot be sampled, `bn`
            does not fit, layers have no factors, or an example has more than 128 outputs (`fisher="exact"`); (in a
            step) `curvature_batch` is more than the batch.

    Source: Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate curvature", ICML 2015;
    Grosse and Martens, ICML 2016, for convolutions; weights that are used at many positions or steps as in the "expand"
    setting of Eschenhagen et al., NeurIPS 2023. `kl_clip` is that of Ba, Grosse and Martens, ICLR 2017. Theirs joins a
    bias to its weight, re-scales the step by the exact Fisher and adapts the damping; this does none of it.

    >>> optimizer = kfac(0.1, damping=1e-3, curvature_batch=32)
    """
    how = _how(False, fisher, curvature_batch, bn, others, max_dim, before)
    hyper = {"damping": damping, "beta": beta, "momentum": momentum, "kl_clip": kl_clip, "update_every": update_every}
    return _composed("kfac", how, hyper, weight_decay, lr, (before, after), schedule)


def _how(
    corrected: bool,
    fisher: str,
    curvature_batch: int | None,
    bn: str | None,
    others: str | None,
    max_dim: int,
    before: Transforms,
) -> How:
    values = {"fisher": fisher, "curvature_batch": curvature_batch, "bn": bn, "others": others, "max_dim": max_dim}
    found = {name: checked(name, value) for name, value in values.items()}
    return How(corrected=corrected, is_first=not before, **found)


def ekfac(
    lr: float,
    damping: float = 1e-2,
    beta: float = 0.95,
    momentum: float = 0.9,
    kl_clip: float = 1e-3,
    weight_decay: float = 0.0,
    update_every: int = 10,
    fisher: str = "monte-carlo",
    curvature_batch: int | None = None,
    bn: str | None = None,
    others: str | None = None,
    max_dim: int = 10000,
    *,
    before: Transforms = (),
    after: Transforms = (),
    schedule: Schedule | None = None,
) -> Optimizer:
    """EKFAC: K-FAC whose eigenvalues are the mean squares of the gradients in its eigenbasis.

    With `U`, `V` the eigenvectors of R and C (see `kfac`) and `S` an average of `(U^T G_n V)^2` over the examples,
    `D = U ((U^T G V) / (S + damping)) V^T`; all else is K-FAC's.

    Args:
        lr, damping, beta, momentum, kl_clip, weight_decay, update_every: as in `kfac`.
        fisher, curvature_batch, bn, others, max_dim: as in `kfac`.
        before: transforms of the gradient, such as `clip_by_global_norm(1.0)`.
        after: transforms of the direction.
        schedule: the factor of the learning rate by update; by default 1.

    Returns:
        The optimizer.

    Raises:
        ConfigError: as in `kfac`.

    Source: George, Laurent, Bouthillier, Ballas and Vincent, "Fast approximate natural gradient descent in a
    Kronecker-factored eigenbasis", NeurIPS 2018. S is averaged where the bases are renewed, over the draws of then and
    in the bases of then; theirs is averaged in every step, from the gradients of the batch.

    >>> optimizer = ekfac(0.1, damping=1e-3, update_every=20)
    """
    how = _how(True, fisher, curvature_batch, bn, others, max_dim, before)
    hyper = {"damping": damping, "beta": beta, "momentum": momentum, "kl_clip": kl_clip, "update_every": update_every}
    return _composed("ekfac", how, hyper, weight_decay, lr, (before, after), schedule)
