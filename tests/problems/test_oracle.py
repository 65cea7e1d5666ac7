"""The oracle: one computation, asked in several ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.utils import _pytree as pytree

from deepobs_func import datasets, problems, random, tree
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import BatchNorm, Dense, Pass
from deepobs_func.problems import measures
from deepobs_func.problems.oracle import Oracle, make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem
from deepobs_func.tree import Tree
from tests.problems.small_nets import short_text


def test_value_and_gradient_share_one_computation() -> None:
    problem = problems.get("quadratic_deep")
    params, _ = problem.init()
    batch = problem.fake_batch(4)
    calls = []
    value_and_grad = make_value_and_grad(problem)

    def counted(*args):
        calls.append(args)
        return value_and_grad(*args)

    oracle = Oracle(problem, counted, params, batch)
    torch.testing.assert_close(oracle.value(), problem.objective(params, batch))
    expected = torch.func.grad(lambda p: problem.objective(p, batch))(params)
    torch.testing.assert_close(oracle.grad(), expected)
    assert len(calls) == 1


def test_other_points_see_the_same_batch() -> None:
    problem = problems.get("two_d_beale")
    params, _ = problem.init()
    batch = problem.fake_batch(4)
    oracle = Oracle(problem, make_value_and_grad(problem), params, batch)
    elsewhere = tree.scale(0.5, params)
    torch.testing.assert_close(oracle.loss_at(elsewhere), problem.objective(elsewhere, batch))
    torch.testing.assert_close(oracle.at(elsewhere).value(), oracle.loss_at(elsewhere))


# Curvature and single examples, beside dense matrices by autograd, which shares no code with the probes


def flat(vector: Tree) -> torch.Tensor:
    return torch.cat([leaf.flatten() for leaf in vector.values()])


def dense(function: Callable[[Tree], torch.Tensor], params: Tree) -> torch.Tensor:
    """The Jacobian of a function of all parameters, `(outputs, P)`, by one backward pass for each output."""
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    outputs = function(dict(zip(params, leaves, strict=True))).flatten()
    rows = [torch.autograd.grad(output, leaves, create_graph=True, allow_unused=True) for output in outputs]
    return torch.stack(
        [
            torch.cat(
                [(torch.zeros_like(leaf) if g is None else g).flatten() for g, leaf in zip(row, leaves, strict=True)]
            )
            for row in rows
        ]
    )


def dense_hessian(function: Callable[[Tree], torch.Tensor], params: Tree) -> torch.Tensor:
    def gradient(leaves: Tree) -> torch.Tensor:
        grads = torch.autograd.grad(function(leaves), list(leaves.values()), create_graph=True)
        return torch.cat([grad.flatten() for grad in grads])

    return dense(gradient, params).detach()


class TanhNet(nn.Module):
    """A net small enough for dense matrices, 3 -> 4 -> 3, with batch norm or without."""

    def __init__(self, *, normalizes: bool) -> None:
        super().__init__()
        self.first, self.last = Dense(3, 4), Dense(4, 3)
        self.norm = BatchNorm(4, momentum=0.9, epsilon=1e-3) if normalizes else None

    def forward(self, x: torch.Tensor, p: Pass) -> torch.Tensor:
        x = self.first(x, p)
        if self.norm is not None:
            x = self.norm(x[:, :, None, None], p).flatten(1)
        return self.last(torch.tanh(x), p)


def tiny(*, normalizes: bool = False, weight_decay: float | None = 0.3) -> Problem:
    r = np.random.RandomState(0)
    x, y = r.normal(size=(12, 3)).astype(np.float32), r.randint(0, 3, 12)
    return Problem(
        name="tiny",
        dataset=datasets.from_arrays("tiny", (x, y), (x, y)),
        make_net=lambda: TanhNet(normalizes=normalizes),
        measure=measures.cross_entropy,
        weight_decay=weight_decay,
        separable=not normalizes,
        epochs=1,
        batch_size=6,
    )


def ask(problem: Problem) -> tuple[Oracle, Tree, Batch]:
    params, _ = problem.init(0, dtype=torch.float64)
    key = random.key(7)
    params = {
        n: p + 0.3 * random.normal(random.fold_in(key, i), p.shape, p.dtype) for i, (n, p) in enumerate(params.items())
    }
    batch = problem.fake_batch(6, dtype=torch.float64)
    return Oracle(problem, make_value_and_grad(problem), params, batch), params, batch


def vectors(params: Tree, count: int) -> Tree:
    key = random.key(1)
    return {
        name: random.normal(random.fold_in(key, i), (count, *leaf.shape), leaf.dtype)
        for i, (name, leaf) in enumerate(params.items())
    }


def products(map_: Callable[[Tree], Tree], many: Tree) -> torch.Tensor:
    """Rows `A v`, from one call with all vectors and from one call for each; they must agree."""
    together = map_(many)
    count = len(next(iter(many.values())))
    rows = torch.stack([flat(map_({name: leaf[k] for name, leaf in many.items()})) for k in range(count)])
    torch.testing.assert_close(torch.stack([flat({n: v[k] for n, v in together.items()}) for k in range(count)]), rows)
    return rows


TINY = [
    pytest.param({"normalizes": normalizes, "weight_decay": decay}, id=f"{'bn' if normalizes else 'plain'}-{decay}")
    for normalizes in (False, True)
    for decay in (None, 0.0, 0.3)
]


@pytest.mark.parametrize("options", TINY)
def test_hessian_products_are_those_of_the_objective_penalty_included(options: dict[str, Any]) -> None:
    oracle, params, batch = ask(tiny(**options))
    hessian = dense_hessian(lambda p: tiny(**options).objective(p, batch), params)
    many = vectors(params, 3)
    expected = torch.stack([flat({n: v[k] for n, v in many.items()}) for k in range(3)]) @ hessian
    torch.testing.assert_close(products(oracle.hvp, many), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(products(oracle.make_hvp(), many), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", TINY)
def test_ggn_products_have_the_penalty_s_hessian_too(options: dict[str, Any]) -> None:
    problem = tiny(**options)
    oracle, params, batch = ask(problem)
    jacobian = dense(lambda p: problem.outputs(p, batch), params).detach().reshape(6, 3, -1)
    probabilities = problem.outputs(params, batch).softmax(-1)
    middle = torch.diag_embed(probabilities) - probabilities.unsqueeze(-1) * probabilities.unsqueeze(-2)
    ggn = (jacobian.mT @ middle @ jacobian).mean(0)
    decay = options["weight_decay"] or 0.0
    counted = torch.cat([torch.full((p.numel(),), float(p.ndim > 1), dtype=p.dtype) for p in params.values()])
    matrix = ggn + decay * torch.diag(counted)
    many = vectors(params, 3)
    expected = torch.stack([flat({n: v[k] for n, v in many.items()}) for k in range(3)]) @ matrix
    torch.testing.assert_close(products(oracle.ggnvp, many), expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(products(oracle.make_ggnvp(), many), expected, rtol=1e-9, atol=1e-10)


def test_single_examples_have_no_part_in_the_penalty() -> None:
    problem = tiny()
    oracle, params, batch = ask(problem)
    rows = dense(lambda p: problem.loss(p, batch), params).detach()
    grads = oracle.per_example_grads()
    torch.testing.assert_close(torch.cat([leaf.flatten(1) for leaf in grads.values()], dim=1), rows)
    found = oracle.statistics(["gram", "sq_norms", "scatter"])
    torch.testing.assert_close(found.losses, problem.loss(params, batch))
    torch.testing.assert_close(found.gram, rows @ rows.mT)
    torch.testing.assert_close(found.sq_norms, rows.square().sum(1))
    assert found.scatter is not None
    torch.testing.assert_close(flat(found.scatter), rows.var(0, correction=0) * 6)
    assert found.grads is None


def test_single_examples_of_a_coupled_batch_need_a_choice() -> None:
    problem = tiny(normalizes=True)
    oracle, params, batch = ask(problem)
    for question in (oracle.per_example_grads, lambda **choice: oracle.statistics(["gram"], **choice)):
        with pytest.raises(ConfigError, match="tiny couples the examples"):
            question()
    rows = dense(lambda p: problem.loss(p, batch), params).detach()
    coupled = oracle.per_example_grads(bn="coupled")
    torch.testing.assert_close(torch.cat([leaf.flatten(1) for leaf in coupled.values()], dim=1), rows)
    frozen = oracle.statistics(["gram"], bn="frozen").gram
    assert frozen is not None
    assert not torch.allclose(frozen, rows @ rows.mT)


def test_a_ggn_that_is_not_there_is_refused() -> None:
    problem = problems.get("two_d_branin")
    params, _ = problem.init()
    oracle = Oracle(problem, make_value_and_grad(problem), params, problem.fake_batch(4))
    for question in (lambda: oracle.ggnvp(params), oracle.make_ggnvp):
        with pytest.raises(ConfigError, match=r"two_d_branin has a criterion without a GGN.*Use hvp"):
            question()
    assert all(leaf.isfinite() for leaf in oracle.hvp(params).values())


QUESTIONS: dict[str, Callable[[Oracle, Tree], Any]] = {
    "hvp": lambda oracle, v: oracle.hvp(v),
    "ggnvp": lambda oracle, v: oracle.ggnvp(v),
    "make_hvp": lambda oracle, v: oracle.make_hvp()(v),
    "make_ggnvp": lambda oracle, v: oracle.make_ggnvp()(v),
    "per_example_grads": lambda oracle, v: oracle.per_example_grads(),
    "statistics": lambda oracle, v: oracle.statistics(["gram", "sq_norms"]),
}


def asked(question: str) -> tuple[Callable[[Tree], Any], Tree]:
    """The answer to a question at parameters, and some."""
    problem = tiny()
    _, params, batch = ask(problem)
    v = {name: leaf[0] for name, leaf in vectors(params, 1).items()}

    def answer(params: Tree) -> Any:
        found = QUESTIONS[question](Oracle(problem, make_value_and_grad(problem), params, batch), v)
        return [leaf for leaf in pytree.tree_leaves(found) if isinstance(leaf, torch.Tensor)]

    return answer, params


@pytest.mark.parametrize(  # the probes behind them are compiled in `probes/test_transforms.py`
    "question",
    [name if name == "statistics" else pytest.param(name, marks=pytest.mark.large) for name in QUESTIONS],
)
def test_an_answer_is_the_same_compiled(question: str) -> None:
    answer, params = asked(question)
    compiled = torch.compile(answer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(params), answer(params))


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_answer_is_the_same_for_a_population(question: str) -> None:
    answer, params = asked(question)
    members = [params, tree.scale(0.5, params)]
    stacked = vmap(answer)(tree.map(lambda *leaves: torch.stack(leaves), *members))
    for index, member in enumerate(members):
        torch.testing.assert_close([leaf[index] for leaf in stacked], answer(member))


@pytest.mark.parametrize("question", QUESTIONS)
def test_curvature_of_a_fused_net_goes_through_its_primitives(question: str) -> None:
    """The eager step of an LSTM takes its gradient from fused kernels, which answer none of these questions."""
    problem = short_text()
    params, _ = problem.init()
    batch = problem.fake_batch(2)
    oracle = Oracle(problem, make_plain_value_and_grad(problem), params, batch)
    leaves = pytree.tree_leaves(QUESTIONS[question](oracle, oracle.grad()))
    assert all(leaf.isfinite().all() for leaf in leaves if isinstance(leaf, torch.Tensor))


def test_what_is_not_asked_for_is_not_computed() -> None:
    problem = tiny()
    _, params, batch = ask(problem)

    def fail(*args: Any) -> Any:
        raise AssertionError("nobody asked for the gradient")

    oracle = Oracle(problem, fail, params, batch)
    for question in QUESTIONS.values():
        question(oracle, params)
