"""The same answers as BackPACK, Opacus and curvlinops, in float64, on nets that they support.

They come with the extra `bench`, which other tests do without; so they are imported when a test here first runs.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch.nn.functional import cross_entropy

from deepobs_func import probes, problems, random, tree
from deepobs_func.base import Batch
from deepobs_func.problems.problem import Problem
from tests.probes.oracles import Tree
from tests.problems.test_registry import perturbed

pytestmark = [
    pytest.mark.bench,
    pytest.mark.filterwarnings("ignore:Full backward hook is firing:UserWarning"),  # the first layer's, on data
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),  # one in linear_operator
]
NAMES = ["mnist_logreg", "mnist_mlp", "mnist_2c2d", "cifar10_3c3d", "cifar100_allcnnc"]
B = 3
close = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-11)


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[Problem, Tree, Batch]:
    """A problem away from its start, and a batch from which nothing is dropped."""
    problem = problems.get(request.param)
    batch = problem.fake_batch(B, seed=1, dtype=torch.float64)._replace(noise={})
    return problem, perturbed(problem.init(0, dtype=torch.float64)[0]), batch


@pytest.fixture
def others() -> Iterator[ModuleType]:
    """BackPACK's average pooling makes kernels of the default type, whatever its input is."""
    torch.set_default_dtype(torch.float64)
    yield importlib.import_module("benchmarks.others")
    torch.set_default_dtype(torch.float32)


def direction(params: Tree) -> Tree:
    key = random.key(3)
    return {
        name: random.normal(random.fold_in(key, i), leaf.shape, leaf.dtype)
        for i, (name, leaf) in enumerate(params.items())
    }


def test_the_same_losses(case: tuple[Problem, Tree, Batch], others: ModuleType) -> None:
    problem, params, batch = case
    net, by_name = others.equivalent(problem, params, batch)
    losses = cross_entropy(net(batch.x), batch.y, reduction="none")
    close(losses, problem.loss(params, batch))
    assert losses.unique().numel() == B
    assert {parameter.data_ptr() for parameter in net.parameters()} == {leaf.data_ptr() for leaf in params.values()}
    assert list(by_name) == list(params)


def test_statistics_of_backpack(case: tuple[Problem, Tree, Batch], others: ModuleType) -> None:
    backpack = others.BackPACK(*case)
    close(backpack.per_example_grads(), probes.per_example_grads(*case))
    close(backpack.sq_norms(), probes.per_example_sq_norms(*case))
    close(backpack.sum_of_squares(), probes.grad_sum_of_squares(*case))
    close(backpack.variance(), probes.grad_variance(*case))


def test_ggn_diagonal_of_backpack(case: tuple[Problem, Tree, Batch], others: ModuleType) -> None:
    close(others.BackPACK(*case).ggn_diagonal(), probes.diagonal(*case, method="exact", matrix="ggn").value)


def test_per_example_gradients_of_opacus(case: tuple[Problem, Tree, Batch], others: ModuleType) -> None:
    close(others.Opacus(*case).per_example_grads(), probes.per_example_grads(*case))
    close(others.Opacus(*case).sq_norms(), probes.per_example_sq_norms(*case))
    close(others.OpacusGhost(*case).sq_norms(), probes.per_example_sq_norms(*case))


def test_statistics_of_vmap_grad(case: tuple[Problem, Tree, Batch], others: ModuleType) -> None:
    theirs = {name: function(*case[1:]) for name, function in others.make_vmap_grad(case[0]).items()}
    close(theirs["per_example_grads"], probes.per_example_grads(*case))
    close(theirs["sq_norms"], probes.per_example_sq_norms(*case))
    close(theirs["sum_of_squares"], probes.grad_sum_of_squares(*case))
    close(theirs["variance"], probes.grad_variance(*case))
    close(theirs["gram"], probes.gram(*case))


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
def test_products_of_curvlinops(case: tuple[Problem, Tree, Batch], others: ModuleType, matrix: str) -> None:
    """On the equivalent net, and on the problem handed over."""
    problem, params, batch = case
    v = direction(params)
    theirs = others.Curvlinops(*case)
    expected = theirs.hvp(v) if matrix == "hessian" else theirs.ggnvp(v)
    ours = probes.hvp(*case, v) if matrix == "hessian" else probes.ggnvp(*case, v)
    close(ours, expected)
    operator = probes.as_curvlinops(problem, params, batch, matrix=matrix)
    close(tree.unflatten(operator @ tree.flatten(v), params), expected)
