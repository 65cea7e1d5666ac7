"""Shampoo and SOAP beside `pytorch_optimizer`, and beside NumPy where that has another order of things."""

import functools

import numpy as np
import pytest
import pytorch_optimizer
import torch

from deepobs_func import optimizers, random
from deepobs_func.optimizers.axes import rotated
from tests.optimizers import toy

STEPS = 20
SHAPES = {"kernel": (4, 3, 2, 2), "matrix": (3, 3), "bias": (4,), "scale": ()}


class Given:
    """An oracle whose gradients are a function of the step."""

    def __init__(self, step):
        self.step = step

    def arrays(self):
        draw = np.random.RandomState(self.step)
        return {name: np.asarray(draw.normal(size=shape)) for name, shape in SHAPES.items()}

    def grad(self):
        return {name: torch.from_numpy(array) for name, array in self.arrays().items()}


def stepped(optimizer, steps=STEPS):
    draw = np.random.RandomState(100)
    first = {name: np.asarray(draw.normal(size=shape)) for name, shape in SHAPES.items()}
    params = {name: torch.from_numpy(array.copy()) for name, array in first.items()}
    state = optimizer.init(params, random.key(0))
    for step in range(steps):
        params, state = optimizer.update(Given(step), state, params)
    return first, {name: leaf.numpy() for name, leaf in params.items()}


def along(array, matrix, axis):
    """`sum_i array_..i.. matrix_ij`, index by index of the axis."""
    return np.apply_along_axis(lambda vector: vector @ matrix, axis, array)


def gram(array, axis):
    rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
    return rows @ rows.T


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_shampoo_is_that_of_pytorch_optimizer_on_vectors_and_matrices(weight_decay):
    """Theirs has no decay that is decoupled from the root: the parameters are shrunk before the step."""
    theirs = lambda leaves: pytorch_optimizer.Shampoo(
        leaves, lr=0.3, matrix_eps=1e-3, weight_decay=weight_decay, weight_decouple=True
    )
    ours = optimizers.shampoo(0.3, epsilon=1e-3, weight_decay=weight_decay, update_every=1)
    toy.assert_close(toy.run(ours, steps=STEPS), toy.run_torch(theirs, steps=STEPS), rtol=1e-8)


@pytest.mark.parametrize(
    "hyper",
    [
        {"momentum": 0.0, "gram_beta": 1.0, "update_every": 3, "max_dim": 100},
        {"momentum": 0.6, "gram_beta": 0.8, "update_every": 4, "max_dim": 3},
    ],
)
def test_shampoo_is_its_formula(hyper):
    lr, epsilon = 0.1, 1e-3
    expected, params = stepped(optimizers.shampoo(lr, epsilon=epsilon, **hyper))
    axes = {name: [k for k, size in enumerate(s) if size <= hyper["max_dim"]] for name, s in SHAPES.items()}
    sums = {(name, k): np.zeros((SHAPES[name][k],) * 2) for name in SHAPES for k in axes[name]}
    buffers, roots = {name: np.zeros(shape) for name, shape in SHAPES.items()}, {}
    for step in range(STEPS):
        for name, grad in Given(step).arrays().items():
            direction = grad
            for k in axes[name]:
                beta = hyper["gram_beta"]
                sums[name, k] = beta * sums[name, k] + (1 - beta if beta < 1 else 1) * gram(grad, k)
                if step % hyper["update_every"] == 0:
                    u, s, vt = np.linalg.svd(sums[name, k] + epsilon * np.eye(grad.shape[k]))
                    roots[name, k] = u @ np.diag(s ** (-1 / (2 * len(axes[name])))) @ vt
                direction = along(direction, roots[name, k], k)
            buffers[name] = hyper["momentum"] * buffers[name] + direction
            expected[name] = expected[name] - lr * buffers[name]
    for name in SHAPES:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("weight_decay", [0.0, 0.2])
def test_soap_is_that_of_pytorch_optimizer_until_it_takes_a_decomposition_in_float32(weight_decay):
    """Whose first step leaves the parameters as they are, weight decay included."""
    theirs = lambda leaves: pytorch_optimizer.SOAP(
        leaves, lr=0.05, betas=(0.9, 0.8), shampoo_beta=0.7, weight_decay=weight_decay, precondition_frequency=STEPS
    )
    ours = optimizers.soap(0.05, 0.9, 0.8, gram_beta=0.7, weight_decay=weight_decay, update_every=STEPS)
    assert all(torch.equal(leaf, toy.params()[name]) for name, leaf in toy.run(ours, steps=1).items())
    toy.assert_close(toy.run(ours, steps=STEPS), toy.run_torch(theirs, steps=STEPS), rtol=1e-8)


def test_soap_is_that_of_pytorch_optimizer_with_decompositions(monkeypatch):
    """Which are computed in float64 here, of the same products."""
    cast = torch.Tensor.to
    exact = lambda leaf, *args, **kw: leaf if args == (torch.float32,) and not kw else cast(leaf, *args, **kw)
    theirs = lambda leaves: pytorch_optimizer.SOAP(
        leaves, lr=0.05, betas=(0.9, 0.8), shampoo_beta=0.7, weight_decay=0.0, precondition_frequency=3
    )
    ours = toy.run(optimizers.soap(0.05, 0.9, 0.8, gram_beta=0.7, weight_decay=0.0, update_every=3), steps=STEPS)
    monkeypatch.setattr(torch.Tensor, "to", exact)
    found = toy.run_torch(theirs, steps=STEPS)
    monkeypatch.undo()
    toy.assert_close(ours, found, rtol=1e-8)


@pytest.mark.parametrize("max_dim", [100, 3])
def test_soap_is_its_formula(max_dim):
    """With kernels of four axes, and axes that are too long for a basis."""
    lr, beta1, beta2, gram_beta, epsilon, decay, every = 0.05, 0.9, 0.8, 0.7, 1e-3, 0.1, 3
    hyper = {"gram_beta": gram_beta, "epsilon": epsilon, "weight_decay": decay, "update_every": every}
    expected, params = stepped(optimizers.soap(lr, beta1, beta2, max_dim=max_dim, **hyper))
    axes = {n: [k for k, size in enumerate(s) if size <= max_dim] if len(s) > 1 else [] for n, s in SHAPES.items()}
    turn = lambda name, array, back: functools.reduce(
        lambda a, k: along(a, bases[name, k].T if back else bases[name, k], k), axes[name], array
    )
    sums, bases = {}, {}
    m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for t in range(1, STEPS + 1):
        for name, grad in Given(t - 1).arrays().items():
            if t > 1:
                m[name] = beta1 * m[name] + (1 - beta1) * grad
                v[name] = beta2 * v[name] + (1 - beta2) * turn(name, grad, back=False) ** 2
                c = np.sqrt(1 - beta2 ** (t - 1)) / (1 - beta1 ** (t - 1))
                direction = turn(name, c * turn(name, m[name], back=False) / (np.sqrt(v[name]) + epsilon), back=True)
                expected[name] = (1 - lr * decay) * (expected[name] - lr * direction)
            for k in axes[name]:
                sums[name, k] = gram_beta * sums.get((name, k), 0.0) + (1 - gram_beta) * gram(grad, k)
                if t == 1:
                    bases[name, k] = np.linalg.eigh(sums[name, k])[1][:, ::-1]
                elif (t - 1) % every == 0:
                    product = sums[name, k] @ bases[name, k]
                    order = np.argsort(-(bases[name, k] * product).sum(0), kind="stable")
                    bases[name, k] = np.linalg.qr(product[:, order])[0]
                    v[name] = np.take(v[name], order, axis=k)
    for name in SHAPES:
        np.testing.assert_allclose(params[name], expected[name], rtol=1e-8, atol=1e-8)


def test_rotating_there_and_back_changes_nothing():
    draw = torch.Generator().manual_seed(0)
    leaf = torch.randn(4, 3, 5, generator=draw, dtype=torch.float64)
    bases = {
        f"a/{k}": torch.linalg.qr(torch.randn(n, n, generator=draw, dtype=torch.float64))[0]
        for k, n in ((0, 4), (2, 5))
    }
    turned = rotated({"a": leaf}, bases)
    torch.testing.assert_close(turned["a"], torch.einsum("abc,ai,ck->ibk", leaf, bases["a/0"], bases["a/2"]))
    torch.testing.assert_close(rotated(turned, bases, back=True)["a"], leaf)
