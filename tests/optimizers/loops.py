"""A torch optimizer behind the adapter beside the loop that everybody writes, on a small net in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func import random
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.torch_optim import from_class, from_factory

Tree = dict[str, Tensor]
Named = list[tuple[str, nn.Parameter]]
STEPS = 5


@dataclass(frozen=True)
class Case:
    """How a class is used.

    Attributes:
        cls: the class.
        lr: its learning rate.
        hyper: its other hyperparameters, as the adapter takes them.
        make: how a user makes one; by default `cls(parameters, lr=lr, **hyper)`.
        factory: whether the adapter takes `make` itself, for classes that want groups.
        closure: whether the class does nothing, or something else, without a closure.
        graph: whether it differentiates the gradient.
        matrices: whether it takes matrices only.
        dtype: of the parameters.
    """

    cls: type[torch.optim.Optimizer]
    lr: float = 0.01
    hyper: dict[str, Any] = field(default_factory=dict)
    make: Callable[[Named], torch.optim.Optimizer] | None = None
    factory: bool = False
    closure: bool = False
    graph: bool = False
    matrices: bool = False
    dtype: torch.dtype = torch.float64

    def made(self, named: Named) -> torch.optim.Optimizer:
        if self.make is not None:
            return self.make(named)
        return self.cls([leaf for _, leaf in named], lr=self.lr, **self.hyper)

    def ours(self) -> Optimizer:
        if self.factory:
            return from_factory(self.made)
        return from_class(self.cls, self.lr, self.hyper)


DATA = [torch.randn(16, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (4, 3)]


def start(case: Case) -> Tree:
    generator = torch.Generator().manual_seed(0)
    shapes = {"first.weight": (6, 4), "first.bias": (6,), "second.weight": (3, 6)}
    drawn = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    return {name: leaf.to(case.dtype) for name, leaf in drawn.items() if leaf.ndim == 2 or not case.matrices}


def objective(params: Tree) -> Tensor:
    """`|tanh(x A^T + b) B^T - y|^2 / 48`."""
    x, y = (data.to(params["first.weight"].dtype) for data in DATA)
    hidden = torch.tanh(x @ params["first.weight"].mT + params.get("first.bias", 0.0))
    return (hidden @ params["second.weight"].mT - y).square().mean()


class Oracle:
    """The objective as an optimizer asks it."""

    def __init__(self, params: Tree) -> None:
        self._params = params

    def value(self) -> Tensor:
        return objective(self._params)

    def grad(self) -> Tree:
        return torch.func.grad(objective)(self._params)

    def at(self, params: Tree) -> Oracle:
        return Oracle(params)

    def loss_at(self, params: Tree) -> Tensor:
        return objective(params)


def assert_plain(tree: Any) -> None:
    """A snapshot holds nothing but what any file format has."""
    if isinstance(tree, dict):
        assert all(type(key) is str for key in tree)
        tree = list(tree.values())
    if isinstance(tree, list):
        for part in tree:
            assert_plain(part)
    else:
        assert tree is None or type(tree) in (bool, int, float, str, Tensor), type(tree)


def ours(case: Case, *, save_at: int | None = None) -> Tree:
    """The parameters after some steps; the given ones stay as they are; at one step the state is saved and loaded."""
    optimizer, params, key = case.ours(), start(case), random.key(0)
    state = optimizer.init(params, key)
    for step in range(STEPS):
        if step == save_at:
            tree = optimizer.save(state)
            assert_plain(tree)
            optimizer.update(Oracle(params), state, params)  # what the state goes through later is not in the tree
            state = optimizer.load(tree, params, random.key(1))
        given, before = params, {name: leaf.clone() for name, leaf in params.items()}
        params, state = optimizer.update(Oracle(params), state, params)
        optimizer.eval_params(state, params)  # leaves no trace
        assert all(torch.equal(given[name], leaf) for name, leaf in before.items())
    return params


def theirs(case: Case) -> tuple[Tree, Tree]:
    """The parameters after some steps in the plain loop, and those that the class is evaluated at."""
    leaves = {name: nn.Parameter(leaf) for name, leaf in start(case).items()}
    words = random.bits(random.fold_in(random.key(0), random.OPTIMIZER), 2).tolist()  # as the adapter seeds it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(words[0] << 31 | words[1] >> 1)
        optimizer: Any = case.made(list(leaves.items()))

        def closure() -> Tensor:
            with torch.enable_grad():
                for leaf in leaves.values():
                    leaf.grad = None
                loss = objective(leaves)
                loss.backward(create_graph=case.graph)
            return loss

        for _ in range(STEPS):
            if hasattr(optimizer, "train"):
                optimizer.train()
            closure()
            optimizer.step(closure) if case.closure else optimizer.step()
    iterate = {name: leaf.detach().clone() for name, leaf in leaves.items()}
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return iterate, {name: leaf.detach().clone() for name, leaf in leaves.items()}


def check(case: Case) -> None:
    """The adapter's run equals the plain loop, and so does one that is saved and loaded on the way, bit for bit."""
    run, (iterate, evaluated), first = ours(case), theirs(case), start(case)
    distance = lambda a, b: max(float((a[name] - b[name]).detach().abs().max()) for name in first)
    moved = distance(iterate, first)
    assert 0 < moved < float("inf"), "an optimizer that stands still would pass"
    assert distance(run, iterate) <= 1e-10 * moved + 1e-14
    again = ours(case, save_at=3)
    assert all(torch.equal(again[name], leaf) for name, leaf in run.items())
    optimizer, params = case.ours(), first
    state = optimizer.init(params, random.key(0))
    assert optimizer.eval_params(state, params) is params
    for _ in range(STEPS):
        params, state = optimizer.update(Oracle(params), state, params)
    assert distance(optimizer.eval_params(state, params), evaluated) <= 1e-6 * moved
