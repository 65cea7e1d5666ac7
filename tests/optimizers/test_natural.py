"""K-FAC and EKFAC beside explicit Kronecker matrices; in steps, compiled and in a population; what is refused."""

import math

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from deepobs_func import optimizers, problems, random
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import blocks
from deepobs_func.optimizers.blocks import _inverse, factors_of, zero_factors
from deepobs_func.optimizers.counting import calls_so_far, counting_at
from deepobs_func.probes.outer_products import layer_gradients
from deepobs_func.problems.measures import square
from deepobs_func.runner.step import Carry, make_step
from tests.optimizers import nets

F64 = torch.float64


def start(problem, optimizer, seed=0):
    params, state = problem.init(seed, dtype=F64)
    return Carry(params, optimizer.init(params, random.key(seed)), state)


def by_hand(problem, corrected, lr, damping, beta, momentum, kl_clip, decay, every, steps):
    """The parameters after some steps, by dense matrices."""
    params = problem.init(0, dtype=F64)[0]
    found, squares, buffers = None, {}, {name: torch.zeros_like(leaf) for name, leaf in params.items()}
    bases = {}
    for step in range(steps):
        batch = problem.fake_batch(nets.BATCH, seed=step, dtype=F64)
        if step % every == 0:
            new = nets.explicit(params, batch.x)
            mix = lambda old, now: beta * old + (1 - beta) * now
            old = found or new
            found = {p: [mix(o, n) for o, n in zip(old[p], new[p], strict=True)] for p in new}
            for path, (r, c, *_) in found.items():
                u, v = torch.linalg.eigh(r)[1], torch.linalg.eigh(c)[1]
                bases[path] = torch.kron(u, v)
                now = (bases[path].T @ new[path][2] @ bases[path]).diagonal()
                squares[path] = now if step == 0 else mix(squares[path], now)
        grads = torch.func.grad(problem.objective)(params, batch)
        moved = {}
        for path, (r, c, _, b) in found.items():
            grad = grads[f"{path}.weight"].flatten()
            m, n = len(r), len(c)
            pi = math.sqrt(float(c.trace() / n) / float(r.trace() / m))
            left = r + math.sqrt(damping) / pi * torch.eye(m, dtype=F64)
            right = c + pi * math.sqrt(damping) * torch.eye(n, dtype=F64)
            if corrected:
                turned = bases[path].T @ grad / (squares[path] + damping)
                moved[f"{path}.weight"] = bases[path] @ turned
            else:
                moved[f"{path}.weight"] = torch.linalg.solve(torch.kron(left.contiguous(), right.contiguous()), grad)
            moved[f"{path}.bias"] = grads[f"{path}.bias"] / (b.diagonal() + damping)
        product = sum(float(moved[name] @ grads[name].flatten()) for name in params)
        nu = min(1.0, math.sqrt(kl_clip / (lr**2 * product))) if kl_clip else 1.0
        for name in params:
            buffers[name] = momentum * buffers[name] + nu * moved[name].reshape(params[name].shape)
            params[name] = params[name] - lr * (buffers[name] + decay * params[name])
    return params


@pytest.mark.parametrize("name", ["kfac", "ekfac"])
@pytest.mark.parametrize("kl_clip", [0.0, 1e-2])
@pytest.mark.parametrize("small", [256, 3], ids=["whole", "in_halves"])
def test_20_steps_are_those_of_dense_matrices(name, kl_clip, small, monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", small)
    problem = nets.make_problem()
    words = {"lr": 0.1, "damping": 0.05, "beta": 0.8, "momentum": 0.5, "kl_clip": kl_clip}
    optimizer = getattr(optimizers, name)(**words, weight_decay=0.1, update_every=3, fisher="exact")
    step, carry = make_step(problem, optimizer), start(problem, optimizer)
    for index in range(20):
        carry, _ = step(carry, problem.fake_batch(nets.BATCH, seed=index, dtype=F64))
    expected = by_hand(problem, name == "ekfac", **words, decay=0.1, every=3, steps=20)
    for leaf, right in zip(carry.params.values(), expected.values(), strict=True):
        torch.testing.assert_close(leaf, right, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("layer", [0, 1])
def test_the_factors_of_a_linear_net_are_its_fisher_matrix(layer):
    """Square loss of a net of two linear layers: the gradients by outputs do not depend on the example."""
    problem = nets.make_problem(
        nn.Sequential(nn.Flatten(), nn.Linear(32, 4, bias=False), nn.Linear(4, 3, bias=False)), "linear", square
    )
    params, _ = problem.init(0, dtype=F64)
    batch = problem.fake_batch(5, dtype=F64)
    batch = batch._replace(y=torch.zeros(5, 3, dtype=F64))
    found = layer_gradients(problem, params, batch, kind="exact")
    factors = factors_of(found, zero_factors(params, 100))
    name = list(params)[layer]
    kronecker = torch.kron(factors[f"{name}/rows"], factors[f"{name}/columns"])
    jacobian = torch.autograd.functional.jacobian(
        lambda leaf: problem.outputs(params | {name: leaf}, batch), params[name]
    ).flatten(2)
    scale = torch.autograd.functional.hessian(
        lambda outputs: problem.criterion(outputs, batch).sum(), problem.outputs(params, batch)
    )[0, :, 0, :]
    fisher = torch.einsum("bip,ij,bjq->pq", jacobian, scale, jacobian) / 5
    torch.testing.assert_close(kronecker, fisher, rtol=1e-8, atol=1e-10)


@pytest.mark.large
@pytest.mark.parametrize("name", ["kfac", "ekfac"])
@pytest.mark.parametrize("make", [nets.make_problem, lambda: problems.get("digits_mlp")], ids=["own", "digits_mlp"])
def test_a_compiled_step_is_the_eager_one(name, make):
    """K-FAC's multiplies the factors of the gradient where that is less, the dense layers'."""
    problem = make()
    optimizer = getattr(optimizers, name)(0.1, update_every=2)
    eager = make_step(problem, optimizer)
    compiled = torch.compile(eager, backend="aot_eager", fullgraph=True)
    found = {eager: start(problem, optimizer), compiled: start(problem, optimizer)}
    for index in range(4):
        batch = problem.fake_batch(2, seed=index, dtype=F64)
        results = {step: step(carry, batch) for step, carry in found.items()}
        torch.testing.assert_close(results[compiled][1], results[eager][1], rtol=1e-12, atol=1e-13)
        found = {step: carry for step, (carry, _) in results.items()}
    torch.testing.assert_close(found[compiled].params, found[eager].params, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["kfac", "ekfac"])
def test_a_population_of_three_is_its_members(name):
    problem = nets.make_problem()
    step = make_step(problem, getattr(optimizers, name)(0.1, update_every=2))
    members = [
        start(problem, getattr(optimizers, name)(lr, update_every=2), seed) for seed, lr in enumerate((0.1, 0.2, 0.05))
    ]
    stacked = pytree.tree_map(lambda *leaves: torch.stack(leaves), *members)
    for index in range(4):
        batch = problem.fake_batch(nets.BATCH, seed=index, dtype=F64)
        stacked = torch.vmap(step, in_dims=(0, None))(stacked, batch)[0]
        members = [step(carry, batch)[0] for carry in members]
    for index, carry in enumerate(members):
        for key, leaf in carry.params.items():
            torch.testing.assert_close(stacked.params[key][index], leaf, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["exact", "monte-carlo", "empirical"])
def test_the_layers_gradients_are_those_of_the_outputs_times_vectors(kind):
    problem = nets.make_problem()
    params, _ = problem.init(0, dtype=F64)
    batch = problem.fake_batch(nets.BATCH, dtype=F64)
    key = random.key(5)
    found = layer_gradients(problem, params, batch, kind=kind, key=key)
    outputs = problem.outputs(params, batch)
    if kind == "monte-carlo":
        vectors = problem.measure.sample(outputs, batch, random.fold_in(key, random.PROBE))
    else:
        vectors = torch.func.grad(lambda o: problem.criterion(o, batch).sum())(outputs)
    for name, grads in found.grads.items():
        whole = grads.reshape(len(grads), -1) if isinstance(grads, torch.Tensor) else grads.product().flatten(1)
        rows = torch.autograd.functional.jacobian(
            lambda leaf, n=name: problem.outputs(params | {n: leaf}, batch), params[name]
        )
        rows = rows.flatten(2)
        if kind == "exact":
            hessians = torch.stack([nets.criterion_hessian(row) for row in outputs])
            expected = torch.einsum("bip,bij,bjq->pq", rows, hessians, rows)
            torch.testing.assert_close(whole.mT @ whole, expected, rtol=1e-9, atol=1e-10)
        else:
            torch.testing.assert_close(whole, torch.einsum("bip,bi->bp", rows, vectors), rtol=1e-9, atol=1e-10)
    assert found.examples == nets.BATCH


def test_a_part_of_the_batch_has_the_curvature():
    problem = nets.make_problem()
    optimizer = optimizers.kfac(0.1, fisher="exact", curvature_batch=2)
    carry, batch = start(problem, optimizer), problem.fake_batch(nets.BATCH, dtype=F64)
    after, _ = make_step(problem, optimizer)(carry, batch)
    r, c = nets.explicit(carry.params, batch.x[:2])["3"][:2]
    factors = after.opt_state.slots[0].factors
    torch.testing.assert_close(factors["3.weight/rows"], r)
    torch.testing.assert_close(factors["3.weight/columns"], c)
    too_many = optimizers.kfac(0.1, curvature_batch=7)
    carry = start(problem, too_many)
    with pytest.raises(ConfigError, match="curvature_batch=7 is more than the batch has, 6 examples"):
        make_step(problem, too_many)(carry, batch)


def test_a_long_side_has_a_diagonal_factor():
    problem = nets.make_problem()
    whole, short = (optimizers.kfac(0.1, fisher="exact", max_dim=size) for size in (100, 8))
    batch, carries = problem.fake_batch(nets.BATCH, dtype=F64), []
    for optimizer in (whole, short):
        carries.append(make_step(problem, optimizer)(start(problem, optimizer), batch)[0])
    full, diagonal = (carry.opt_state.slots[0].factors["3.weight/columns"] for carry in carries)
    torch.testing.assert_close(diagonal, full.diagonal())
    assert all(leaf.isfinite().all() for leaf in carries[1].params.values())


class Strange(nn.Module):
    """A layer that is not known."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(12))

    def forward(self, x):
        return x * self.gain


def test_what_is_refused_says_why():
    refused = [
        (optimizers.kfac(0.1), problems.get("two_d_branin"), "kfac needs a GGN, and two_d_branin has none"),
        (optimizers.ekfac(0.1), problems.get("svhn_wrn164"), "couples the examples of a batch through batch norm"),
        (optimizers.kfac(0.1, bn="coupled"), problems.get("svhn_wrn164"), "has no gradients by layers"),
    ]
    strange = nets.make_problem(
        nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.Flatten(), Strange(), nn.Linear(12, nets.CLASSES)), "strange"
    )
    refused.append((optimizers.kfac(0.1), strange, "kfac has no factors for 2.gain of strange"))
    for optimizer, problem, words in refused:
        with pytest.raises(ConfigError, match=words):
            optimizer.check(problem)
    for name in ("mnist_mlp", "fmnist_2c2d", "tolstoi_char_rnn", "mnist_vae"):
        optimizers.kfac(0.1).check(problems.get(name))
    optimizers.kfac(0.1, bn="frozen").check(problems.get("svhn_wrn164"))


def test_exact_factors_of_many_outputs_are_refused_before_a_step():
    words = (
        "kfac: fisher='exact' takes a backward pass for each output of an example, at most 128, and mnist_vae has 800"
    )
    with pytest.raises(ConfigError, match=words):
        optimizers.kfac(0.1, fisher="exact").check(problems.get("mnist_vae"))
    for name in ("mnist_mlp", "cifar100_3c3d"):
        optimizers.ekfac(0.1, fisher="exact").check(problems.get(name))
    optimizers.kfac(0.1).check(problems.get("mnist_vae"))


def test_the_inverse_of_an_indefinite_matrix_is_not_a_number():
    """And does not end a population, of whose other members it is the inverse."""
    good, bad = torch.diag(torch.tensor([1.0, 3.0], dtype=F64)), torch.tensor([[1.0, 2.0], [2.0, 1.0]], dtype=F64)
    zero = torch.zeros(2, 2, dtype=F64)
    assert _inverse(bad).isnan().all()
    assert _inverse(zero).isnan().all()
    found = torch.vmap(_inverse)(torch.stack([good, bad, zero]))
    torch.testing.assert_close(found[0], torch.diag(torch.tensor([1.0, 1 / 3], dtype=F64)))
    assert found[1:].isnan().all()


@pytest.mark.parametrize(("fisher", "passes"), [("exact", (1 + 2 * nets.CLASSES) / 3), ("empirical", 1.0)])
@pytest.mark.parametrize("size", [None, 2])
def test_factors_cost_what_their_passes_cost(fisher, passes, size):
    """In gradients: a third for the forward pass, two thirds for each backward pass, of a part of the batch."""
    problem = nets.make_problem()
    optimizer = optimizers.kfac(0.1, fisher=fisher, curvature_batch=size, update_every=2)
    carry, step = start(problem, optimizer), make_step(problem, optimizer)
    told = counting_at(optimizer, problem, nets.BATCH)
    for index in range(5):
        carry, _ = step(carry, problem.fake_batch(nets.BATCH, seed=index, dtype=F64))
    share = 1.0 if size is None else size / nets.BATCH
    assert calls_so_far(told, carry.opt_state)["gradients"] == 5 + math.ceil(3 * passes * share - 1e-9)
    assert calls_so_far(optimizer, carry.opt_state)["gradients"] == 8


def test_parameters_without_factors_follow_the_gradient_if_told_so():
    problem = nets.make_problem(
        nn.Sequential(nn.Conv2d(2, 3, 2, stride=2), nn.Flatten(), Strange(), nn.Linear(12, nets.CLASSES)), "strange"
    )
    for name in ("kfac", "ekfac"):
        optimizer = getattr(optimizers, name)(0.1, others="gradient", kl_clip=0.0, momentum=0.0)
        optimizer.check(problem)
        carry, batch = start(problem, optimizer), problem.fake_batch(nets.BATCH, dtype=F64)
        after, _ = make_step(problem, optimizer)(carry, batch)
        grads = torch.func.grad(problem.objective)(carry.params, batch)
        torch.testing.assert_close(after.params["2.gain"], carry.params["2.gain"] - 0.1 * grads["2.gain"])
        assert (after.params["3.weight"] - carry.params["3.weight"] + 0.1 * grads["3.weight"]).abs().max() > 1e-3


def test_a_run_that_diverges_goes_on():
    problem = nets.make_problem()
    for name in ("kfac", "ekfac", "shampoo", "soap"):
        optimizer = getattr(optimizers, name)(0.1, update_every=1)
        carry = start(problem, optimizer)
        carry = carry._replace(params={key: torch.full_like(leaf, math.nan) for key, leaf in carry.params.items()})
        for index in range(2):
            carry, metrics = make_step(problem, optimizer)(carry, problem.fake_batch(4, seed=index, dtype=F64))
        assert math.isnan(float(metrics.loss))
