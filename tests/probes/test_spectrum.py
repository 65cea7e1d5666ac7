"""Lanczos and the spectral density against dense eigendecompositions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import probes, problems, random
from deepobs_func.errors import ConfigError, UserError
from deepobs_func.probes.lanczos import lanczos
from tests.probes.toys import F64, LIKE, dense_ggn, dense_hessian, flat, instance, map_of, map_of_size, symmetric, toy

WANTED = {
    "largest": lambda values, k: values.flip(0)[:k],
    "smallest": lambda values, k: values.flip(0)[len(values) - k :],
    "magnitude": lambda values, k: values[values.abs().argsort(descending=True)][:k],
    "both": lambda values, k: torch.cat((values.flip(0)[: (k + 1) // 2], values.flip(0)[len(values) - k // 2 :])),
}


@pytest.mark.parametrize("which", WANTED)
@given(size=st.integers(1, 12), data=st.data(), seed=st.integers(0, 1000))
@settings(max_examples=15)
def test_p_steps_give_the_eigenvalues_of_any_matrix(which, size, data, seed) -> None:
    k = data.draw(st.integers(1, size))
    matrix = symmetric(size, seed)
    found = probes.lanczos_eigenvalues(map_of_size(matrix), k=k, which=which, steps=size, vectors=True)
    torch.testing.assert_close(found.values, WANTED[which](torch.linalg.eigvalsh(matrix), k), rtol=1e-9, atol=1e-9)
    rows = found.vectors["v"]
    torch.testing.assert_close(rows @ matrix, found.values.unsqueeze(1) * rows, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(rows @ rows.T, torch.eye(k, dtype=F64), rtol=1e-9, atol=1e-9)


@given(eigenvalues=st.lists(st.sampled_from([-2.0, 0.0, 1.0, 5.0]), min_size=1, max_size=10), seed=st.integers(0, 99))
@settings(max_examples=25)
def test_a_krylov_space_that_closes_early_hides_no_eigenvalue(eigenvalues, seed) -> None:
    """Multiplicities, multiples of the identity, zero: P steps find every eigenvalue as often as it is there."""
    generator = torch.Generator().manual_seed(seed)
    size = len(eigenvalues)
    basis, _ = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=F64))
    matrix = basis @ torch.diag(torch.tensor(eigenvalues, dtype=F64)) @ basis.T
    found = probes.lanczos_eigenvalues(map_of_size(matrix), k=size, steps=size)
    expected = torch.tensor(sorted(eigenvalues, reverse=True), dtype=F64)
    torch.testing.assert_close(found.values, expected, rtol=1e-9, atol=1e-9)


@given(size=st.integers(6, 20), steps=st.integers(2, 5), seed=st.integers(0, 100))
@settings(max_examples=15)
def test_an_eigenvalue_lies_within_each_residual(size, steps, seed) -> None:
    matrix = symmetric(size, seed)
    found = probes.lanczos_eigenvalues(map_of_size(matrix), k=2, steps=steps, vectors=True)
    distance = (found.values.unsqueeze(1) - torch.linalg.eigvalsh(matrix)).abs().min(1).values
    assert (distance <= found.residuals * (1 + 1e-9)).all()
    rest = found.vectors["v"] @ matrix - found.values.unsqueeze(1) * found.vectors["v"]
    torch.testing.assert_close(rest.norm(dim=1), found.residuals, rtol=1e-8, atol=1e-10)


def test_the_basis_stays_orthonormal_in_single_precision() -> None:
    eigenvalues = torch.logspace(-6, 3, 200)
    found = lanczos(lambda v: eigenvalues * v, torch.ones(200), 60)
    gram = found.basis @ found.basis.T
    torch.testing.assert_close(gram, torch.eye(60), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.eigh()[0][-1], torch.tensor(1000.0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("matrix", ["hessian", "ggn"])
@pytest.mark.parametrize("kind", ["classifier", "vae", "coupled"])
def test_extreme_eigenvalues_of_a_problem(kind, matrix) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    dense = dense_ggn(problem, params, batch)
    if matrix == "hessian":
        dense = dense_hessian(lambda p: problem.loss(p, batch).mean(), params)
    options = {"k": 3, "which": "both", "matrix": matrix, "vectors": True, "steps": len(dense)}
    found = probes.lanczos_eigenvalues(problem, params, batch, **options)
    torch.testing.assert_close(found.values, WANTED["both"](torch.linalg.eigvalsh(dense), 3), rtol=1e-7, atol=1e-7)
    top = flat({name: leaf[0] for name, leaf in found.vectors.items()})
    torch.testing.assert_close(dense @ top, found.values[0] * top, rtol=1e-5, atol=1e-5)


def test_quadratic_deep_has_the_eigenvalues_of_its_hessian() -> None:
    problem = problems.get("quadratic_deep")
    params, state = problem.init(dtype=F64)
    expected = torch.linalg.eigvalsh(state.moments["hessian"])
    found = probes.lanczos_eigenvalues(problem, params, problem.fake_batch(2, dtype=F64), k=10)
    torch.testing.assert_close(found.values, expected.flip(0)[:10], rtol=1e-9, atol=1e-9)


def test_a_tolerance_saves_products_and_is_held() -> None:
    products = []
    values = torch.arange(200, dtype=F64) ** 2

    def product(v):
        products.append(1)
        return {"v": values * v["v"]}

    operator = probes.LinearMap(product, {"v": values})
    found = probes.lanczos_eigenvalues(operator, steps=200, tolerance=1e-3)
    assert len(products) < 60
    assert found.residuals[0] <= 1e-3 * found.values[0]
    assert float(found.values[0]) == pytest.approx(199**2, rel=1e-3)
    with pytest.raises(UserError, match=r"did not reach the tolerance 1e-12 in 5 steps.*more steps="):
        probes.lanczos_eigenvalues(operator, steps=5, tolerance=1e-12)


@pytest.mark.parametrize("width", [None, 0.3])
def test_the_density_has_integral_one_and_the_matrix_s_moments(width) -> None:
    matrix = symmetric(11, 3)
    found = probes.spectral_density(map_of(matrix), key=random.key(0), samples=100, width=width)
    eigenvalues = torch.linalg.eigvalsh(matrix)
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-4)
    assert found.nodes.shape == found.weights.shape == (100, 11)
    torch.testing.assert_close(found.weights.sum(1), torch.ones(100, dtype=F64))
    torch.testing.assert_close(found.nodes, eigenvalues.expand(100, 11), rtol=1e-8, atol=1e-8)
    for power in (1, 2):
        terms = (found.weights * found.nodes**power).sum(1)
        error = terms.std() / math.sqrt(100)
        assert abs(terms.mean() - (eigenvalues**power).mean()) < 5 * error


def test_the_density_tends_to_the_smoothed_spectrum() -> None:
    matrix, width = symmetric(11, 4), 0.4
    eigenvalues = torch.linalg.eigvalsh(matrix)
    run = lambda key: probes.spectral_density(map_of(matrix), key=key, samples=5, width=width, points=200)
    found = torch.func.vmap(run)(random.split(random.key(1), 400))  # all nodes are the eigenvalues, so grids agree
    gaussians = torch.distributions.Normal(eigenvalues, width).log_prob(found.grid[0].unsqueeze(1)).exp()
    distance = lambda density: float((density - gaussians.mean(1)).square().mean().sqrt())
    one, all_of_them = distance(found.density[0]), distance(found.density.mean(0))
    assert all_of_them < one / 10  # at the rate 1 / sqrt(samples), 20
    assert all_of_them < 0.01


def test_the_density_of_a_multiple_of_the_identity_is_a_bump_there() -> None:
    found = probes.spectral_density(map_of(2.0 * torch.eye(11, dtype=F64)), key=random.key(0), samples=2)
    torch.testing.assert_close(found.nodes, torch.full((2, 11), 2.0, dtype=F64))
    assert float(found.grid[found.density.argmax()]) == pytest.approx(2, abs=1e-3)
    assert float(torch.trapezoid(found.density, found.grid)) == pytest.approx(1, abs=1e-4)
    zero = probes.spectral_density(map_of(torch.zeros(11, 11, dtype=F64)), key=random.key(0), samples=1)
    assert float(zero.width) == 0.01
    assert zero.density.isfinite().all()


def test_mistakes_say_what_is_allowed() -> None:
    operator = map_of(symmetric(11))
    assert operator.size == sum(leaf.numel() for leaf in LIKE.values())
    with pytest.raises(ConfigError, match="k is 12; it must be a whole number from 1 to 11"):
        probes.lanczos_eigenvalues(operator, k=12)
    with pytest.raises(ConfigError, match="steps is 1; it must be a whole number from 2 to 11"):
        probes.lanczos_eigenvalues(operator, k=2, steps=1)
    with pytest.raises(ConfigError, match=r"Unknown end of the spectrum 'large'\. Did you mean 'largest'\?"):
        probes.lanczos_eigenvalues(operator, which="large")
    with pytest.raises(ConfigError, match="spectral_density draws random vectors, so it needs a key"):
        probes.spectral_density(operator)
    with pytest.raises(ConfigError, match=r"width is 0; it must be positive"):
        probes.spectral_density(operator, key=random.key(0), width=0)
    with pytest.raises(ConfigError, match=r"points is 1; it must be a whole number of at least 2"):
        probes.spectral_density(operator, key=random.key(0), points=1)
