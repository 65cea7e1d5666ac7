"""Curvature products on every problem, against differences that share no code with them."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch

from deepobs_func import probes, problems, tree
from deepobs_func.base import Batch
from deepobs_func.problems.problem import Problem
from tests.probes.toys import F64, vector
from tests.problems.small_nets import narrow_resnet
from tests.problems.test_registry import LARGE_NETS, NAMES, table

B = 3
STEP = 1e-6  # along unit directions in float64: too short to cross many kinks


class Point(NamedTuple):
    problem: Problem
    params: tree.Tree
    batch: Batch


@pytest.fixture(params=table(NAMES, "cifar100_allcnnc", "mnist_vae"), scope="module")
def point(request: pytest.FixtureRequest) -> Point:
    problem = narrow_resnet() if request.param == "svhn_wrn164" else problems.get(request.param)
    params = problem.init(0, dtype=F64)[0]
    moved = tree.add(params, tree.scale(0.05, vector(params, 7)))
    return Point(problem, moved, problem.fake_batch(B, seed=1, dtype=F64))


def unit(params: tree.Tree, seed: int = 1) -> tree.Tree:
    v = vector(params, seed)
    return tree.scale(1.0 / tree.norm(v), v)


def gradient(problem: Problem, params: tree.Tree, batch: Batch) -> tree.Tree:
    leaves = {name: p.detach().requires_grad_() for name, p in params.items()}
    grads = torch.autograd.grad(problem.loss(leaves, batch).mean(), list(leaves.values()))
    return dict(zip(leaves, grads, strict=True))


def near(actual: tree.Tree, expected: tree.Tree, relative: float) -> None:
    assert tree.norm(tree.sub(actual, expected)) <= relative * tree.norm(expected)


def test_hessian_products_in_all_modes_are_differences_of_the_gradient(point: Point) -> None:
    problem, params, batch = point
    v = unit(params)
    assert problem.hvp_mode == problems.spec_of(problem.name).hvp_mode
    forward = probes.hvp(problem, params, batch, v, mode="forward-over-reverse")
    for mode in ("reverse-over-reverse", "reverse-over-forward"):
        near(probes.hvp(problem, params, batch, v, mode=mode), forward, 1e-10)
    ahead, behind = (gradient(problem, tree.add(params, tree.scale(s, v)), batch) for s in (STEP, -STEP))
    near(tree.scale(0.5 / STEP, tree.sub(ahead, behind)), forward, 1e-3)


def test_ggn_products_are_symmetric_and_differences_of_the_criterion(point: Point) -> None:
    """`v . G v` is the second derivative of the mean criterion along `J v`; J v by differences of the outputs."""
    problem, params, batch = point
    if not problem.measure.convex:
        assert problem.name.startswith("two_d_")
        return
    u, v = unit(params, 1), unit(params, 2)
    gu, gv = (probes.ggnvp(problem, params, batch, w) for w in (u, v))
    torch.testing.assert_close(tree.dot(u, gv), tree.dot(v, gu), rtol=1e-9, atol=1e-12)
    near(probes.make_ggnvp(problem, params, batch)(v), gv, 1e-10)
    curvature = tree.dot(v, gv)
    assert curvature >= 0
    z, ahead, behind = (
        torch.utils._pytree.tree_flatten(problem.outputs(tree.add(params, tree.scale(s, v)), batch))
        for s in (0.0, STEP, -STEP)
    )
    slopes = [(a - b) / (2 * STEP) for a, b in zip(ahead[0], behind[0], strict=True)]
    step = 1e-3 / max(float(slope.abs().max()) for slope in slopes)

    def criterion(s: float) -> torch.Tensor:
        moved = [part + s * slope for part, slope in zip(z[0], slopes, strict=True)]
        return problem.criterion(torch.utils._pytree.tree_unflatten(moved, z[1]), batch).mean()

    second = (criterion(step) - 2 * criterion(0.0) + criterion(-step)) / step**2
    torch.testing.assert_close(second, curvature, rtol=1e-4, atol=1e-14 * float(criterion(0.0)) / step**2)


def test_batched_products_are_a_loop_of_single_ones(point: Point) -> None:
    problem, params, batch = point
    vs = vector(params, count=2)
    make = probes.make_ggnvp if problem.measure.convex else probes.make_hvp
    product = make(problem, params, batch)
    second = {name: leaf[1] for name, leaf in product(vs).items()}
    near(second, product({name: leaf[1] for name, leaf in vs.items()}), 1e-10)


@pytest.mark.large
@pytest.mark.parametrize("name", LARGE_NETS)
def test_products_on_the_largest_nets(name: str) -> None:
    problem = problems.get(name)
    params, batch = problem.init(0)[0], problem.fake_batch(2, seed=1)
    v, w = unit(params, 1), unit(params, 2)
    forward = probes.hvp(problem, params, batch, v, mode="forward-over-reverse")
    near(probes.hvp(problem, params, batch, v, mode="reverse-over-forward"), forward, 1e-3)
    gv, gw = (probes.ggnvp(problem, params, batch, u) for u in (v, w))
    scale = float(tree.norm(gv) + tree.norm(gw))
    assert abs(float(tree.dot(w, gv) - tree.dot(v, gw))) <= 1e-4 * scale
    assert float(tree.dot(v, gv)) >= 0
