"""A small nonlinear least-squares problem in float64, and the loops that run an optimizer, ours or torch's, on it."""

import torch
from torch.func import grad, jvp, vjp, vmap

from deepobs_func import random
from deepobs_func.base import Outer
from deepobs_func.probes import LinearMap
from deepobs_func.probes.outer_products import LayerGradients
from deepobs_func.probes.per_example import Statistics


def _data():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)
    params = {"layer.weight": draw(3, 4), "layer.bias": draw(4), "scale": draw()}
    return params, draw(16, 3), draw(16, 4)


_PARAMS, _X, _Y = _data()


def params():
    """The starting point: several tensors, one of them 0-d."""
    return {name: tensor.clone() for name, tensor in _PARAMS.items()}


def residual(params, x, y):
    """`scale tanh(x W + b) - y`."""
    x, y = x.to(params["scale"].dtype), y.to(params["scale"].dtype)
    return params["scale"] * torch.tanh(x @ params["layer.weight"] + params["layer.bias"]) - y


def objective(params):
    """`|scale tanh(x W + b) - y|^2 / 32`; not convex, and no gradient of it vanishes."""
    return residual(params, _X, _Y).square().sum() / 32


class Oracle:
    """The toy objective as an optimizer asks it."""

    def __init__(self, params):
        self._params = params

    def value(self):
        return objective(self._params)

    def grad(self):
        return grad(objective)(self._params)

    def at(self, params):
        return Oracle(params)

    def loss_at(self, params):
        return objective(params)

    def hvp(self, v):
        return jvp(grad(objective), (self._params,), (v,))[1]

    def make_ggnvp(self):
        def product(v):
            outputs = lambda params: residual(params, _X, _Y)
            _, pull = vjp(outputs, self._params)
            return pull(jvp(outputs, (self._params,), (v,))[1] / 16)[0]

        return LinearMap(product, self._params)

    def statistics(self, wanted, *, bn=None):
        assert (list(wanted), bn) == (["gram"], None)
        loss = lambda params, x, y: residual(params, x, y).square().sum() / 2
        rows = vmap(grad(loss), (None, 0, 0))(self._params, _X, _Y)
        flat = torch.cat([leaf.flatten(1) if leaf.ndim > 1 else leaf.unsqueeze(1) for leaf in rows.values()], dim=1)
        return Statistics(residual(self._params, _X, _Y).square().sum(1) / 2, gram=flat @ flat.mT)

    def layer_gradients(self, kind, *, key=None, bn=None):
        """By random vectors at the residual, one for each example."""
        assert (kind, bn) == ("monte-carlo", None)
        weight, bias, scale = self._params.values()
        hidden = torch.tanh(_X.to(weight.dtype) @ weight + bias)
        s = random.normal(key, hidden.shape, dtype=hidden.dtype)
        g = scale * s * (1 - hidden.square())
        rows = Outer(_X.to(weight.dtype).unsqueeze(2), g.unsqueeze(2))
        return LayerGradients({"layer.weight": rows, "layer.bias": g, "scale": (s * hidden).sum(1)}, len(hidden))

    def gradient_factors(self):
        return None

    def layerless(self):
        return []

    def taps_in_branches(self):
        return True

    def part(self, size):
        assert size is None
        return self


def run(optimizer, steps=50, key=None):
    """The parameters after some steps of one of our optimizers."""
    here = params()
    state = optimizer.init(here, random.key(0) if key is None else key)
    for _ in range(steps):
        here, state = optimizer.update(Oracle(here), state, here)
    return here


def run_torch(make, steps=50, edit_grads=lambda leaves: None, make_scheduler=None):
    """The parameters after some steps of `make(leaves)`, a torch optimizer, in the loop that everybody writes."""
    leaves = {name: tensor.requires_grad_() for name, tensor in params().items()}
    made = make(list(leaves.values()))
    optimizer, scheduler = made if isinstance(made, tuple) else (made, None)
    scheduler = make_scheduler(optimizer) if make_scheduler else scheduler

    def closure():
        optimizer.zero_grad()
        loss = objective(leaves)
        loss.backward()
        return loss

    for _ in range(steps):
        closure()
        edit_grads(list(leaves.values()))
        # only classes that need one get a closure: it would compute the gradients anew, unedited
        optimizer.step(closure) if isinstance(optimizer, torch.optim.LBFGS) else optimizer.step()
        if scheduler:
            scheduler.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


def assert_close(actual, expected, rtol=1e-10):
    """The whole vectors agree in norm, relative to how far the expected one has moved from the start."""
    assert list(actual) == list(expected)
    start = params()
    error = sum((actual[name] - expected[name]).square().sum() for name in expected).sqrt()
    moved = sum((expected[name] - start[name]).square().sum() for name in expected).sqrt()
    assert moved > 1e-3, "an optimizer that stands still would pass"
    assert error < rtol * moved
