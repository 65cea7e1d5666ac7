"""Trace and diagonal: unbiased within the stated error, which is the true one and falls as one over the samples."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from deepobs_func import probes, problems, random
from deepobs_func.base import Batch, ModelState
from deepobs_func.errors import ConfigError
from tests.probes.toys import F64, KINDS, LIKE, dense_ggn, flat, instance, map_of, symmetric, toy, vector

MATRIX = symmetric(11, 2)
REPEATS = 1500


def repeats(estimate, seed: int = 0):
    """Values and standard errors of independent runs, `(REPEATS, ...)` each."""
    return vmap(estimate)(random.split(random.key(seed), REPEATS))


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_traces_are_unbiased_with_the_error_that_they_state(method, distribution) -> None:
    options = {"method": method, "distribution": distribution}
    variances = {}
    for samples in (12, 24):
        run = lambda key, samples=samples: probes.trace(map_of(MATRIX), key=key, samples=samples, **options)
        found = repeats(run)
        spread = found.value.std()
        assert abs(found.value.mean() - MATRIX.trace()) < 5 * spread / REPEATS**0.5
        variances[samples] = float(found.value.var()), float(found.standard_error.square().mean())
    for true, stated in variances.values():
        assert stated == pytest.approx(true, rel=0.2)
    if method == "hutchinson":
        assert variances[12][0] / variances[24][0] == pytest.approx(2, rel=0.2)


def test_hutch_plus_plus_is_exact_on_a_matrix_of_low_rank_and_better_where_few_eigenvalues_dominate() -> None:
    basis, _ = torch.linalg.qr(symmetric(11, 5))
    low_rank = basis[:, :2] @ torch.diag(torch.tensor([5.0, -3.0], dtype=F64)) @ basis[:, :2].T
    found = probes.trace(map_of(low_rank), key=random.key(0), samples=9, method="hutch++")
    assert float(found.value) == pytest.approx(2.0, abs=1e-9)
    dominated = basis @ torch.diag(10.0 ** -torch.arange(11, dtype=F64)) @ basis.T
    spreads = {}
    for method in ("hutchinson", "hutch++"):
        run = lambda key, method=method: probes.trace(map_of(dominated), key=key, samples=9, method=method).value
        spreads[method] = float(repeats(run).std())
    assert spreads["hutch++"] < spreads["hutchinson"] / 10


def test_rademacher_vectors_find_a_diagonal_matrix_at_once() -> None:
    entries = torch.arange(11, dtype=F64)
    found = probes.trace(map_of(torch.diag(entries)), key=random.key(0), samples=2)
    assert (float(found.value), float(found.standard_error)) == (55.0, 0.0)
    diagonal = probes.diagonal(map_of(torch.diag(entries)), key=random.key(0), samples=1)
    assert torch.equal(flat(diagonal.value), entries)
    assert flat(diagonal.standard_error).isnan().all()  # one sample has no spread


@pytest.mark.parametrize("distribution", ["rademacher", "normal"])
def test_hutchinson_s_diagonal_is_unbiased_with_the_error_that_it_states(distribution) -> None:
    variances = {}
    for samples in (5, 20):
        run = lambda key, n=samples: probes.diagonal(map_of(MATRIX), key=key, samples=n, distribution=distribution)
        found = repeats(run)
        values = torch.cat([leaf.reshape(REPEATS, -1) for leaf in found.value.values()], 1)
        errors = torch.cat([leaf.reshape(REPEATS, -1) for leaf in found.standard_error.values()], 1)
        assert ((values.mean(0) - MATRIX.diag()).abs() < 5 * values.std(0) / REPEATS**0.5).all()
        variances[samples] = values.var(0)
        torch.testing.assert_close(errors.square().mean(0), values.var(0), rtol=0.25, atol=0)
    torch.testing.assert_close(variances[5] / variances[20], torch.full((11,), 4.0, dtype=F64), rtol=0.25, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_exact_diagonal_of_the_ggn(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    found = probes.diagonal(problem, params, batch, method="exact", matrix="ggn")
    expected = dense_ggn(problem, params, batch).diag()
    torch.testing.assert_close(flat(found.value), expected, rtol=1e-9, atol=1e-12)
    assert found.standard_error is None
    assert list(found.value) == list(params)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sampled_diagonal_of_the_ggn_is_unbiased_with_the_error_that_it_states(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem, 2)
    expected = dense_ggn(problem, params, batch).diag()
    variances = {}
    for samples in (2, 4):
        options = {"method": "monte-carlo", "matrix": "ggn", "samples": samples}
        found = repeats(lambda key, options=options: probes.diagonal(problem, params, batch, key=key, **options))
        values, errors = (torch.cat([leaf.flatten(1) for leaf in part.values()], 1) for part in found)
        assert ((values.mean(0) - expected).abs() <= 5 * values.std(0) / REPEATS**0.5 + 1e-12).all()
        variances[samples] = float(values.var(0).sum())
        assert float(errors.square().mean(0).sum()) == pytest.approx(variances[samples], rel=0.25)
    assert variances[2] / variances[4] == pytest.approx(2, rel=0.25)


def test_memory_bounds_how_many_examples_go_together_and_changes_nothing(monkeypatch) -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    runs = []
    for held in (1, 2 * 31, 2**26):  # one, two and all five at a time
        monkeypatch.setattr("deepobs_func.probes.ggn_diagonal.HELD", held)
        options = {"matrix": "ggn", "key": random.key(0)}
        runs.append([probes.diagonal(problem, params, batch, method=m, **options)[0] for m in ("exact", "monte-carlo")])
    for run in runs[1:]:
        torch.testing.assert_close(run, runs[0], rtol=1e-12, atol=1e-14)


def test_examples_keep_their_noise_and_their_recurrent_state() -> None:
    """The sampled diagonal of the LSTM, against a loop over batches of one."""
    problem = problems.get("tolstoi_char_rnn")
    params, batch = problem.init(0, dtype=F64)[0], problem.fake_batch(2, dtype=F64)
    carry = vector(problem.zero_carry(2, dtype=F64))
    batch = batch._replace(state=batch.state._replace(carry=carry))
    key = random.key(3)
    (drawn,) = random.split(random.fold_in(key, random.PROBE), 1)
    total = torch.zeros(sum(p.numel() for p in params.values()), dtype=F64)
    for n in range(2):
        part = {name: leaf[n : n + 1] for name, leaf in {**batch.noise, **carry}.items()}
        noise, state = ({name: part[name] for name in group} for group in (batch.noise, carry))
        one = Batch(batch.x[n : n + 1], batch.y[n : n + 1], noise, ModelState({}, state))
        leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
        outputs = problem.outputs(leaves, one)
        s = problem.measure.sample(outputs.detach(), one, random.fold_in(drawn, n))
        total += flat(dict(enumerate(torch.autograd.grad((s * outputs).sum(), list(leaves.values()))))) ** 2 / 2
    found = probes.diagonal(problem, params, batch, method="monte-carlo", matrix="ggn", key=key)
    torch.testing.assert_close(flat(found.value), total, rtol=1e-8, atol=1e-12)


def test_quadratic_deep_has_the_diagonal_and_the_trace_of_its_hessian() -> None:
    problem = problems.get("quadratic_deep")
    params, state = problem.init(dtype=F64)
    batch = problem.fake_batch(2, dtype=F64)
    hessian = state.moments["hessian"]
    exact = probes.diagonal(problem, params, batch, method="exact", matrix="ggn").value["theta"]
    torch.testing.assert_close(exact, hessian.diag(), rtol=1e-12, atol=1e-12)
    full = probes.trace(problem, params, batch, key=random.key(0), samples=300, method="hutch++")  # a basis of it all
    assert float(full.value) == pytest.approx(float(hessian.trace()), rel=1e-10)


def test_an_estimate_is_a_function_of_its_key() -> None:
    run = lambda seed: probes.trace(map_of(MATRIX), key=random.key(seed), samples=3).value
    assert run(0) == run(0) != run(1)
    generator = torch.get_rng_state()
    run(0)
    assert torch.equal(generator, torch.get_rng_state())


def test_mistakes_say_what_is_allowed() -> None:
    operator, problem = map_of(MATRIX), toy("classifier")
    params, batch = instance(problem)
    key = random.key(0)
    with pytest.raises(ConfigError, match=r"trace draws random vectors, so it needs a key and got 3\. Pass key="):
        probes.trace(operator, key=3)
    with pytest.raises(ConfigError, match=r"Unknown method 'hutchpp'\. Did you mean 'hutch\+\+'\?"):
        probes.trace(operator, key=key, method="hutchpp")
    with pytest.raises(ConfigError, match="samples is 2; it must be a whole number of at least 3"):
        probes.trace(operator, key=key, samples=2, method="hutch++")
    with pytest.raises(ConfigError, match=r"Unknown distribution 'gaussian'\. Known: rademacher, normal"):
        probes.trace(operator, key=key, distribution="gaussian")
    with pytest.raises(ConfigError, match=r"'exact' is of the GGN of a Problem.*matrix='ggn', or use method="):
        probes.diagonal(problem, params, batch, method="exact")
    with pytest.raises(ConfigError, match="is of the GGN of a Problem"):
        probes.diagonal(operator, method="monte-carlo", key=key)
    with pytest.raises(ConfigError, match="diagonal draws random vectors"):
        probes.diagonal(problem, params, batch, method="monte-carlo", matrix="ggn")
    with pytest.raises(ConfigError, match="Unknown method 'extract'"):
        probes.diagonal(problem, params, batch, method="extract", matrix="ggn")
    with pytest.raises(ConfigError, match="samples is 0; it must be"):
        probes.diagonal(operator, key=key, samples=0)
    with pytest.raises(ConfigError, match="takes a Batch, whose examples it can tell; not a Tensor"):
        probes.diagonal(problem, params, batch.x, method="exact", matrix="ggn")
    point = problems.get("two_d_beale")
    with pytest.raises(ConfigError, match="criterion without a GGN"):
        probes.diagonal(point, *instance(point), method="exact", matrix="ggn")
    assert operator.like is LIKE
