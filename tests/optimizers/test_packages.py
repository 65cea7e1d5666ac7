"""Optimizers beside the packages of others: `pytorch_optimizer`, `schedulefree`, and `torch.optim`, in float64."""

import functools

import numpy as np
import pytest
import pytorch_optimizer
import schedulefree
import torch
from pytorch_optimizer.optimizer.muon import base as muon_base

from deepobs_func import optimizers, random
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.orthogonal import orthogonalized
from tests.optimizers import toy

STEPS = 20


@pytest.fixture(autouse=True)
def _in_double_precision():
    """The packages keep scalars of their states in the default type."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def assert_equal(ours, theirs, steps=STEPS, **options):
    toy.assert_close(toy.run(ours, steps=steps), toy.run_torch(theirs, steps=steps, **options))


@pytest.mark.parametrize("hyper", [{}, {"beta1": 0.5, "beta2": 0.9, "epsilon": 1e-2, "momentum_decay": 0.2}])
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_nadamw_is_that_of_torch(hyper, weight_decay):
    words = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "momentum_decay": 4e-3} | hyper
    beta1, beta2, epsilon, momentum_decay = words.values()
    theirs = lambda leaves: torch.optim.NAdam(
        leaves, 0.05, (beta1, beta2), epsilon, weight_decay, momentum_decay, decoupled_weight_decay=True
    )
    assert_equal(optimizers.nadamw(0.05, **hyper, weight_decay=weight_decay), theirs)


@pytest.mark.parametrize("hyper", [{}, {"beta1": 0.5, "beta2": 0.8, "weight_decay": 0.3}])
def test_lion_is_that_of_pytorch_optimizer(hyper):
    words = {"betas": (hyper.get("beta1", 0.9), hyper.get("beta2", 0.99))}
    words["weight_decay"] = hyper.get("weight_decay", 0.0)
    theirs = lambda leaves: pytorch_optimizer.Lion(leaves, lr=0.02, weight_decouple=True, **words)
    assert_equal(optimizers.lion(0.02, **hyper), theirs)


@pytest.mark.parametrize("hyper", [{}, {"beta1": 0.5, "beta2": 0.9, "weight_decay": 0.3, "d_coef": 0.7, "d0": 1e-3}])
def test_prodigy_is_that_of_pytorch_optimizer(hyper):
    words = {name: hyper[name] for name in ("weight_decay", "d_coef", "d0") if name in hyper}
    words["betas"] = (hyper.get("beta1", 0.9), hyper.get("beta2", 0.999))
    theirs = lambda leaves: pytorch_optimizer.Prodigy(leaves, lr=0.5, **words)
    assert_equal(optimizers.prodigy(0.5, **hyper), theirs, steps=60)


def test_prodigy_reports_its_distance_and_stays_where_the_gradient_is_zero():
    optimizer, params = optimizers.prodigy(1.0, d0=1e-3), toy.params()
    state = optimizer.init(params, random.key(0))
    assert float(optimizer.report(state)["distance"]) == pytest.approx(1e-3)

    class Flat(toy.Oracle):
        def grad(self):
            return {name: torch.zeros_like(leaf) for name, leaf in params.items()}

    after, state = optimizer.update(Flat(params), state, params)
    assert all(torch.equal(after[name], leaf) for name, leaf in params.items())
    assert float(optimizer.report(state)["distance"]) == pytest.approx(1e-3)
    for _ in range(30):
        params, state = optimizer.update(toy.Oracle(params), state, params)
    assert float(optimizer.report(state)["distance"]) > 1e-2


FREE = {
    "schedule_free_sgd": (schedulefree.SGDScheduleFree, lambda h: {"momentum": h["interpolation"]}),
    "schedule_free_adamw": (
        schedulefree.AdamWScheduleFree,
        lambda h: {"betas": (h["interpolation"], h["beta2"]), "eps": h["epsilon"]},
    ),
}


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("others", [{}, {"interpolation": 0.6, "weight_decay": 0.2, "r": 1.5, "lr_power": 1.0}])
@pytest.mark.parametrize("warm_up", [0, 7])
def test_schedule_free_methods_are_those_of_their_authors(name, others, warm_up):
    cls, words = FREE[name]
    hyper = dict(optimizers.FUNCTIONAL[name].defaults) | others
    made = []

    def theirs(leaves):
        common = {"weight_decay": hyper["weight_decay"], "r": hyper["r"], "weight_lr_power": hyper["lr_power"]}
        made.append((cls(leaves, lr=0.1, warmup_steps=warm_up, **common, **words(hyper)), leaves))
        made[0][0].train()
        return made[0][0]

    schedule = optimizers.warm_up(warm_up) if warm_up else None
    optimizer, params = getattr(optimizers, name)(0.1, **others, schedule=schedule), toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(STEPS):
        params, state = optimizer.update(toy.Oracle(params), state, params)
    iterate = toy.run_torch(theirs, steps=STEPS)
    toy.assert_close(params, iterate)
    ((other, leaves),) = made
    other.eval()
    averaged = dict(zip(iterate, [leaf.detach() for leaf in leaves], strict=True))
    toy.assert_close(optimizer.eval_params(state, params), averaged)


def test_an_average_survives_a_learning_rate_of_zero():
    optimizer, params = optimizers.schedule_free_sgd(0.5, schedule=optimizers.cosine(3)), toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(6):
        params, state = optimizer.update(toy.Oracle(params), state, params)
    assert all(leaf.isfinite().all() for leaf in optimizer.eval_params(state, params).values())


def muon_groups(leaves, hyper, matrices):
    """Their groups, the matrices by place."""
    of_matrices = {"params": [leaves[i] for i in matrices], "use_muon": True, "lr": 0.05}
    of_matrices |= {"momentum": hyper["momentum"], "weight_decay": hyper["weight_decay"]}
    rest = {"params": [leaf for i, leaf in enumerate(leaves) if i not in matrices], "use_muon": False}
    rest |= {"lr": 0.05 * hyper["adam_factor"], "betas": (hyper["beta1"], hyper["beta2"]), "eps": hyper["epsilon"]}
    return [of_matrices, rest | {"weight_decay": hyper["weight_decay"]}]


@pytest.mark.parametrize("others", [{}, {"momentum": 0.6, "weight_decay": 0.3, "adam_factor": 0.5, "beta1": 0.5}])
def test_muon_is_that_of_pytorch_optimizer(others, monkeypatch):
    """Which computes in bfloat16 unless told otherwise."""
    exact = functools.partial(muon_base.zero_power_via_newton_schulz_5, dtype=torch.float64)
    monkeypatch.setattr(muon_base, "zero_power_via_newton_schulz_5", exact)
    hyper = dict(optimizers.FUNCTIONAL["muon"].defaults) | others
    assert_equal(
        optimizers.muon(0.05, **others), lambda leaves: pytorch_optimizer.Muon(muon_groups(leaves, hyper, [0]))
    )


def test_muon_flattens_kernels_and_leaves_the_ends_to_adam():
    shapes = {"first": (3, 4), "kernel": (6, 2, 2, 2), "bias": (6,), "last": (2, 6)}
    draw = np.random.RandomState(0)
    params, grads = ({name: torch.from_numpy(draw.normal(size=s)) for name, s in shapes.items()} for _ in range(2))

    class Fixed:
        def grad(self):
            return grads

    for adam_for, is_adam in {"vectors": ["bias"], "ends": ["first", "bias", "last"]}.items():
        optimizer = optimizers.muon(1.0, adam_factor=0.5, adam_for=adam_for)
        after, _ = optimizer.update(Fixed(), optimizer.init(params, random.key(0)), params)
        for name, shape in shapes.items():
            moved = params[name] - after[name]
            if name in is_adam:
                expected = 0.5 * torch.sign(grads[name])
            else:
                rows = shape[0] / np.prod(shape[1:])
                expected = orthogonalized(grads[name].flatten(1)).view(shape) * max(1.0, rows) ** 0.5
            torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (1, 4), (4, 4)])
def test_newton_schulz_moves_singular_values_and_nothing_else(shape):
    matrix = torch.from_numpy(np.random.RandomState(1).normal(size=shape))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = 3.4445, -4.7750, 2.0315
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalized(matrix), u @ torch.diag(s) @ vt, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("memory", [3, 30])
def test_lbfgs_without_a_search_is_that_of_torch(memory):
    """On one batch, where the gradient at the last point is the one of the last step."""
    theirs = lambda leaves: torch.optim.LBFGS(
        leaves, lr=0.3, max_iter=1, history_size=memory, tolerance_grad=0, tolerance_change=0
    )
    assert_equal(optimizers.lbfgs(0.3, memory=memory, max_backtracks=0), theirs)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: optimizers.schedule_free_sgd(0.1, interpolation=0.0),
            r"interpolation is 0.0; it must be at least 0.01 and below 1",
        ),
        (lambda: optimizers.prodigy(1.0, d0=0.0), "d0 is 0.0"),
        (lambda: optimizers.muon(0.1, adam_for="heads"), "adam_for: 'heads'"),
        (lambda: optimizers.muon(0.1, ns_steps=0), "ns_steps is 0; it must be a whole number from 1"),
        (lambda: optimizers.lbfgs(0.1, memory=0), "memory is 0; it must be a whole number from 1"),
        (lambda: optimizers.sgd_line_search(0.1, grow=0.5), "grow is 0.5; it must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
