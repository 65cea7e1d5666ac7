"""Hessian and GGN products against dense float64 matrices."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import probes, problems, random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import HVPMode
from deepobs_func.problems import measures
from tests.probes.toys import (
    F64,
    KINDS,
    Sequential,
    data_of,
    dense_ggn,
    dense_hessian,
    flat,
    instance,
    toy,
    vector,
)

MODES = get_args(HVPMode)


def close(actual, expected) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("mode", [*MODES, None])
@pytest.mark.parametrize("kind", KINDS)
def test_hvp_is_the_dense_hessian_times_the_vector(kind: str, mode) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    v = vector(params)
    expected = dense_hessian(lambda p: problem.loss(p, batch).mean(), params) @ flat(v)
    close(flat(probes.hvp(problem, params, batch, v, mode=mode)), expected)
    close(flat(probes.hvp(problem.loss, params, batch, v, mode=mode)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_ggnvp_is_the_dense_ggn_times_the_vector(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    matrix, v = dense_ggn(problem, params, batch), vector(params)
    close(flat(probes.ggnvp(problem, params, batch, v)), matrix @ flat(v))
    kept = probes.make_ggnvp(problem, params, batch)
    for seed in (2, 3):  # the kept graph serves more than once
        close(flat(kept(vector(params, seed))), matrix @ flat(vector(params, seed)))
    assert torch.linalg.eigvalsh(matrix).min() > -1e-12


@pytest.mark.parametrize("mode", MODES)
def test_a_map_serves_many_products(mode) -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    matrix = dense_hessian(lambda p: problem.loss(p, batch).mean(), params)
    hessian = probes.make_hvp(problem, params, batch, mode=mode)
    assert hessian.size == len(matrix)
    for seed in range(3):
        v = vector(params, seed)
        close(flat(hessian(v)), matrix @ flat(v))


@pytest.mark.parametrize("kind", ["classifier", "coupled", "vae"])
def test_batched_products_are_a_loop_of_single_ones(kind: str) -> None:
    problem = toy(kind)
    params, batch = instance(problem)
    vs = vector(params, count=3)
    products = [lambda v, mode=mode: probes.hvp(problem, params, batch, v, mode=mode) for mode in MODES]
    products += [
        lambda v: probes.ggnvp(problem, params, batch, v),
        probes.make_hvp(problem, params, batch),
        probes.make_ggnvp(problem, params, batch),
    ]
    for product in products:
        together = product(vs)
        for index in range(3):
            alone = product({name: leaf[index] for name, leaf in vs.items()})
            close({name: leaf[index] for name, leaf in together.items()}, alone)


@given(
    batch_size=st.integers(1, 6),
    widths=st.lists(st.integers(1, 4), min_size=0, max_size=2),
    classes=st.integers(2, 4),
    count=st.none() | st.integers(1, 3),
    seed=st.integers(0, 100),
)
@settings(max_examples=15)
def test_products_of_any_shape(batch_size, widths, classes, count, seed) -> None:
    torch.manual_seed(seed)
    data = data_of((3,), "class")
    problem = problems.from_module(Sequential(3, *widths, max(classes, 3)).float(), measures.cross_entropy, data)
    params, batch = instance(problem, batch_size, seed)
    vs = vector(params, seed, count or 1)
    stacked = torch.stack([flat({n: leaf[i] for n, leaf in vs.items()}) for i in range(count or 1)])
    v = vs if count else {name: leaf[0] for name, leaf in vs.items()}
    hessian = dense_hessian(lambda p: problem.loss(p, batch).mean(), params)
    ggn = dense_ggn(problem, params, batch)
    for matrix, result in (
        (hessian, probes.hvp(problem, params, batch, v)),
        (hessian, probes.make_hvp(problem, params, batch)(v)),
        (ggn, probes.ggnvp(problem, params, batch, v)),
        (ggn, probes.make_ggnvp(problem, params, batch)(v)),
    ):
        rows = [result] if count is None else [{n: leaf[i] for n, leaf in result.items()} for i in range(count)]
        close(torch.stack([flat(row) for row in rows]), stacked @ matrix)


def test_the_penalty_counts_where_it_is_asked_for() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    v = vector(params)
    without, with_it = (probes.hvp(f, params, batch, v) for f in (problem, problem.objective))
    for name in params:
        factor = problem.weight_decay if name in problem.regularized else 0.0
        close(with_it[name] - without[name], factor * v[name])


def test_quadratic_deep_has_its_hessian_exactly() -> None:
    problem = problems.get("quadratic_deep")
    params, state = problem.init(dtype=F64)
    batch = problem.fake_batch(4, dtype=F64)
    v = vector(params)
    expected = state.moments["hessian"] @ v["theta"]
    for product in (
        *(probes.hvp(problem, params, batch, v, mode=mode) for mode in MODES),
        probes.make_hvp(problem, params, batch)(v),
        probes.ggnvp(problem, params, batch, v),
        probes.make_ggnvp(problem, params, batch)(v),
        probes.fisher_vp(problem, params, batch, v),
    ):
        torch.testing.assert_close(product["theta"], expected, rtol=1e-13, atol=1e-13)


def test_products_do_not_ask_whether_gradients_are_on() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    v = vector(params)
    with torch.no_grad():
        hessian, ggn = probes.make_hvp(problem, params, batch), probes.make_ggnvp(problem, params, batch)
        for _ in range(2):
            off = hessian(v), ggn(v), probes.hvp(problem, params, batch, v), probes.ggnvp(problem, params, batch, v)
    on = probes.hvp(problem, params, batch, v), probes.ggnvp(problem, params, batch, v)
    for product, expected in zip(off, (*on, *on), strict=True):
        close(product, expected)
        assert not any(leaf.requires_grad for leaf in product.values())


def test_a_data_set_is_the_mean_over_all_its_examples() -> None:
    problem = toy("classifier")
    params, _ = instance(problem)
    batches = [problem.fake_batch(size, seed=size, dtype=F64) for size in (2, 5, 1)]
    whole = Batch.of(torch.cat([b.x for b in batches]), torch.cat([b.y for b in batches]))
    vs = vector(params, count=2)
    hessian = probes.over(lambda batch, v: probes.hvp(problem, params, batch, v), params, batches)
    ggn = probes.over(lambda batch, v: probes.ggnvp(problem, params, batch, v), params, batches)
    close(hessian(vs), probes.hvp(problem, params, whole, vs))
    close(ggn(vs), probes.ggnvp(problem, params, whole, vs))


def test_a_data_set_of_other_batches_says_how_it_counts() -> None:
    params = {"w": torch.tensor([1.0, 2.0], dtype=F64)}
    data = [torch.ones(3, 2, dtype=F64), torch.zeros(1, 2, dtype=F64)]
    loss = lambda p, x: (x @ p["w"]) ** 2
    product = lambda x, v: probes.hvp(loss, params, x, v)
    close(probes.over(product, params, data, count=len)(params)["w"], torch.tensor([4.5, 4.5], dtype=F64))
    with pytest.raises(ConfigError, match=r"examples of a Tensor cannot be counted; pass count="):
        probes.over(product, params, data)(params)


def test_a_direction_in_another_order_is_the_same() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    v = vector(params)
    shuffled = dict(reversed(v.items()))
    product = probes.hvp(problem, params, batch, shuffled)
    assert list(product) == list(params)
    close(product, probes.hvp(problem, params, batch, v))


def test_mistakes_say_what_is_allowed() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    first = next(iter(params))
    with pytest.raises(ConfigError, match=r"Unknown mode 'reverse'.*reverse-over-reverse"):
        probes.hvp(problem, params, batch, params, mode="reverse")
    with pytest.raises(ConfigError, match=rf"lacks \['{first}'\] and has \['nobody'\]"):
        probes.hvp(problem, params, batch, {"nobody" if n == first else n: p for n, p in params.items()})
    with pytest.raises(ConfigError, match=r"shape \(7,\), the parameter \(4, 3\).*\(K, \*\(4, 3\)\)"):
        probes.ggnvp(problem, params, batch, {**params, first: torch.zeros(7, dtype=F64)})
    some = {name: p.unsqueeze(0) if name == first else p for name, p in params.items()}
    with pytest.raises(ConfigError, match="same K in every leaf"):
        probes.hvp(problem, params, batch, some)
    with pytest.raises(ConfigError, match=r"float32, the parameter torch\.float64"):
        probes.hvp(problem, params, batch, {name: p.float() for name, p in params.items()})


@pytest.mark.parametrize(
    ("loss", "shape"),
    [
        (lambda p, b: b.x * next(iter(p.values())).sum(), r"\(5, 3\)"),
        (lambda p, b: next(iter(p.values()))[:2, 0], r"\(2,\)"),
    ],
)
def test_a_loss_that_is_not_one_number_an_example_is_an_error(loss, shape) -> None:
    params, batch = instance(toy("classifier"))
    with pytest.raises(ConfigError, match=rf"The loss has the shape {shape}; it must be \(B,\)"):
        probes.hvp(loss, params, batch, params)


def test_a_ggn_needs_a_convex_criterion_and_outputs() -> None:
    problem = problems.get("two_d_beale")
    params, batch = problem.init()[0], problem.fake_batch(4)
    with pytest.raises(ConfigError, match=r"two_d_beale has a criterion without a GGN.*Use hvp"):
        probes.ggnvp(problem, params, batch, params)
    with pytest.raises(ConfigError, match=r"takes a Problem and no plain loss.*from_module, or use hvp"):
        probes.ggnvp(problem.loss, params, batch, params)


def test_batches_that_cannot_be_gone_through_twice_are_an_error() -> None:
    params, batch = instance(toy("classifier"))
    product = lambda batch, v: v
    with pytest.raises(ConfigError, match=r"generator, which gives them only once.*Pass a list"):
        probes.over(product, params, (b for b in [batch]))
    with pytest.raises(ConfigError, match=r"pass a list of batches, \[batch\]"):
        probes.over(product, params, batch)
    with pytest.raises(ConfigError, match="no example in the batches"):
        probes.over(product, params, [])(params)


def test_a_map_takes_no_point_and_a_loss_needs_one() -> None:
    problem = toy("classifier")
    params, batch = instance(problem)
    with pytest.raises(ConfigError, match="pass no params, batch or matrix beside it"):
        probes.trace(probes.make_hvp(problem, params, batch), params, batch)
    with pytest.raises(ConfigError, match="pass params and batch, or a LinearMap alone"):
        probes.trace(problem)
    with pytest.raises(ConfigError, match=r"Unknown matrix 'gnn'\. Did you mean 'ggn'\?"):
        probes.trace(problem, params, batch, matrix="gnn")


PROBES = {
    "hvp": lambda problem, params, batch, v: probes.hvp(problem, params, batch, v),
    "hvp of the objective": lambda problem, params, batch, v: probes.hvp(problem.objective, params, batch, v),
    "ggnvp": lambda problem, params, batch, v: probes.ggnvp(problem, params, batch, v),
    "fisher_vp": lambda problem, params, batch, v: probes.fisher_vp(
        problem, params, batch, v, kind="monte-carlo", key=random.key(0)
    ),
    "diagonal": lambda problem, params, batch, v: probes.diagonal(
        problem, params, batch, matrix="ggn", method="monte-carlo", key=random.key(0), samples=1
    ),
    "diagonal, exact": lambda problem, params, batch, v: probes.diagonal(
        problem, params, batch, matrix="ggn", method="exact"
    ),
    "norms": lambda problem, params, batch, v: probes.per_example_sq_norms(problem, params, batch),
    "dots": lambda problem, params, batch, v: probes.per_example_dots(problem, params, batch, v),
}


@pytest.mark.parametrize("name", PROBES)
def test_parameters_of_another_problem_are_refused(name: str) -> None:
    problem = problems.get("mnist_logreg")
    params, batch = problem.init()[0], problem.fake_batch(2)
    renamed = {name.replace("weight", "kernel"): leaf for name, leaf in params.items()}
    stacked = {name: torch.stack((leaf, leaf)) for name, leaf in params.items()}
    with pytest.raises(ConfigError, match=r"lack \['dense.0.weight'\]; they have besides \['dense.0.kernel'\]\."):
        PROBES[name](problem, renamed, batch, renamed)
    with pytest.raises(ConfigError, match=r"these shapes differ: .*'dense.0.bias': \(2, 10\).*torch.func.vmap"):
        PROBES[name](problem, stacked, batch, stacked)
