"""The second-order optimizers beside NumPy, dense algebra and closed forms; in steps, populations and runs."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import vmap
from torch.utils import _pytree as pytree

from deepobs_func import optimizers, problems, random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import conditional
from deepobs_func.probes import LinearMap
from deepobs_func.problems.measures import Measure
from deepobs_func.runner import RunConfig
from deepobs_func.runner.step import Carry, make_step
from tests.optimizers import toy
from tests.runner.small import recorded, small_problem

F64 = torch.float64
MAKE = {
    "newton_cg": lambda **options: optimizers.newton_cg(**{"lr": 1.0} | options),
    "adahessian": lambda **options: optimizers.adahessian(**{"lr": 0.02} | options),
    "sophia_h": lambda **options: optimizers.sophia_h(**{"lr": 0.003} | options),
    "sgd_cabs": lambda **options: optimizers.sgd_cabs(**{"lr": 0.1} | options),
}


LARGE = pytest.mark.large  # the compiler takes long for the loop of conjugate gradients, and for AdaHessian's vectors


def slow(*names):
    """All optimizers; those named are `large`."""
    return [pytest.param(name, marks=LARGE) if name in names else name for name in MAKE]


UNROLLED = {"newton_cg": {"cg_steps": 3}}  # in a graph, whose size grows with every step of the loop


def start(problem, optimizer, seed=0, dtype=F64):
    params, state = problem.init(seed, dtype=dtype)
    return Carry(params, optimizer.init(params, random.key(seed)), state)


def convex_problem():
    """The small problem of the runner's tests, with a criterion that says that it is convex; 18 parameters, L2 0.01."""
    problem = small_problem()
    return replace(problem, measure=Measure(problem.measure.losses, problem.measure.correct, convex=True))


# AdaHessian and Sophia beside NumPy, for the vectors that they drew


SHAPES = {"kernel": (2, 3, 2, 2), "matrix": (3, 2), "bias": (2,), "scale": ()}


class Recording:
    """An oracle of given gradients and a Hessian that is a function of the step; it remembers the vectors."""

    def __init__(self, step):
        self.step, self.vectors = step, []

    def array(self, name, purpose):
        r = np.random.RandomState([self.step, list(SHAPES).index(name), purpose])
        return r.normal(size=SHAPES[name])

    def grad(self):
        return {name: torch.from_numpy(np.asarray(self.array(name, 0))) for name in SHAPES}

    def hvp(self, v):
        self.vectors.append({name: leaf.numpy() for name, leaf in v.items()})
        return {name: torch.from_numpy(np.asarray(self.product(name, leaf.numpy()))) for name, leaf in v.items()}

    def product(self, name, v):
        """A Hessian that is diagonal, and differs from step to step."""
        return self.array(name, 1) * v


def stepped_by(optimizer, steps):
    params = {name: torch.from_numpy(np.asarray(np.random.RandomState(5).normal(size=s))) for name, s in SHAPES.items()}
    first = {name: leaf.numpy().copy() for name, leaf in params.items()}
    state, oracles = optimizer.init(params, random.key(3)), []
    for step in range(steps):
        oracles.append(Recording(step))
        params, state = optimizer.update(oracles[-1], state, params)
    return first, oracles, {name: leaf.numpy() for name, leaf in params.items()}


def assert_same(params, expected):
    for name in SHAPES:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_adahessian_is_its_formula(power):
    lr, beta1, beta2, epsilon, decay = 0.1, 0.8, 0.9, 1e-3, 0.05
    optimizer = optimizers.adahessian(lr, beta1, beta2, epsilon, power, decay)
    expected, oracles, params = stepped_by(optimizer, steps=6)
    m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for t, oracle in enumerate(oracles, start=1):
        (u,) = oracle.vectors
        assert all(np.abs(leaf).min() == np.abs(leaf).max() == 1 for leaf in u.values())
        for name in SHAPES:
            diagonal = u[name] * oracle.product(name, u[name])
            if name == "kernel":
                diagonal = np.repeat(diagonal.reshape(2, 3, 4).mean(-1), 4).reshape(2, 3, 2, 2)
            m[name] = beta1 * m[name] + (1 - beta1) * oracle.array(name, 0)
            v[name] = beta2 * v[name] + (1 - beta2) * diagonal**2
            scale = np.sqrt(v[name] / (1 - beta2**t)) ** power + epsilon
            expected[name] = expected[name] - lr * (m[name] / (1 - beta1**t) / scale + decay * expected[name])
    assert_same(params, expected)


def test_sophia_is_its_formula_and_asks_for_the_hessian_now_and_then():
    lr, beta1, beta2, gamma, epsilon, decay, every = 0.1, 0.8, 0.9, 2.0, 1e-3, 0.05, 3
    optimizer = optimizers.sophia_h(lr, beta1, beta2, gamma, epsilon, decay, every)
    expected, oracles, params = stepped_by(optimizer, steps=8)
    assert [len(oracle.vectors) for oracle in oracles] == [1, 0, 0, 1, 0, 0, 1, 0]
    m, h = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    clipped = []
    for oracle in oracles:
        for name in SHAPES:
            m[name] = beta1 * m[name] + (1 - beta1) * oracle.array(name, 0)
            for u in oracle.vectors:
                h[name] = beta2 * h[name] + (1 - beta2) * u[name] * oracle.product(name, u[name])
            step = m[name] / np.maximum(gamma * h[name], epsilon)
            clipped.append(np.abs(step).ravel() > 1)
            expected[name] = expected[name] - lr * (np.clip(step, -1, 1) + decay * expected[name])
    assert_same(params, expected)
    assert 0.1 < np.concatenate(clipped).mean() < 0.9  # neither rule alone would pass


def test_the_vectors_of_the_steps_are_independent():
    _, oracles, _ = stepped_by(optimizers.adahessian(0.1), steps=3)
    vectors = [np.concatenate([leaf.ravel() for leaf in oracle.vectors[0].values()]) for oracle in oracles]
    assert not any((one == other).all() for one in vectors for other in vectors if one is not other)


# Work that is done in some steps only


def triple(tree):
    return {name: 3 * leaf for name, leaf in tree.items()}


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.large)])
def test_only_if_takes_the_branch_in_every_kind_of_code(backend):
    value, conditions = {"a": torch.ones(2), "b": torch.tensor(2.0)}, torch.tensor([True, False])
    expected = [triple(value), value]
    compiled = torch.compile(lambda c, v: conditional.only_if(c, triple, v), backend=backend, fullgraph=True)
    mapped = vmap(lambda c: conditional.only_if(c, triple, value))(conditions)
    for index, condition in enumerate(conditions):
        for found in (
            conditional.only_if(condition, triple, value),
            compiled(condition, value),
            {name: leaf[index] for name, leaf in mapped.items()},
        ):
            torch.testing.assert_close(found, expected[index])


def test_only_if_computes_nothing_where_the_condition_fails():
    def fail(tree):
        raise AssertionError("the branch was taken")

    value = {"a": torch.ones(2)}
    assert conditional.only_if(torch.tensor(False), fail, value) is value


def test_a_compiled_graph_runs_one_branch_only():
    """The count of products with a matrix in the graph that runs, seen by how often a custom operator is called."""
    calls = []

    @torch.library.custom_op("deepobs_func_tests::counted", mutates_args=())
    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return 3 * x

    counted.register_fake(torch.empty_like)
    step = torch.compile(
        lambda c, v: conditional.only_if(c, lambda tree: {"a": counted(tree["a"])}, v),
        backend="aot_eager",
        fullgraph=True,
    )
    for condition in (False, True, False, False, True):
        step(torch.tensor(condition), {"a": torch.ones(2)})
    assert len(calls) == 2


# Newton-CG


def quadratic(dtype=F64, batch_size=16):
    problem = problems.get("quadratic_deep")
    return problem, problem.fake_batch(batch_size, seed=1, dtype=dtype)


@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_newton_cg_solves_a_quadratic_in_one_step(damping):
    """To the minimum of the batch, `mean x`, up to the damping: `theta - (H + damping I)^-1 H (theta - mean x)`."""
    problem, batch = quadratic()
    optimizer = optimizers.newton_cg(1.0, damping=damping, cg_steps=300, cg_tol=1e-12)
    carry = start(problem, optimizer)
    after, _ = make_step(problem, optimizer)(carry, batch)
    theta, hessian = carry.params["theta"].numpy(), batch.state.moments["hessian"].numpy()
    offset = theta - batch.x.numpy().mean(0)
    expected = theta - np.linalg.solve(hessian + damping * np.eye(100), hessian @ offset)
    np.testing.assert_allclose(after.params["theta"].numpy(), expected, rtol=1e-8, atol=1e-8)
    report = optimizer.report(after.opt_state)
    assert float(report["reduction_ratio"]) == pytest.approx(1, rel=1e-6)  # a quadratic is its own model
    assert float(report["damping"]) == pytest.approx(damping / 1.5)


def dense_ggn(problem, params, batch):
    """Of cross entropy: `mean_n J_n^T (diag p - p p^T) J_n`, by one backward pass for each output."""
    leaves = [leaf.clone().requires_grad_() for leaf in params.values()]
    logits = problem.outputs(dict(zip(params, leaves, strict=True)), batch)
    total = 0
    for row in logits:
        grads = [torch.autograd.grad(logit, leaves, retain_graph=True) for logit in row]
        jacobian = torch.stack([torch.cat([g.flatten() for g in of_one]) for of_one in grads])
        p = row.detach().softmax(0)
        total = total + jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
    return total / len(logits)


def test_a_step_of_newton_cg_is_that_of_dense_algebra_penalty_included():
    problem, batch = convex_problem(), convex_problem().fake_batch(8, dtype=F64)
    optimizer = optimizers.newton_cg(0.5, damping=0.2, cg_steps=60, cg_tol=1e-12)
    carry = start(problem, optimizer)
    params = carry.params
    flat = lambda tree: torch.cat([leaf.flatten() for leaf in tree.values()])
    ggn = dense_ggn(problem, params, batch)
    penalized = torch.cat([torch.full((leaf.numel(),), 0.01 * (leaf.ndim > 1), dtype=F64) for leaf in params.values()])
    gradient = flat(torch.func.grad(problem.objective)(params, batch))
    undamped = ggn + torch.diag(penalized)
    direction = torch.linalg.solve(undamped + 0.2 * torch.eye(18, dtype=F64), -gradient)
    after, _ = make_step(problem, optimizer)(carry, batch)
    torch.testing.assert_close(flat(after.params), flat(params) + 0.5 * direction, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(flat(after.opt_state.direction), direction, rtol=1e-9, atol=1e-10)
    change = problem.objective(after.params, batch) - problem.objective(params, batch)
    model = 0.5 * gradient @ direction + 0.125 * direction @ undamped @ direction
    assert float(after.opt_state.ratio) == pytest.approx(float(change / model), rel=1e-8)


class Quartic:
    """`f(x) = sign x^2 / 2 + bend x^4`, with a GGN that knows of the first term alone."""

    def __init__(self, params, bend):
        self.params, self.bend = params, bend

    def loss_at(self, params):
        return 0.5 * params["x"].square() + self.bend * params["x"] ** 4

    def value(self):
        return self.loss_at(self.params)

    def grad(self):
        return torch.func.grad(self.loss_at)(self.params)

    def make_ggnvp(self):
        return LinearMap(lambda v: v, self.params)


def one_step(bend, x=1.0, **options):
    optimizer = optimizers.newton_cg(**{"lr": 1.0, "damping": 1.0} | options)
    params = {"x": torch.tensor(x, dtype=F64)}
    state = optimizer.init(params, random.key(0))
    after, state = optimizer.update(Quartic(params, bend), state, params)
    return float(after["x"]), optimizer.report(state)


def test_the_damping_goes_with_the_reduction_ratio():
    """At x = 1 the step is `-(1 + 4 bend) / 2`, and the ratio falls from 1 to -0.5 as the bend rises from 0 to 1."""
    seen = []
    for bend in (0.0, 0.1, 0.25, 0.6, 1.0):
        x, report = one_step(bend)
        p = -(1 + 4 * bend) / 2
        change = 0.5 * (1 + p) ** 2 + bend * (1 + p) ** 4 - 0.5 - bend
        ratio = change / (p * (1 + 4 * bend) + 0.5 * p * p)
        assert float(report["reduction_ratio"]) == pytest.approx(ratio)
        expected = 1 / 1.5 if ratio > 0.75 else 1.5 if ratio < 0.25 else 1.0
        assert float(report["damping"]) == pytest.approx(expected)
        assert x == pytest.approx(1 + p if change < 0 else 1.0)
        seen.append(expected)
    assert set(seen) == {1 / 1.5, 1.0, 1.5}


@pytest.mark.parametrize("bend", [1.0, math.nan, math.inf])
def test_a_step_that_does_not_help_is_not_taken_and_asks_for_damping(bend):
    x, report = one_step(bend)
    assert x == 1.0
    assert float(report["damping"]) == 1.5


def test_the_damping_has_bounds():
    optimizer = optimizers.newton_cg(1.0, damping=1.0, damping_factor=1e10)
    params = {"x": torch.tensor(1.0, dtype=F64)}
    state = optimizer.init(params, random.key(0))
    for _ in range(3):
        params, state = optimizer.update(Quartic(params, 0.0), state, params)
    assert float(optimizer.report(state)["damping"]) == pytest.approx(1e-12)
    for _ in range(5):
        _, state = optimizer.update(Quartic(params, math.nan), state, params)
    assert float(optimizer.report(state)["damping"]) == pytest.approx(1e12)


def test_damping_stays_where_its_factor_is_1():
    for bend in (0.0, 0.5):
        assert float(one_step(bend, damping_factor=1.0)[1]["damping"]) == 1.0


def test_the_warm_start_is_used_where_it_helps_only():
    problem, batch = quadratic()
    optimizer = optimizers.newton_cg(1.0, damping=1e-3, cg_steps=4, warm_start=1.0, damping_factor=1.0, cg_tol=0.0)
    step = make_step(problem, optimizer)
    carry = start(problem, optimizer)

    def model_after(direction):
        """What a step of four products makes of the same batch from the same point, from a given last solution."""
        opt_state = carry.opt_state._replace(direction={"theta": direction})
        return float(problem.objective(step(carry._replace(opt_state=opt_state), batch)[0].params, batch))

    zero = torch.zeros(100, dtype=F64)
    cold = model_after(zero)
    good = step(carry, batch)[0].opt_state.direction["theta"]
    assert model_after(good) < cold  # eight products in all
    assert model_after(-good) == pytest.approx(cold, rel=1e-12)
    assert model_after(torch.full_like(good, math.nan)) == pytest.approx(cold, rel=1e-12)


def test_conjugate_gradients_end_early_where_they_may():
    problem, batch = quadratic()
    counts = []
    for tol in (0.0, 1e-1):
        optimizer = optimizers.newton_cg(1.0, cg_tol=tol, cg_steps=10)
        after, _ = make_step(problem, optimizer)(start(problem, optimizer), batch)
        counts.append(int(optimizer.report(after.opt_state)["cg_steps"]))
    assert counts[0] == 10 > counts[1] > 0


# A part of the batch has the curvature


class Asking:
    """An oracle that notes of which part it is asked for products."""

    def __init__(self, params, seen, part=None):
        self.params, self.seen, self.of = params, seen, part

    def value(self):
        return toy.Oracle(self.params).value()

    def grad(self):
        return toy.Oracle(self.params).grad()

    def loss_at(self, params):
        return toy.objective(params)

    def hvp(self, v):
        self.seen.append(self.of)
        return toy.Oracle(self.params).hvp(v)

    def make_ggnvp(self):
        self.seen.append(self.of)
        return toy.Oracle(self.params).make_ggnvp()

    def part(self, size):
        return Asking(self.params, self.seen, size)


@pytest.mark.parametrize("name", ["newton_cg", "adahessian", "sophia_h"])
@pytest.mark.parametrize("size", [None, 5])
def test_products_are_of_a_part_of_the_batch(name, size):
    optimizer, params, seen = MAKE[name](curvature_batch=size), toy.params(), []
    optimizer.update(Asking(params, seen), optimizer.init(params, random.key(0)), params)
    assert seen == [size]


def test_newton_cg_takes_the_ggn_of_the_first_examples_and_the_gradient_of_all():
    problem, batch = convex_problem(), convex_problem().fake_batch(8, dtype=F64)
    optimizer = optimizers.newton_cg(0.5, damping=0.2, cg_steps=60, cg_tol=1e-12, curvature_batch=3)
    carry = start(problem, optimizer)
    flat = lambda tree: torch.cat([leaf.flatten() for leaf in tree.values()])
    first = Batch.of(batch.x[:3], batch.y[:3], state=batch.state)
    penalized = torch.cat([torch.full((leaf.numel(),), 0.01 * (leaf.ndim > 1)) for leaf in carry.params.values()])
    matrix = dense_ggn(problem, carry.params, first) + torch.diag(penalized.double() + 0.2)
    gradient = flat(torch.func.grad(problem.objective)(carry.params, batch))
    after, _ = make_step(problem, optimizer)(carry, batch)
    expected = torch.linalg.solve(matrix, -gradient)
    torch.testing.assert_close(flat(after.opt_state.direction), expected, rtol=1e-7, atol=1e-8)


def test_a_part_that_is_more_than_the_batch_is_refused():
    problem, batch = convex_problem(), convex_problem().fake_batch(8, dtype=F64)
    for name in ("newton_cg", "adahessian", "sophia_h"):
        optimizer = MAKE[name](curvature_batch=9)
        carry = start(problem, optimizer)
        with pytest.raises(ConfigError, match="curvature_batch=9 is more than the batch has, 8 examples"):
            make_step(problem, optimizer)(carry, batch)
    with pytest.raises(ConfigError, match="curvature_batch is 0; it must be a whole number from 1"):
        MAKE["newton_cg"](curvature_batch=0)


# CABS


def test_the_advice_of_cabs_is_its_formula_at_the_learning_rate_in_force():
    """And the parameters are those of SGD."""
    problem, batch = convex_problem(), convex_problem().fake_batch(8, dtype=F64)
    schedule = optimizers.steps((1,), (0.1,))
    ours, plain = optimizers.sgd_cabs(0.5, schedule=schedule), optimizers.sgd(0.5, schedule=schedule)
    carry, sgd = start(problem, ours), start(problem, plain)
    assert math.isnan(ours.report(carry.opt_state)["advised_batch_size"])

    def losses(*leaves):
        return problem.loss(dict(zip(carry.params, leaves, strict=True)), batch)

    for lr in (0.5, 0.05):
        rows = torch.autograd.functional.jacobian(losses, tuple(carry.params.values()))
        grads = torch.cat([row.flatten(1) for row in rows], dim=1).numpy()
        loss = float(problem.loss(carry.params, batch).mean())
        carry, _ = make_step(problem, ours)(carry, batch)
        sgd, _ = make_step(problem, plain)(sgd, batch)
        advice = float(ours.report(carry.opt_state)["advised_batch_size"])
        assert advice == pytest.approx(lr * grads.var(0).sum() / loss, rel=1e-10)
        torch.testing.assert_close(carry.params, sgd.params, rtol=0, atol=0)


def test_there_is_no_advice_for_a_loss_that_is_not_positive():
    problem = problems.get("two_d_rosenbrock")
    optimizer = optimizers.sgd_cabs(1e-4)
    batch = Batch.of(torch.full((4,), 10.0), torch.zeros(4))
    carry = start(problem, optimizer, dtype=torch.float32)
    carry = carry._replace(params={name: torch.tensor(-1.0 if name == "u" else 1.0) for name in carry.params})
    after, metrics = make_step(problem, optimizer)(carry, batch)
    assert metrics.loss < 0
    assert math.isnan(optimizer.report(after.opt_state)["advised_batch_size"])


@pytest.mark.parametrize("bn", ["coupled", "frozen", "eval"])
def test_the_choice_of_batch_norm_reaches_the_statistics(bn):
    problem = problems.get("svhn_wrn164")
    optimizer = optimizers.sgd_cabs(0.1, bn)
    optimizer.check(problem)
    asked = []

    class Asked(toy.Oracle):
        def statistics(self, wanted, *, bn=None):
            asked.append(bn)
            return super().statistics(wanted)

    params = toy.params()
    optimizer.update(Asked(params), optimizer.init(params, random.key(0)), params)
    assert asked == [bn]


# Steps, populations, runs


@pytest.mark.parametrize("name", MAKE)
def test_each_reduces_the_loss_of_a_logistic_regression(name):
    """On inputs like MNIST's: 784 pixels, most of them dark, ten classes."""
    problem = problems.get("mnist_logreg")
    r = np.random.RandomState(0)
    classes = r.uniform(size=(10, 784)) * (r.uniform(size=(10, 784)) < 0.2)
    y = torch.from_numpy(r.randint(0, 10, 64))
    x = torch.from_numpy(classes[y] * r.uniform(0.5, 1.0, size=(64, 784))).float()
    x = x.reshape(64, *problem.fake_batch(1).x.shape[1:])
    optimizer = MAKE[name]()
    step, carry = make_step(problem, optimizer, plain=True), start(problem, optimizer, dtype=torch.float32)
    batch, losses = Batch.of(x, y), []
    for _ in range(15):
        carry, metrics = step(carry, batch)
        losses.append(float(metrics.loss))
    assert losses[0] == pytest.approx(math.log(10), rel=1e-5)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("name", "make_problem"),
    [
        *[pytest.param(name, partial(problems.get, "quadratic_deep"), id=f"deep-{name}") for name in MAKE],
        # The tracer takes 10 to 20 s for vectors that are drawn, and for the loop of conjugate gradients.
        *[pytest.param(name, convex_problem, id=f"small-{name}", marks=LARGE) for name in MAKE],
    ],
)
def test_the_compiled_step_equals_the_eager_one_and_does_not_recompile(name, make_problem):
    """With the plain step as a third; over a change of the learning rate, and with and without Sophia's product.

    The step of quadratic_deep is compiled below, as that of a population.
    """
    problem, backend = make_problem(), CompileCounterWithBackend("aot_eager")
    optimizer = MAKE[name](schedule=optimizers.steps((2,), (0.5,)), **UNROLLED.get(name, {}))
    steps = [make_step(problem, optimizer), make_step(problem, optimizer, plain=True)]
    if problem.name == "small":
        steps.append(torch.compile(steps[0], backend=backend, fullgraph=True))
    found, graphs = [], []
    for step in steps:
        carry = start(problem, optimizer)
        for index in range(4):
            carry, _ = step(carry, problem.fake_batch(8, seed=index, dtype=F64))
            graphs.append(backend.frame_count)
        found.append(carry)
    for other in found[1:]:
        torch.testing.assert_close(other.params, found[0].params, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(other.opt_state, found[0].opt_state, rtol=1e-7, atol=1e-9)
    assert graphs[-1] == graphs[-4]
    assert (graphs[-1] > 0) == (problem.name == "small")


@pytest.mark.large
@pytest.mark.parametrize("name", MAKE)
def test_a_population_of_two_is_its_members(name):
    """Two seeds and two learning rates in one call, 20 steps in float64; in eager code and compiled."""
    problem, rates = problems.get("quadratic_deep"), (0.01, 0.02)
    options = UNROLLED.get(name, {})
    members = [start(problem, MAKE[name](lr=lr, **options), seed) for seed, lr in enumerate(rates)]
    stacked = pytree.tree_map(lambda *leaves: torch.stack(leaves), *members)
    alone = make_step(problem, MAKE[name](**options))
    together = vmap(alone, in_dims=(0, None))
    compiled = torch.compile(together, backend="aot_eager", fullgraph=True)
    populations = {together: stacked, compiled: stacked}
    for index in range(20):
        batch = problem.fake_batch(8, seed=index, dtype=F64)
        populations = {step: step(carry, batch)[0] for step, carry in populations.items()}
        members = [alone(carry, batch)[0] for carry in members]
    for index, carry in enumerate(members):
        for found in populations.values():
            torch.testing.assert_close(found.params["theta"][index], carry.params["theta"], rtol=1e-10, atol=1e-11)


TEXT = {"train_size": 2 * 4 * 50 + 30, "test_size": 4 * 50 + 7, "train_eval_size": 2 * 4 * 50 + 30}


LRS = {"newton_cg": 0.5, "adahessian": 0.01, "sophia_h": 0.001, "sgd_cabs": 0.01}


def config(problem, optimizer, **changes):
    values = {"epochs": 1, "data": "synthetic", "output_dir": None, "train_log_interval": 1}
    return RunConfig(problem, optimizer, LRS[optimizer], **(values | changes))


def numbers(record):
    """Everything that was measured; NaN is not equal to itself."""
    columns = {"losses": record.minibatch_train_losses, "accuracies": record.test_accuracies or []}
    columns |= {"train": record.train_losses, "test": record.test_losses} | record.extra.get("reports", {})
    return {name: list(map(repr, column)) for name, column in columns.items()}


def few_digits():
    """mnist_logreg on a tenth of its examples."""
    problem = problems.get("mnist_logreg")
    return replace(problem, dataset=replace(problem.dataset, train_size=6000, test_size=1000, file_sizes=()))


def small_text():
    """tolstoi_char_rnn on a text of three batches of four."""
    problem = problems.get("tolstoi_char_rnn")
    return replace(problem, dataset=replace(problem.dataset, **TEXT))


@pytest.mark.parametrize("name", slow("newton_cg"))
@pytest.mark.parametrize(
    ("make_problem", "changes"),
    [
        (partial(problems.get, "quadratic_deep"), {"epochs": 3}),
        (few_digits, {"batch_size": 500}),
        pytest.param(small_text, {"batch_size": 4}, marks=pytest.mark.large),
    ],
    ids=["quadratic", "logreg", "text"],
)
def test_a_run_learns_and_its_repeat_is_the_same_bit_for_bit(name, make_problem, changes):
    problem = make_problem()
    made = config(problem.name, name, **changes)
    first, again = recorded(made, problem), recorded(made, problem)
    assert first.status == "finished"
    assert numbers(first) == numbers(again)
    assert first.train_losses[-1] < first.train_losses[0]
    if name in ("adahessian", "sophia_h"):
        assert numbers(first) != numbers(recorded(replace(made, seed=43), problem))


@pytest.mark.large  # Inductor takes a minute for the vector that is drawn in the graph
def test_a_run_compiled_by_inductor_is_the_eager_one():
    """Sophia's, whose graph has a branch: taken in the first step and the third of four."""
    made = config("quadratic_deep", "sophia_h", epochs=4, batch_size=1000, hyperparams={"update_every": 2})
    eager, compiled = (recorded(replace(made, compile=choice)) for choice in ("off", "on"))
    np.testing.assert_allclose(compiled.minibatch_train_losses, eager.minibatch_train_losses, rtol=1e-5)


def test_a_run_records_what_its_optimizer_reports():
    problem = convex_problem()
    record = recorded(RunConfig("small", "newton_cg", 1.0, output_dir=None, train_log_interval=2), problem)
    reports = record.extra["reports"]
    assert list(reports) == ["damping", "reduction_ratio", "cg_steps"]
    assert {len(column) for column in reports.values()} == {len(record.minibatch_train_losses)} == {6}
    assert reports["damping"][0] in (1.0, 1.5, 1 / 1.5)
    assert "reports" not in recorded(RunConfig("small", "sgd", 0.1, output_dir=None), problem).extra


def test_the_reports_of_a_diverged_run_end_where_its_losses_do():
    record = recorded(RunConfig("small", "sgd_cabs", 1e30, output_dir=None, train_log_interval=1), small_problem())
    assert record.status == "diverged"
    (column,) = record.extra["reports"].values()
    assert len(column) == len(record.minibatch_train_losses) == 9
    assert math.isfinite(column[0])
    assert math.isnan(column[-1])


@pytest.mark.parametrize(
    ("problem", "optimizer", "words"),
    [
        ("two_d_beale", "newton_cg", "newton_cg needs a GGN, and two_d_beale has none.*Use adahessian or sophia_h"),
        ("svhn_wrn164", "sgd_cabs", "svhn_wrn164 couples the examples.*bn='coupled'.*bn='frozen'.*bn='eval'"),
    ],
)
def test_what_is_not_defined_is_refused_before_anything_starts(problem, optimizer, words):
    with pytest.raises(ConfigError, match=words):
        recorded(RunConfig(problem, optimizer, 0.1, data="no_such_folder", output_dir=None))


def test_every_hyperparameter_is_in_the_record():
    record = recorded(config("quadratic_deep", "newton_cg", hyperparams={"cg_steps": 3}))
    defaults = dict(optimizers.FUNCTIONAL["newton_cg"].defaults)
    assert record.hyperparams == defaults | {"cg_steps": 3}
