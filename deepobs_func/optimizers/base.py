"""The interface of every optimizer: a pair of functions, and the oracle that they ask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Params
from deepobs_func.tree import Tree

if TYPE_CHECKING:
    from deepobs_func.probes.fisher import Kind
    from deepobs_func.probes.linear_map import LinearMap
    from deepobs_func.probes.outer import Statistic
    from deepobs_func.probes.outer_products import LayerGradients
    from deepobs_func.probes.per_example import Statistics


class Oracle(Protocol):
    """The problem at the batch of a step, as an optimizer sees it. Only what is asked for is computed.

    Value, gradient and curvature are of the objective, `mean loss + penalty`, which is what an optimizer minimises.
    Per-example answers are of the losses alone, without the penalty.
    """

    def value(self) -> Tensor:
        """The objective, a 0-d tensor."""

    def grad(self) -> Params:
        """The gradient of the objective."""

    def loss_at(self, params: Params) -> Tensor:
        """The objective of the same batch at another point."""

    def at(self, params: Params) -> Oracle:
        """The oracle of the same batch at another point."""

    def hvp(self, v: Tree) -> Tree:
        """The Hessian of the objective times a vector, or K vectors along a leading axis."""

    def ggnvp(self, v: Tree) -> Tree:
        """The same with the GGN of the mean loss instead of its Hessian; the penalty's Hessian is added."""

    def make_hvp(self) -> LinearMap:
        """The Hessian as a map that keeps the gradient's graph, for many products."""

    def make_ggnvp(self) -> LinearMap:
        """The GGN, with the penalty's Hessian, as a map that keeps the forward pass, for many products."""

    def per_example_grads(self, *, bn: str | None = None) -> Params:
        """The gradient of each example's loss, `(B, *shape)` for each parameter; `bn` as in `probes.statistics`."""

    def statistics(self, wanted: Iterable[Statistic], *, bn: str | None = None) -> Statistics:
        """Statistics of the per-example gradients, from one computation; see `probes.statistics`."""

    def layer_gradients(self, kind: Kind, *, key: random.Key | None = None, bn: str | None = None) -> LayerGradients:
        """Gradients of the examples as their layers have them; see `probes.layer_gradients`."""

    def gradient_factors(self) -> LayerGradients | None:
        """The gradient of the objective as a sum of outer products, where that is all there is to it."""

    def layerless(self) -> list[str]:
        """The parameters of layers that do not know their per-example gradients."""

    def taps_in_branches(self) -> bool:
        """Whether `layer_gradients` can be asked inside a branch of `torch.cond`."""

    def part(self, size: int | None) -> Oracle:
        """The oracle of the first examples of the batch, or of all of them by None."""


def accept(problem: Any) -> None:
    """The `check` of optimizers that work with every problem."""


def report_nothing(opt_state: Any) -> dict[str, Tensor]:
    """The `report` of optimizers whose state has nothing to record."""
    return {}


def the_iterate(opt_state: Any, params: Params) -> Params:
    """The `eval_params` of optimizers whose iterate is their result."""
    return params


def as_it_is(opt_state: Any) -> Any:
    """The `save` of optimizers whose state is a value already: a tree of tensors that no update changes."""
    return opt_state


def as_it_was(snapshot: Any, params: Params, key: random.Key) -> Any:
    """The `load` that belongs to `as_it_is`."""
    return snapshot


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        init: `(params, key) -> opt_state`. The key is for optimizers that draw; most do not read it.
        update: `(oracle, opt_state, params) -> (params, opt_state)`.
        compiles: whether `update` is pure tensor code, so that it can stand inside a compiled step.
        check: `problem -> None`; raises a ConfigError, before a run starts, where what the optimizer asks of the
            oracle is not defined.
        report: `opt_state -> {name: 0-d tensor}`, what a run records of the state beside each mini-batch loss.
        eval_params: `(opt_state, params) -> params`, what is evaluated, and what `run` and `load` return. It is the
            iterate itself, except for methods that average (schedule-free ones), of which tracking and `probe_run` look
            at the iterate; it changes neither argument.
            The moving moments of batch norm stay those of the iterates.
        save: `opt_state -> tree`, a snapshot as a value: nested dicts, lists and tuples of tensors, numbers, strings
            and None, which later steps do not change. Raises a ConfigError where the state cannot be had as a value.
        load: `(tree, params, key) -> opt_state`, the state of a snapshot, at the parameters and with the key of `init`;
            it goes on bit for bit.
        calls: `opt_state -> {"gradients": n, "products": n, "evaluations": n}`, how often `update` has called the
            oracle since `init`, as whole numbers or 0-d tensors (see `optimizers.counting`); None where that is not
            declared.
        curvature_batch: how many examples of a batch, from the first on, its curvature is computed from; None for all.
        by_layers: whether it asks for gradients by layers (`oracle.layer_gradients`), which no batch in pieces has.
        calls_at: `(problem, batch_size) -> calls`, which a run takes in the place of `calls`: a product with the
            curvature of a quarter of the batch is a quarter of a product there, and sums are rounded up. None where
            `calls` are right for every batch.

    >>> from deepobs_func import RunConfig, run, tree
    >>> def update(oracle, opt_state, params):
    ...     return tree.sub(params, tree.scale(1e-3, oracle.grad())), opt_state
    >>> mine = Optimizer(init=lambda params, key: {}, update=update)
    >>> record = run(RunConfig("quadratic_deep", "mine", 1e-3, epochs=2, output_dir=None), optimizer=mine).record
    >>> record.test_losses[-1] < record.test_losses[0]
    True
    """

    init: Callable[[Params, random.Key], Any]
    update: Callable[[Oracle, Any, Params], tuple[Params, Any]]
    compiles: bool = True
    check: Callable[[Any], None] = accept
    report: Callable[[Any], dict[str, Tensor]] = report_nothing
    eval_params: Callable[[Any, Params], Params] = the_iterate
    save: Callable[[Any], Any] = as_it_is
    load: Callable[[Any, Params, random.Key], Any] = as_it_was
    calls: Callable[[Any], Mapping[str, Any]] | None = None
    curvature_batch: int | None = None
    by_layers: bool = False
    calls_at: Callable[[Any, int], Callable[[Any], Mapping[str, Any]]] | None = None
