"""Fisher matrices: exact against the dense GGN, empirical against a loop, Monte-Carlo in expectation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.func import vmap

from deepobs_func import probes, problems, random
from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures
from tests.probes.toys import (
    F64,
    KINDS,
    dense_empirical_fisher,
    dense_ggn,
    flat,
    flat_outputs,
    instance,
    toy,
    vector,
)

LIKELIHOODS = [kind for kind, row in KINDS.items() if row[1].likelihood]


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", LIKELIHOODS)
def test_the_exact_fisher_is_the_ggn(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    v = vector(params)
    expected = dense_ggn(problem, params, batch) @ flat(v)
    close(flat(probes.fisher_vp(problem, params, batch, v)), expected)
    close(flat(probes.make_fisher_vp(problem, params, batch)(v)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_empirical_fisher_is_the_mean_of_the_gradients_outer_products(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    matrix, vs = dense_empirical_fisher(problem, params, batch), vector(params, count=2)
    stacked = torch.stack([flat({n: leaf[i] for n, leaf in vs.items()}) for i in range(2)])
    for product in (
        probes.fisher_vp(problem, params, batch, vs, kind="empirical"),
        probes.fisher_vp(problem.loss, params, batch, vs, kind="empirical"),
        probes.make_fisher_vp(problem, params, batch, kind="empirical")(vs),
    ):
        rows = torch.stack([flat({n: leaf[i] for n, leaf in product.items()}) for i in range(2)])
        close(rows, stacked @ matrix)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sampled_vectors_have_the_criterion_s_hessian_as_their_covariance(kind: str) -> None:
    """Over 20,000 draws, within five standard errors of each entry; examples are independent of each other."""
    problem = toy(kind)
    params, batch = instance(problem, 2)
    outputs, rebuilt = flat_outputs(problem, params, batch)
    z = outputs(flat(params))
    hessian = torch.func.jacrev(torch.func.jacrev(lambda z: problem.criterion(rebuilt(z), batch).sum()))(z)
    value = problem.outputs(params, batch)

    def one(key: torch.Tensor) -> torch.Tensor:
        drawn = problem.measure.sample(value, batch, key)
        parts = [drawn] if isinstance(drawn, torch.Tensor) else [part for part in drawn if part is not None]
        return torch.cat([part.reshape(-1) for part in parts])

    draws = vmap(one)(random.split(random.key(0), 20_000))
    products = draws.unsqueeze(1) * draws.unsqueeze(2)
    errors = products.std(0) / len(draws) ** 0.5
    assert ((products.mean(0) - hessian).abs() <= 5 * errors + 1e-12).all()
    assert (draws.mean(0).abs() <= 5 * draws.std(0) / len(draws) ** 0.5).all()


def test_quadratic_deep_samples_a_root_of_its_hessian() -> None:
    problem = problems.get("quadratic_deep")
    params, state = problem.init(dtype=F64)
    batch = problem.fake_batch(1, dtype=F64)
    outputs = problem.outputs(params, batch)
    sample = lambda key: measures.quadratic.sample(outputs, batch, key)[0]
    draws = vmap(sample)(random.split(random.key(1), 20_000))
    hessian = state.moments["hessian"]
    errors = ((hessian.diag().outer(hessian.diag()) + hessian**2) / len(draws)).sqrt()  # of normal vectors' products
    assert ((draws.T @ draws / len(draws) - hessian).abs() <= 6 * errors).all()  # of 10,000 entries


@pytest.mark.parametrize("kind", ["classifier", "vae", "coupled"])
def test_the_monte_carlo_fisher_is_unbiased_and_its_variance_falls(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    v = vector(params)
    expected = dense_ggn(problem, params, batch) @ flat(v)

    def product(samples: int):
        def one(key: torch.Tensor) -> torch.Tensor:
            return flat(probes.fisher_vp(problem, params, batch, v, kind="monte-carlo", key=key, samples=samples))

        return vmap(one)(random.split(random.key(2), 2000))

    few, many = product(1), product(4)
    for draws in (few, many):
        assert ((draws.mean(0) - expected).abs() <= 5 * draws.std(0) / len(draws) ** 0.5 + 1e-12).all()
    assert float(few.var(0).sum() / many.var(0).sum()) == pytest.approx(4, rel=0.2)


def test_a_key_is_one_matrix() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    u, v = vector(params, 1), vector(params, 2)
    options = {"kind": "monte-carlo", "key": random.key(3), "samples": 2}
    operator = probes.make_fisher_vp(problem, params, batch, **options)
    close(operator(v), probes.fisher_vp(problem, params, batch, v, **options))
    close(flat(u) @ flat(operator(v)), flat(v) @ flat(operator(u)))
    other = probes.fisher_vp(problem, params, batch, v, kind="monte-carlo", key=random.key(4), samples=2)
    assert not torch.allclose(flat(other), flat(operator(v)))


def test_mistakes_say_what_is_allowed() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    with pytest.raises(ConfigError, match=r"Unknown kind of Fisher 'montecarlo'\. Did you mean 'monte-carlo'\?"):
        probes.fisher_vp(problem, params, batch, params, kind="montecarlo")
    with pytest.raises(ConfigError, match=r"needs a key and got None\. Pass key=random\.key\(seed\)"):
        probes.fisher_vp(problem, params, batch, params, kind="monte-carlo")
    with pytest.raises(ConfigError, match="samples is 0; it must be a whole number of at least 1"):
        probes.fisher_vp(problem, params, batch, params, kind="monte-carlo", key=random.key(0), samples=0)
    with pytest.raises(ConfigError, match=r"one loss for each example, \(B,\), and got an objective"):
        probes.fisher_vp(problem.objective, params, batch, params, kind="empirical")
    vae, point = toy("vae"), problems.get("two_d_branin")
    with pytest.raises(ConfigError, match=r"vae has no exact Fisher.*cross entropy and square loss\)\. Use ggnvp"):
        probes.fisher_vp(vae, *instance(vae), instance(vae)[0])
    with pytest.raises(ConfigError, match=r"criterion without a GGN"):
        probes.fisher_vp(point, *instance(point), instance(point)[0])


def test_a_criterion_without_a_sampler_says_so() -> None:
    problem = toy("classifier")
    silent = replace(problem, measure=problem.measure._replace(sample=None))
    params, batch = instance(problem)
    with pytest.raises(ConfigError, match=r"says nothing of how to draw vectors.*Use ggnvp"):
        probes.fisher_vp(silent, params, batch, params, kind="monte-carlo", key=random.key(0))
