"""Nets with several inputs, in a tuple or a dict: a transformer that is told of padding."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils import _pytree as pytree

from deepobs_func import datasets, probes, problems, tree
from deepobs_func.base import Batch, size_of
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.probes.ggn_diagonal import ggn_diagonal
from deepobs_func.problems import measures
from deepobs_func.problems.oracle import make_value_and_grad
from deepobs_func.problems.problem import Problem
from tests.problems.padded import Product, padded, sentences

F64, B = torch.float64, 4
made = functools.cache(padded)


def point(problem: Problem, keywords: bool) -> tuple[Any, Batch, nn.Module]:
    """Parameters, sentences, and the stock module at the parameters, in float64."""
    ids, padding, y = sentences(B, seed=3)
    params, state = problem.init(dtype=F64)
    x = {"ids": ids, "padding": padding} if keywords else (ids, padding)
    return params, Batch.of(x, y, state=state), problem.to_module(params, state)


@pytest.mark.parametrize("keywords", [True, False])
def test_losses_and_evaluation_are_the_module_s(keywords: bool) -> None:
    problem = made(keywords=keywords)
    params, batch, stock = point(problem, keywords)
    ids, padding, y = sentences(B, seed=3)
    assert (size_of(batch), problem.separable, problem.dataset.numbers) == (B, True, 10)
    for phase, found in (("train", problem.loss(params, batch)), ("eval", problem.evaluate(params, batch).losses)):
        getattr(stock, phase)()
        expected = F.cross_entropy(stock(ids, padding), y, reduction="none")
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_padding_changes_nothing() -> None:
    problem = made(keywords=True)
    params, batch, _ = point(problem, True)
    others = torch.where(batch.x["padding"], (batch.x["ids"] + 1) % 9, batch.x["ids"])
    changed = batch._replace(x={**batch.x, "ids": others})
    assert not torch.equal(others, batch.x["ids"])
    torch.testing.assert_close(problem.loss(params, changed), problem.loss(params, batch), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("keywords", [True, False])
def test_per_example_gradients_are_those_of_a_loop(keywords: bool) -> None:
    problem = made(keywords=keywords)
    params, batch, stock = point(problem, keywords)
    ids, padding, y = sentences(B, seed=3)
    found = probes.per_example_grads(problem, params, batch)
    norms = probes.per_example_sq_norms(problem, params, batch)
    for n in range(B):
        loss = F.cross_entropy(stock.train()(ids[n : n + 1], padding[n : n + 1]), y[n : n + 1])
        expected = dict(zip(params, torch.autograd.grad(loss, list(stock.parameters())), strict=True))
        for name in params:
            torch.testing.assert_close(found[name][n], expected[name], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(norms[n], tree.dot(expected, expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("keywords", [True, False])
def test_products_are_those_of_double_backward(keywords: bool) -> None:
    problem = made(keywords=keywords)
    params, batch, _ = point(problem, keywords)
    v = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    grads = torch.autograd.grad(problem.loss(leaves, batch).mean(), list(leaves.values()), create_graph=True)
    along = sum((grad * v[name]).sum() for grad, name in zip(grads, v, strict=True))
    expected = dict(zip(params, torch.autograd.grad(along, list(leaves.values())), strict=True))
    for mode in probes.catalog.MODES:
        found = probes.hvp(problem, params, batch, v, mode=mode)
        for name in params:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-6, atol=1e-9)
    outputs = lambda p: problem.outputs(p, batch)
    z, along_z = torch.func.jvp(outputs, (params,), (v,))
    p = z.softmax(-1)
    weighted = p * (along_z - (p * along_z).sum(-1, keepdim=True)) / B
    (right,) = torch.func.vjp(outputs, params)[1](weighted)
    found = probes.ggnvp(problem, params, batch, v)
    for name in params:
        torch.testing.assert_close(found[name], right[name], rtol=1e-6, atol=1e-9)
    diagonal = ggn_diagonal(problem, params, batch)["head.bias"]
    for k in range(3):
        unit = {name: torch.zeros_like(leaf) for name, leaf in params.items()}
        unit["head.bias"][k] = 1.0
        torch.testing.assert_close(probes.ggnvp(problem, params, batch, unit)["head.bias"][k], diagonal[k])


def test_a_population_is_its_members() -> None:
    problem = made(keywords=True)
    _, batch, _ = point(problem, True)
    starts = [problem.init(seed, dtype=F64)[0] for seed in range(2)]
    starts = [tree.map(lambda leaf, n=n: leaf * (1 + 0.1 * n), start) for n, start in enumerate(starts)]
    together = torch.vmap(lambda params: make_value_and_grad(problem)(params, batch).grads)(
        pytree.tree_map(lambda *leaves: torch.stack(leaves), *starts)
    )
    for n, start in enumerate(starts):
        alone = make_value_and_grad(problem)(start, batch).grads
        for name in alone:
            torch.testing.assert_close(together[name][n], alone[name], rtol=1e-9, atol=1e-11)


def test_masks_of_dropout_are_in_the_batch() -> None:
    problem = padded(dropout=0.5)
    batch = problem.fake_batch(B)
    assert batch.noise
    params = problem.init()[0]
    assert not torch.equal(problem.loss(params, batch), problem.loss(params, batch._replace(noise={})))


def arrays(size: int) -> tuple[Any, Any]:
    r = np.random.RandomState(0)
    return {"left": r.normal(size=(size, 3)), "right": r.normal(size=(size, 2))}, r.randint(0, 4, size)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("left", "wrong"), r"unexpected keyword argument 'wrong'.*by the keywords \['left', 'wrong'\]"),
        (("left",), r"missing 1 required positional argument: 'right'.*a dict becomes keywords"),
    ],
)
def test_inputs_that_do_not_fit_forward_are_said(names: tuple[str, ...], words: str) -> None:
    x, y = arrays(8)
    x = dict(zip(names, x.values(), strict=False))
    data = datasets.from_arrays("two", (x, y), (x, y))
    with pytest.raises(ConfigError, match=words):
        problems.from_module(Product(), measures.cross_entropy, data)


def test_arrays_of_several_inputs_are_checked() -> None:
    x, y = arrays(8)
    data = datasets.from_arrays("two", (x, y), (x, y))
    assert data.shape == {"left": (3,), "right": (2,)}
    problem = problems.from_module(Product(), measures.cross_entropy, data)
    assert problem == copy.copy(problem)
    assert hash(problem)
    shorter = {**x, "right": x["right"][:7]}
    with pytest.raises(
        DataError, match=r"as many examples in each of the inputs of train, found {'left': 8, 'right': 7}"
    ):
        datasets.from_arrays("two", (shorter, y), (x, y))
    with pytest.raises(DataError, match=r"differ in their inputs: \['left', 'right'\] and \['left'\]"):
        datasets.from_arrays("two", (x, y), ({"left": x["left"]}, y))
    with pytest.raises(DataError, match="numbers of the inputs 'right' to be NaN"):
        datasets.from_arrays("two", ({**x, "right": x["right"] * np.nan}, y), (x, y))
    with pytest.raises(DataError, match="found an empty dict"):
        datasets.from_arrays("two", ({}, y), (x, y))


def test_a_tuple_of_examples_is_one_input() -> None:
    """As `zip(*pairs)` gives them."""
    examples = tuple(torch.zeros(2, 3) for _ in range(5))
    assert datasets.from_arrays("rows", (examples, range(5)), (examples, range(5))).shape == (2, 3)
