"""Conjugate gradients against dense solves."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from deepobs_func import probes, tree
from deepobs_func.errors import ConfigError
from tests.probes.toys import F64, LIKE, dense_ggn, flat, instance, map_of, map_of_size, symmetric, toy, unflat, vector

B = vector(LIKE, 5)
DEFINITE = symmetric(11, 1, definite=True)
TIGHT = {"tol": 1e-12, "max_steps": 50}


@given(
    size=st.integers(1, 12), damping=st.sampled_from([0.0, 0.1, 10.0]), seed=st.integers(0, 1000), warm=st.booleans()
)
@settings(max_examples=25)
def test_the_solution_is_the_dense_one(size, damping, seed, warm) -> None:
    matrix = symmetric(size, seed, definite=True)
    b = torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=F64)
    x0 = {"v": torch.ones(size, dtype=F64)} if warm else None
    found = probes.conjugate_gradients(map_of_size(matrix), {"v": b}, damping=damping, x0=x0, **TIGHT)
    expected = torch.linalg.solve(matrix + damping * torch.eye(size, dtype=F64), b)
    torch.testing.assert_close(found.x["v"], expected, rtol=1e-7, atol=1e-9)
    assert bool(found.converged)
    assert not bool(found.negative_curvature)


def test_p_distinct_eigenvalues_take_p_steps() -> None:
    values = torch.tensor([1.0, 1.0, 2.0, 2.0, 2.0, 5.0, 5.0, 5.0, 5.0, 5.0, 1.0], dtype=F64)
    found = probes.conjugate_gradients(map_of(torch.diag(values)), B, **TIGHT)
    assert int(found.steps) == 3
    torch.testing.assert_close(flat(found.x), flat(B) / values)


def test_a_good_preconditioner_takes_one_step() -> None:
    inverse = torch.linalg.inv(DEFINITE)
    found = probes.conjugate_gradients(
        map_of(DEFINITE), B, preconditioner=lambda v: unflat(inverse @ flat(v), LIKE), **TIGHT
    )
    assert int(found.steps) == 1
    torch.testing.assert_close(flat(found.x), inverse @ flat(B))


@pytest.mark.parametrize("tol", [1e-1, 1e-4])
def test_it_stops_at_the_tolerance(tol) -> None:
    products = []

    def counted(v):
        products.append(1)
        return map_of(DEFINITE)(v)

    found = probes.conjugate_gradients(counted, B, tol=tol)
    residual = flat(B) - DEFINITE @ flat(found.x)
    torch.testing.assert_close(found.residual, residual.norm(), rtol=1e-9, atol=1e-12)
    assert residual.norm() <= tol * flat(B).norm()
    assert bool(found.converged)
    assert len(products) == int(found.steps)
    before = probes.conjugate_gradients(counted, B, tol=tol, max_steps=int(found.steps) - 1)
    assert not bool(before.converged)


def test_negative_curvature_ends_it_and_is_reported() -> None:
    matrix = torch.diag(torch.tensor([3.0, 1.0, -0.5], dtype=F64))
    b = {"v": torch.tensor([1.0, 1.0, 0.1], dtype=F64)}
    found = probes.conjugate_gradients(map_of_size(matrix), b, **TIGHT)
    assert bool(found.negative_curvature)
    assert not bool(found.converged)
    steps = int(found.steps)
    earlier = probes.conjugate_gradients(map_of_size(matrix), b, tol=1e-12, max_steps=max(steps, 1))
    torch.testing.assert_close(found.x, earlier.x)
    damped = probes.conjugate_gradients(map_of_size(matrix), b, damping=1.0, **TIGHT)
    assert bool(damped.converged)
    at_once = probes.conjugate_gradients(map_of_size(-torch.eye(3, dtype=F64)), b)
    assert (int(at_once.steps), bool(at_once.negative_curvature)) == (0, True)
    assert float(tree.norm(at_once.x)) == 0


def test_a_product_that_is_not_finite_leaves_the_solution_before_it() -> None:
    found = probes.conjugate_gradients(lambda v: tree.scale(float("nan"), v), B)
    assert bool(found.negative_curvature)
    assert torch.equal(flat(found.x), torch.zeros(11, dtype=F64))
    torch.testing.assert_close(found.residual, flat(B).norm())


def test_a_right_hand_side_of_zero_is_solved_at_once() -> None:
    found = probes.conjugate_gradients(map_of(DEFINITE), tree.zeros_like(B))
    assert (int(found.steps), bool(found.converged), float(found.residual)) == (0, True, 0.0)


def test_masked_steps_change_nothing() -> None:
    """Under `vmap` every member runs all steps; each is what it is alone, whatever the others do."""
    matrices = torch.stack([DEFINITE, torch.eye(11, dtype=F64), symmetric(11, 7)])
    solve = lambda matrix: probes.conjugate_gradients(map_of(matrix), B, damping=0.1, tol=1e-8, max_steps=30)
    together = vmap(solve)(matrices)
    for index, matrix in enumerate(matrices):
        alone = solve(matrix)
        torch.testing.assert_close({n: leaf[index] for n, leaf in together.x.items()}, alone.x, rtol=1e-7, atol=1e-9)
        for field in ("steps", "converged", "negative_curvature"):
            assert getattr(together, field)[index] == getattr(alone, field)


def test_a_damped_gauss_newton_step() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    gradient = torch.func.grad(lambda p: problem.loss(p, batch).mean())(params)
    found = probes.conjugate_gradients(probes.make_ggnvp(problem, params, batch), gradient, damping=0.01, **TIGHT)
    matrix = dense_ggn(problem, params, batch) + 0.01 * torch.eye(31, dtype=F64)
    torch.testing.assert_close(flat(found.x), torch.linalg.solve(matrix, flat(gradient)), rtol=1e-8, atol=1e-9)


def test_mistakes_say_what_is_allowed() -> None:
    solve = probes.conjugate_gradients
    with pytest.raises(ConfigError, match=r"damping is -1; it must be 0 or more"):
        solve(map_of(DEFINITE), B, damping=-1)
    with pytest.raises(ConfigError, match=r"tol is nan; it must be 0 or more"):
        solve(map_of(DEFINITE), B, tol=float("nan"))
    with pytest.raises(ConfigError, match="max_steps is 0; it must be a whole number of at least 1"):
        solve(map_of(DEFINITE), B, max_steps=0)
    with pytest.raises(ConfigError, match="no tree like the parameters"):
        solve(map_of(DEFINITE), B, x0={"a": B["a"]})
    with pytest.raises(ConfigError, match="x0 holds several vectors and b one"):
        solve(map_of(DEFINITE), B, x0={name: leaf.unsqueeze(0) for name, leaf in B.items()})


def test_an_infinite_right_side_does_not_converge() -> None:
    found = probes.conjugate_gradients(lambda v: v, {"a": torch.full((3,), torch.inf)}, damping=0.1)
    assert not found.converged
