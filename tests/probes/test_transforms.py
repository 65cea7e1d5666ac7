"""Every probe in a compiled graph without breaks, and inside a population, is what it is alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from deepobs_func import probes, problems, random
from deepobs_func.base import Batch
from deepobs_func.probes.catalog import HVPMode
from deepobs_func.problems.problem import Problem
from tests.probes.toys import conv_problem, instance, toy, vector

KEY = random.key(7)
TOY = toy("classifier")
# As TOY without biases: what is drawn for two tensors takes the tracer half as long as for four.
LEAN = problems.from_module(
    nn.Sequential(nn.Linear(3, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)),
    TOY.measure,
    TOY.dataset,
    name="lean",
    weight_decay=0.1,
)
V, VS = vector(instance(TOY)[0]), vector(instance(TOY)[0], count=2)
GGN = {"matrix": "ggn", "key": KEY}


def solved(params: dict, batch: Batch) -> Any:
    ggn = probes.make_ggnvp(TOY, params, batch)
    return probes.conjugate_gradients(ggn, V, damping=0.1, max_steps=3)


def over_two_batches(params: dict, batch: Batch) -> Any:
    return probes.over(lambda b, v: probes.ggnvp(TOY, params, b, v), params, [batch, batch])(V)


PRODUCTS: dict[str, Callable[[dict, Batch], Any]] = {
    **{
        f"hvp, {mode}": lambda p, b, mode=mode: probes.hvp(TOY, p, b, V, mode=mode)  # type: ignore[misc]
        for mode in get_args(HVPMode)
    },
    "hvp, batched": lambda p, b: probes.hvp(TOY.objective, p, b, VS),
    "hvp, kept": lambda p, b: (lambda hessian: hessian(hessian(V)))(probes.make_hvp(TOY, p, b)),
    "ggnvp": lambda p, b: probes.ggnvp(TOY, p, b, V),
    "ggnvp, kept": lambda p, b: (lambda ggn: ggn(ggn(V)))(probes.make_ggnvp(TOY, p, b)),
    "fisher, exact": lambda p, b: probes.fisher_vp(TOY, p, b, V),
    "fisher, empirical": lambda p, b: probes.fisher_vp(TOY, p, b, V, kind="empirical"),
    "fisher, monte-carlo": lambda p, b: probes.fisher_vp(TOY, p, b, V, kind="monte-carlo", key=KEY, samples=2),
    "over": over_two_batches,
}
PROBES: dict[str, Callable[[dict, Batch], Any]] = {
    **PRODUCTS,
    "lanczos": lambda p, b: probes.lanczos_eigenvalues(LEAN, p, b, k=2, steps=3)[:2],
    "density": lambda p, b: probes.spectral_density(LEAN, p, b, samples=2, steps=2, points=5, **GGN),
    "trace": lambda p, b: probes.trace(LEAN, p, b, samples=2, **GGN),
    "trace, hutch++": lambda p, b: probes.trace(LEAN, p, b, samples=6, method="hutch++", **GGN),
    "diagonal": lambda p, b: probes.diagonal(LEAN, p, b, samples=2, **GGN),
    "diagonal, exact": lambda p, b: probes.diagonal(LEAN, p, b, method="exact", **GGN).value,
    "diagonal, monte-carlo": lambda p, b: probes.diagonal(LEAN, p, b, method="monte-carlo", samples=2, **GGN),
    "conjugate gradients": solved,
}


def problem_of(name: str) -> Problem:
    return TOY if name in PRODUCTS or name == "conjugate gradients" else LEAN


def tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def close(actual: Any, expected: Any) -> None:
    for one, other in zip(tensors(actual), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


# Every kind of product once; the tracer takes seconds for each, longest for what is drawn.
QUICK = ("hvp, reverse-over-forward", "ggnvp, kept")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.large) for name in PROBES]
)
def test_compiles_without_breaks_and_only_once(name: str) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager" if name in PRODUCTS else "eager")(graph, inputs)

    probe = PROBES[name]
    compiled = torch.compile(lambda p, b: probe(p, b), backend=backend, fullgraph=True)
    for seed in (0, 1):
        params, batch = instance(problem_of(name), 2, seed)
        close(compiled(params, batch), probe(params, batch))
    assert len(graphs) == 1


@pytest.mark.parametrize("name", PROBES)
def test_a_member_of_a_population_is_what_it_is_alone(name: str) -> None:
    problem = problem_of(name)
    members = [instance(problem, 2, seed)[0] for seed in (0, 1)]
    batch = instance(problem, 2)[1]
    stacked = {key: torch.stack([member[key] for member in members]) for key in members[0]}
    together = vmap(lambda p: PROBES[name](p, batch))(stacked)
    for index, member in enumerate(members):
        close([leaf[index] for leaf in tensors(together)], PROBES[name](member, batch))


@pytest.mark.large
def test_a_compiled_population_of_a_convolutional_net_with_batch_norm() -> None:
    problem = conv_problem(norm=True)
    members = [instance(problem, 3, seed)[0] for seed in (0, 1)]
    batch = problem.fake_batch(3, dtype=torch.float64)
    stacked = {key: torch.stack([member[key] for member in members]) for key in members[0]}
    products = lambda p: (probes.hvp(problem, p, batch, p), probes.make_ggnvp(problem, p, batch)(p))
    together = torch.compile(vmap(products), backend="eager", fullgraph=True)(stacked)
    for index, member in enumerate(members):
        close([leaf[index] for leaf in tensors(together)], products(member))
