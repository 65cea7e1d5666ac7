"""The line search beside one that is written down in plain Python, in eager code, compiled, and in a population."""

import pytest
import torch

from deepobs_func import optimizers, random, tree
from deepobs_func.optimizers.conditional import repeat_while
from deepobs_func.optimizers.transforms import Transform, no_slots
from tests.optimizers import toy


def searched(lr, armijo, shrink, grow, most, steps):
    """Armijo's rule in plain Python; the parameters, and the evaluations of each step."""
    params, factor, counts = {name: leaf.requires_grad_() for name, leaf in toy.params().items()}, 1.0, []
    for _ in range(steps):
        value = toy.objective(params)
        grads = torch.autograd.grad(value, list(params.values()))
        value = float(value.detach())
        factor, tries, start = min(1.0, grow * factor), 0, [leaf.detach() for leaf in params.values()]
        slope = float(sum((grad * grad).sum() for grad in grads))
        while True:
            tried = [leaf - lr * factor * grad for leaf, grad in zip(start, grads, strict=True)]
            tries += 1
            reached = float(toy.objective(dict(zip(params, [leaf.detach() for leaf in tried], strict=True))))
            if reached <= value - armijo * lr * factor * slope:
                break
            if tries > most:
                tried = start
                break
            factor *= shrink
        counts.append(tries)
        params = {name: leaf.requires_grad_() for name, leaf in zip(params, tried, strict=True)}
    return {name: leaf.detach() for name, leaf in params.items()}, counts


CASES = [(3.0, 0.1, 0.7, 1.5, 10), (100.0, 0.5, 0.5, 2.0, 20), (1e4, 0.3, 0.5, 1.0, 2)]


@pytest.mark.parametrize("case", CASES)
def test_the_search_is_armijos(case):
    lr, armijo, shrink, grow, most = case
    optimizer, params = optimizers.sgd_line_search(lr, armijo, shrink, grow, most), toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(20):
        params, state = optimizer.update(toy.Oracle(params), state, params)
    expected, counts = searched(lr, armijo, shrink, grow, most, 20)
    if lr < 1e4:
        toy.assert_close(params, expected)
        assert max(counts) > 1, "a search that never backtracks would pass"
    else:  # the first steps find nothing; the next search goes on from there
        assert max(counts) == most + 1
        torch.testing.assert_close(params, expected, rtol=1e-12, atol=0)
    assert int(optimizer.calls(state)["evaluations"]) == sum(counts)


@pytest.mark.parametrize("name", ["sgd_line_search", "lbfgs"])
def test_the_step_size_that_is_reported_has_the_schedule(name):
    make = getattr(optimizers, name)
    halved, alone = make(2.0, schedule=optimizers.steps((0, 3), (0.5, 0.125))), make(2.0)
    params = toy.params()
    state = halved.init(params, random.key(0))
    for step in range(5):
        before = params
        params, state = halved.update(toy.Oracle(params), state, params)
        size = float(halved.report(state)["step_size"])
        assert size == (1.0, 0.25)[step >= 3] * float(state.slots[-1].factor)
        if name == "sgd_line_search":
            moved = tree.add_scaled(before, -1, torch.tensor(size), toy.Oracle(before).grad())
            torch.testing.assert_close(params, moved)
    assert set(alone.report(alone.init(params, random.key(0)))) == {"step_size"}


def test_a_direction_that_ascends_does_not_make_the_loss_rise():
    """The gradient of a concave function turned round, along which it rises by less than armijo times the slope."""

    class Concave:
        def __init__(self, params):
            self.params = params

        def loss_at(self, params):
            return -params["w"].square().sum() / 2

        def value(self):
            return self.loss_at(self.params)

        def grad(self):
            return {"w": -self.params["w"]}

    turned = Transform({}, no_slots, lambda d, slots, params, hyper, step: (tree.scale(-1.0, d), slots))
    params = {"w": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    for most in (0, 3):
        optimizer = optimizers.sgd(0.5, after=[turned, optimizers.backtracking(1.0, max_backtracks=most)])
        after, _ = optimizer.update(Concave(params), optimizer.init(params, random.key(0)), params)
        torch.testing.assert_close(after, params, rtol=0, atol=0)


def test_a_search_follows_any_direction():
    """Adam's, whose step is too long at this rate without it."""
    alone = optimizers.adam(3.0)
    with_search = optimizers.adam(3.0, after=[optimizers.backtracking()])
    values = {name: float(toy.objective(toy.run(each, steps=30))) for name, each in (("a", alone), ("b", with_search))}
    assert values["b"] < 0.7 * values["a"]


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.large)])
def test_repetition_is_the_same_in_every_kind_of_code(backend):
    due, change = lambda value, count: value > 1.0, lambda value, count: (value / 2, count + 1)
    loop = lambda value: repeat_while(due, change, (value, torch.zeros_like(value)), 5)
    compiled = torch.compile(loop, backend=backend, fullgraph=True)
    numbers = torch.tensor([0.5, 3.0, 8.0, 1000.0])
    together = torch.vmap(loop)(numbers)
    for index, number in enumerate(numbers):
        expected = loop(number)
        assert [float(part[index]) for part in together] == [float(part) for part in expected]
        assert [float(part) for part in compiled(number)] == [float(part) for part in expected]
    assert [float(loop(number)[1]) for number in numbers] == [0, 2, 3, 5]


def test_lbfgs_descends_on_batches_that_change():
    """With a search, on batches of 8 of 64 examples of a least-squares problem; Newton's step of each is far off."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 5, generator=draw, dtype=torch.float64)
    y = x @ torch.arange(1.0, 6.0, dtype=torch.float64) + 0.01 * torch.randn(64, generator=draw, dtype=torch.float64)

    class Batch:
        def __init__(self, params, rows):
            self.params, self.rows = params, rows

        def loss_at(self, params):
            return (x[self.rows] @ params["w"] - y[self.rows]).square().mean()

        def value(self):
            return self.loss_at(self.params)

        def grad(self):
            return torch.func.grad(self.loss_at)(self.params)

        def at(self, params):
            return Batch(params, self.rows)

    optimizer, params = optimizers.lbfgs(1.0, damping=0.1), {"w": torch.zeros(5, dtype=torch.float64)}
    state = optimizer.init(params, random.key(0))
    whole = Batch(params, slice(None))
    first = float(whole.value())
    for step in range(30):
        rows = torch.randperm(64, generator=torch.Generator().manual_seed(step))[:8]
        params, state = optimizer.update(Batch(params, rows), state, params)
    assert float(whole.loss_at(params)) < 1e-2 * first
    assert tree.size(params) == 5
