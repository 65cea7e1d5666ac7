"""Per-example gradients and their statistics, against one backward pass for each example in float64."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import vmap

from deepobs_func import base, datasets, probes, problems, random
from deepobs_func.base import Batch, Outer
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Conv, Pass
from deepobs_func.probes.outer import STATISTICS, Found, Statistic, of_factors, of_gradients, of_layer
from deepobs_func.probes.per_example import Statistics, explain, statistics
from deepobs_func.problems.problem import Problem
from tests.probes.oracles import Tree, flat, one_at_a_time, rows_of_the_jacobian
from tests.problems.small_nets import narrow_resnet, short_text
from tests.problems.test_registry import LARGE_NETS, NAMES, perturbed, table

B = 3
SEPARABLE = [name for name in NAMES if problems.spec_of(name).separable]
COUPLED = [name for name in NAMES if name not in SEPARABLE]
NETS = [
    "mnist_logreg",
    "mnist_mlp",
    "mnist_2c2d",
    "cifar10_3c3d",
    "cifar100_allcnnc",
    "svhn_wrn164",
    "tolstoi_char_rnn",
]
NETS += ["quadratic_deep", "two_d_beale"]  # each architecture once, but the VAE, which has every layer of the others

# cifar10_3c3d has the layers of two of these, and is faster; of batch norm there are tests of its own below.
QUICK = [
    pytest.param(name, marks=pytest.mark.large) if name in ("mnist_2c2d", "cifar100_allcnnc", "svhn_wrn164") else name
    for name in NETS
]


@functools.lru_cache(maxsize=2)
def instance(name: str) -> tuple[Problem, Tree, Batch]:
    """A problem away from its start, with a carried state that is not zero where it has one; WRN-16-1 for WRN-16-4."""
    problem = narrow_resnet() if name == "svhn_wrn164" else problems.get(name)
    params = perturbed(problem.init(0, dtype=torch.float64)[0])
    batch = problem.fake_batch(B, seed=1, dtype=torch.float64)
    carry = {
        key: random.normal(random.key(index), zeros.shape, torch.float64)
        for index, (key, zeros) in enumerate(problem.zero_carry(B).items())
    }
    return problem, params, batch._replace(state=batch.state._replace(carry=carry))


def assert_statistics(found: Statistics, rows: list[Tree]) -> None:
    """Every statistic is that of the given per-example gradients."""
    matrix = torch.stack([flat(row) for row in rows])
    assert matrix.abs().max() > 1e-6
    close = functools.partial(torch.testing.assert_close, rtol=1e-8, atol=1e-10)
    for name in rows[0]:
        stacked = torch.stack([row[name] for row in rows])
        close(found.grads[name], stacked)
        close(found.grad[name], stacked.sum(0))
        close(found.sum_of_squares[name], (stacked**2).sum(0))
        scatter = (stacked - stacked.mean(0)).square().sum(0)
        close(found.scatter[name], scatter, atol=1e-10 + 1e-12 * float(stacked.abs().max() ** 2))
    close(found.gram, matrix @ matrix.T)
    close(found.sq_norms, (matrix**2).sum(1))


@pytest.mark.parametrize("name", table(SEPARABLE, "mnist_vae", "mnist_2c2d", "cifar100_allcnnc"))
def test_every_statistic_of_separable_problems(name: str) -> None:
    problem, params, batch = instance(name)
    rows = one_at_a_time(problem, params, batch)
    for max_bytes in (2**26, 2**14):
        assert_statistics(statistics(problem, params, batch, STATISTICS, max_bytes=max_bytes), rows)


@pytest.mark.parametrize("name", QUICK)
def test_each_statistic_alone_is_that_of_all_together(name: str) -> None:
    """Alone, a statistic may take another formula than in company."""
    problem, params, batch = instance(name)
    bn = None if problem.separable else "frozen"
    together = statistics(problem, params, batch, STATISTICS, bn=bn)
    for statistic in STATISTICS:
        for max_bytes in (2**26, 2**14):
            alone = statistics(problem, params, batch, [statistic], bn=bn, max_bytes=max_bytes)
            torch.testing.assert_close(getattr(alone, statistic), getattr(together, statistic), rtol=1e-8, atol=1e-10)
            assert all(getattr(alone, other) is None for other in STATISTICS if other != statistic)


@pytest.mark.parametrize("name", COUPLED)
def test_coupled_gradients_are_rows_of_the_jacobian(name: str) -> None:
    problem, params, batch = instance(name)
    rows = rows_of_the_jacobian(problem, params, batch)
    assert_statistics(statistics(problem, params, batch, STATISTICS, bn="coupled"), rows)


@pytest.mark.parametrize("name", COUPLED)
def test_eval_gradients_are_those_under_the_moving_moments(name: str) -> None:
    """A net in its test phase: these nets have neither dropout nor heads of the training phase."""
    problem, params, batch = instance(name)
    leaves = {key: leaf.detach().requires_grad_() for key, leaf in params.items()}
    losses = problem.evaluate(leaves, batch).losses
    rows = [
        dict(zip(leaves, torch.autograd.grad(loss, leaves.values(), retain_graph=True), strict=True)) for loss in losses
    ]
    assert_statistics(statistics(problem, params, batch, STATISTICS, bn="eval"), rows)


@pytest.mark.parametrize("name", COUPLED)
def test_frozen_gradients_hold_the_moments_of_the_batch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same loss vector, where `var_mean` gives constants."""
    problem, params, batch = instance(name)
    found = statistics(problem, params, batch, STATISTICS, bn="frozen")
    torch.testing.assert_close(found.losses, problem.loss(params, batch), rtol=1e-9, atol=1e-12)
    var_mean = torch.var_mean
    constants = lambda *args, **kwargs: tuple(tensor.detach() for tensor in var_mean(*args, **kwargs))
    monkeypatch.setattr(torch, "var_mean", constants)
    assert_statistics(found, rows_of_the_jacobian(problem, params, batch))


@pytest.mark.parametrize("name", QUICK)
def test_dots_variance_and_the_names_of_the_single_probes(name: str) -> None:
    problem, params, batch = instance(name)
    bn = None if problem.separable else "coupled"
    rows = one_at_a_time(problem, params, batch) if problem.separable else rows_of_the_jacobian(problem, params, batch)
    matrix, v = torch.stack([flat(row) for row in rows]), perturbed(params, seed=3)
    close = functools.partial(torch.testing.assert_close, rtol=1e-7, atol=1e-9)
    close(probes.per_example_dots(problem, params, batch, v, bn=bn), matrix @ flat(v))
    close(flat(probes.grad_variance(problem, params, batch, bn=bn)), matrix.var(0, correction=0))
    close(flat(probes.grad_variance(problem, params, batch, ddof=1, bn=bn)), matrix.var(0, correction=1))
    close(probes.per_example_sq_norms(problem, params, batch, bn=bn), matrix.square().sum(1))
    close(flat(probes.grad_sum_of_squares(problem, params, batch, bn=bn)), matrix.square().sum(0))
    close(probes.gram(problem, params, batch, bn=bn), matrix @ matrix.T)
    grads = probes.per_example_grads(problem, params, batch, bn=bn)
    close(torch.stack([flat({key: leaf[n] for key, leaf in grads.items()}) for n in range(B)]), matrix)


@pytest.mark.large
@pytest.mark.parametrize("name", LARGE_NETS)
def test_the_layers_of_the_largest_nets_agree_with_vmap(name: str) -> None:
    """float32, two examples; squared norms and products by the layers beside gradients by `vmap(grad)`."""
    problem = problems.get(name)
    params, batch = problem.init(0)[0], problem.fake_batch(2)
    bn = None if problem.separable else "frozen"
    norms = statistics(problem, params, batch, ["sq_norms", "gram"], bn=bn)
    state = batch.state if problem.separable else problem.batch_moments(params, batch)
    one = base.one_example(problem.loss_by_moments)
    rows = vmap(torch.func.grad(one), (None, base.BATCH_DIMS))(params, batch._replace(state=state))
    gram = sum(leaf.flatten(1) @ leaf.flatten(1).T for leaf in rows.values())
    torch.testing.assert_close(norms.gram, gram, rtol=2e-3, atol=2e-3 * float(gram.abs().max()))
    torch.testing.assert_close(norms.sq_norms, gram.diagonal(), rtol=2e-3, atol=0)
    del rows
    dots = probes.per_example_dots(problem, params, batch, params, bn=bn)
    assert torch.isfinite(dots).all()


def test_quadratic_deep_in_closed_form() -> None:
    """`g_n = H (theta - x_n)`, so the covariance of the gradients is `H Cov(x) H`."""
    problem, params, batch = instance("quadratic_deep")
    hessian, offsets = batch.state.moments["hessian"], params["theta"] - batch.x
    torch.testing.assert_close(probes.per_example_grads(problem, params, batch)["theta"], offsets @ hessian)
    torch.testing.assert_close(probes.gram(problem, params, batch), offsets @ hessian @ hessian @ offsets.T)
    covariance = hessian @ torch.cov(batch.x.T, correction=0) @ hessian
    torch.testing.assert_close(probes.grad_variance(problem, params, batch)["theta"], covariance.diagonal())


def linear_loss(params: Tree, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Not made of layers, and of a batch that is no `Batch`: `(w . x_n - y_n)^2 + b`."""
    x, y = batch
    return (x @ params["w"] - y).square() + params["b"]


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 7), width=st.integers(1, 5), max_bytes=st.sampled_from([1, 40, 2**20]), seed=st.integers(0, 99)
)
def test_any_loss_and_any_batch(size: int, width: int, max_bytes: int, seed: int) -> None:
    x, y, w = (
        random.normal(random.fold_in(random.key(seed), i), shape, torch.float64)
        for i, shape in enumerate(((size, width), (size,), (width,)))
    )
    params = {"w": w, "b": torch.zeros((), dtype=torch.float64)}
    found = statistics(linear_loss, params, (x, y), STATISTICS, max_bytes=max_bytes)
    rows = [{"w": 2 * (x[n] @ w - y[n]) * x[n], "b": torch.ones((), dtype=torch.float64)} for n in range(size)]
    assert_statistics(found, rows)
    turned = statistics(
        lambda p, batch: linear_loss(p, (batch["x"].T, batch["y"])), params, {"x": x.T, "y": y}, ["gram"],
        batch_dims={"x": 1, "y": 0}, max_bytes=max_bytes,
    )  # fmt: skip
    torch.testing.assert_close(turned.gram, found.gram)


@settings(max_examples=15, deadline=None)
@given(
    size=st.integers(1, 4), kernel=st.integers(1, 4), stride=st.integers(1, 2), channels=st.integers(1, 3),
    padding=st.sampled_from(["same", "valid"]), side=st.integers(5, 8), max_bytes=st.sampled_from([2**8, 2**24]),
)  # fmt: skip
def test_convolutions_of_any_shape(
    size: int, kernel: int, stride: int, channels: int, padding: str, side: int, max_bytes: int
) -> None:
    conv = Conv(channels, 2, kernel, stride, padding=padding)
    draw = lambda i, *shape: random.normal(random.fold_in(random.key(side), i), shape, torch.float64)
    params = {"weight": draw(0, *conv.weight.shape), "bias": draw(1, 2)}
    x = draw(2, size, channels, side, side)

    def loss(leaves: Tree, x: Tensor) -> Tensor:
        y = torch.func.functional_call(conv, leaves, (x, Pass(True, {}, {})), strict=True)
        return y.square().flatten(1).sum(1)

    y = torch.func.functional_call(conv, params, (x, Pass(True, {}, {})), strict=True)
    shapes = {name: leaf.shape for name, leaf in params.items()}
    found = of_layer(conv, x, 2 * y, shapes, STATISTICS, max_bytes)
    expected = statistics(loss, params, x, STATISTICS)
    for name in params:
        torch.testing.assert_close(found[name]["grads"], expected.grads[name])
        torch.testing.assert_close(found[name]["sum_of_squares"], expected.sum_of_squares[name])
    torch.testing.assert_close(found["weight"]["gram"] + found["bias"]["gram"], expected.gram)
    torch.testing.assert_close(found["weight"]["sq_norms"] + found["bias"]["sq_norms"], expected.sq_norms)


@pytest.mark.parametrize(("device", "calls"), [("cpu", 5), ("meta", 2)])
def test_chunks_keep_to_the_cache_of_a_cpu_and_to_the_bound_elsewhere(device: str, calls: int) -> None:
    """64 gradients of 64 x 64 x 3 x 3 take 9 MiB; one call asks for the sizes."""
    layer = Conv(64, 64, 3, 1)
    x = torch.ones(64, 64, 8, 8, device=device)
    asked = []

    class Counted:
        def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
            asked.append(len(x))
            return layer.factors(x, g)

    of_layer(Counted(), x, x, {"weight": (64, 64, 3, 3), "bias": (64,)}, ["sum_of_squares"], 2**26)
    assert sum(asked[1:]) == 64
    assert len(asked) == calls


@pytest.mark.parametrize(
    "name",
    [
        "mnist_logreg",
        pytest.param("two_d_beale", marks=pytest.mark.large),
        pytest.param("mnist_2c2d", marks=pytest.mark.large),
        pytest.param("svhn_wrn164", marks=pytest.mark.large),
        pytest.param("tolstoi_char_rnn", marks=pytest.mark.large),
    ],
)
def test_compiled_to_one_graph_and_no_recompilation(name: str) -> None:
    small = {"tolstoi_char_rnn": short_text, "svhn_wrn164": functools.partial(narrow_resnet, 10)}
    problem = small.get(name, functools.partial(problems.get, name))()
    bn = None if problem.separable else "frozen"
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def probed(params: Tree, batch: Batch) -> tuple[Statistics, Tensor]:
        found = statistics(problem, params, batch, ["sq_norms", "sum_of_squares", "gram"], bn=bn)
        return found, probes.per_example_dots(problem, params, batch, params, bn=bn)

    compiled = torch.compile(probed, backend=backend, fullgraph=True)
    for seed in (0, 1):
        params, batch = problem.init(seed)[0], problem.fake_batch(2, seed=seed)
        torch.testing.assert_close(compiled(params, batch), probed(params, batch), rtol=1e-3, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("wanted", [{"sum_of_squares"}, {"scatter"}, {"grad", "sum_of_squares", "scatter"}])
@pytest.mark.parametrize(("size", "rows", "is_a_loop"), [(5, 3, True), (5, 17, False), (2**17, 2, False)])
def test_compiled_sums_of_few_small_rows_are_a_loop_in_which_no_product_is_computed(
    wanted: set[Statistic], size: int, rows: int, is_a_loop: bool
) -> None:
    keys = random.split(random.key(0), 2)
    factors = [random.normal(keys[0], (size, rows, 1)).double(), random.normal(keys[1], (size, 7, 1)).double()]
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph.code)
        return graph

    def sums(r: Tensor, c: Tensor) -> Found:
        return of_factors(Outer(r, c), (rows, 7), wanted)

    found = torch.compile(sums, backend=backend, fullgraph=True)(*factors)
    torch.testing.assert_close(found, sums(*factors))
    torch.testing.assert_close(found, of_gradients(Outer(*factors).product(), wanted))
    assert ("@" not in graphs[0]) == is_a_loop


@pytest.mark.parametrize("name", ["mnist_mlp", "svhn_wrn164", "tolstoi_char_rnn", "two_d_beale"])
def test_inside_a_population(name: str) -> None:
    """Members agree with themselves alone."""
    problem, params, batch = instance(name)
    bn = None if problem.separable else "frozen"
    members = [params, perturbed(params, seed=11)]
    stacked = {key: torch.stack([member[key] for member in members]) for key in params}

    def probed(params: Tree) -> tuple[Tensor, Tree]:
        found = statistics(problem, params, batch, ["gram", "sum_of_squares"], bn=bn)
        return found.gram, found.sum_of_squares

    together = vmap(probed)(stacked)
    for index, member in enumerate(members):
        alone = probed(member)
        mine = torch.utils._pytree.tree_map(lambda leaf, i=index: leaf[i], together)
        torch.testing.assert_close(mine, alone, rtol=1e-8, atol=1e-10)


def test_explain_says_who_gives_what() -> None:
    problem, params, _ = instance("tolstoi_char_rnn")
    ways = explain(problem, params)
    assert list(ways) == list(params)
    assert ways["lstm1.weight"] == "input and output gradient of lstm1 (LSTM)"
    assert ways["embedding.weight"] == "input and output gradient of embedding (Embedding)"
    assert set(explain(linear_loss, {"w": torch.zeros(2)}).values()) == {"vmap(grad)"}
    coupled, params, _ = instance("svhn_wrn164")
    assert set(explain(coupled, params, bn="coupled").values()) == {"rows of the Jacobian, by vmap(vjp)"}
    assert not any("vmap" in way for way in explain(coupled, params, bn="frozen").values())


def test_a_net_of_ones_own_goes_through_vmap() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    problem = problems.from_module(net, functools.partial(nn.functional.cross_entropy, reduction="none"), "mnist")
    params, batch = problem.init(0, dtype=torch.float64)[0], problem.fake_batch(B, dtype=torch.float64)
    assert_statistics(statistics(problem, params, batch, STATISTICS), one_at_a_time(problem, params, batch))


def test_what_cannot_be_asked() -> None:
    problem, params, batch = instance("svhn_wrn164")
    with pytest.raises(ConfigError, match=r"svhn_wrn164 couples .* bn='coupled' .* --bn\."):
        probes.gram(problem, params, batch)
    with pytest.raises(ConfigError, match=r"Unknown choice for bn= 'frosen'\. Did you mean 'frozen'\?"):
        probes.gram(problem, params, batch, bn="frosen")
    with pytest.raises(ConfigError, match="needs a Problem"):
        probes.gram(problem.loss, params, batch, bn="eval")
    x, y = torch.ones(3, 2), torch.ones(3)
    weights = {"w": torch.ones(2), "b": torch.zeros(())}
    for probe in (probes.gram, probes.per_example_grads, functools.partial(probes.per_example_dots, v=weights)):
        with pytest.raises(ConfigError, match=r"the shape \(\) for a batch of 3; it must return one loss"):
            probe(lambda p, batch: linear_loss(p, batch).mean(), weights, (x, y))
    with pytest.raises(ConfigError, match="no examples"):
        probes.gram(linear_loss, weights, (x[:0], y[:0]))
    with pytest.raises(ConfigError, match=r"ddof=1 is undefined"):
        probes.grad_variance(linear_loss, weights, (x[:1], y[:1]), ddof=1)
    with pytest.raises(ConfigError, match="tree like the parameters"):
        probes.per_example_dots(linear_loss, weights, (x, y), {"w": torch.ones(2)})
    quadratic, params, batch = instance("quadratic_deep")
    with pytest.raises(ConfigError, match=r"lack \['theta'\]; they have besides \['theta2'\]\."):
        probes.gram(quadratic, {"theta2": params["theta"]}, batch)
    with pytest.raises(ConfigError, match=r"takes a Batch and got a tuple; make one by Batch\.of"):
        probes.gram(quadratic, params, (batch.x, batch.y))
    with pytest.raises(ConfigError, match=r"Unknown statistic 'sqnorms'\. Did you mean 'sq_norms'\?"):
        statistics(quadratic, params, batch, ["sqnorms"])
    torch.testing.assert_close(statistics(quadratic, params, batch, "gram").gram, probes.gram(quadratic, params, batch))


@pytest.mark.parametrize(("mean", "deviation"), [(100.0, 0.01), (0.0, 1.0), (1000.0, 0.0)])
@pytest.mark.parametrize("alike", [False, True])
def test_the_scatter_of_gradients_that_are_nearly_alike(mean: float, deviation: float, alike: bool) -> None:
    """In float32 beside two passes in float64, where the sum of squares is 10^8 times the scatter."""
    generator = torch.Generator().manual_seed(0)
    columns = mean + deviation * torch.randn(64, 6, 1, generator=generator)
    rows = (1.0 if alike else 0.0) + (0.01 if alike else 1.0) * torch.randn(64, 3, 1, generator=generator)
    wanted: set[Statistic] = {"grad", "sum_of_squares", "scatter"}
    found = of_factors(Outer(rows, columns), (3, 6), wanted)
    grads = rows.double() * columns.double().mT
    right = of_gradients(grads, wanted)
    for statistic in wanted:
        size = grads.abs().sum(0) if statistic == "grad" else right[statistic]
        assert ((found[statistic] - right[statistic]).abs() <= 1e-5 * size).all(), statistic


def test_the_variance_of_a_dense_layer_far_from_the_origin() -> None:
    x = 100.0 + 0.01 * torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    problem = problems.from_module(
        nn.Linear(6, 1, bias=False), lambda o, y: o[:, 0] - y, datasets.from_arrays("far", (x, x[:, 0]), (x, x[:, 0]))
    )
    found = statistics(problem, problem.init()[0], Batch.of(x, x[:, 0]), ["scatter"]).scatter
    assert found is not None
    right = (x.double() - x.double().mean(0)).square().sum(0)
    torch.testing.assert_close(found["weight"][0].double(), right, rtol=1e-4, atol=0)
