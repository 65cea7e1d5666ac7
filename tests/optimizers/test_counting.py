"""How often the oracle is called: what optimizers declare, against an oracle that counts for itself."""

import itertools
import pkgutil

import pytest
import torch

from deepobs_func import optimizers, random, tree
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.counting import (
    KINDS,
    Count,
    Counted,
    CountingOracle,
    calls_so_far,
    counted,
    counting_at,
)
from deepobs_func.optimizers.torch_optim import from_class, from_factory
from deepobs_func.optimizers.transforms import Transform, compose, no_slots
from deepobs_func.probes import LinearMap
from tests.optimizers import classes, toy
from tests.optimizers.test_common import lr_of

STEPS = 8
OPTIONS = {"sophia_h": {"update_every": 3}, "newton_cg": {"cg_tol": 0.3, "cg_steps": 6, "damping": 0.1}}


class Counting(toy.Oracle):
    """The toy's oracle, which notes each computation."""

    def __init__(self, params, seen):
        super().__init__(params)
        self.seen, self.is_new = seen, True

    def differentiate(self):
        if self.is_new:
            self.seen.append("gradients")
        self.is_new = False

    def value(self):
        self.differentiate()
        return super().value()

    def grad(self):
        self.differentiate()
        return super().grad()

    def at(self, params):
        return Counting(params, self.seen)

    def loss_at(self, params):
        self.seen.append("evaluations")
        return super().loss_at(params)

    def hvp(self, v):
        self.seen.append("products")
        return super().hvp(v)

    def make_ggnvp(self):
        ggn = super().make_ggnvp()

        def product(v):
            self.seen.append("products")
            return ggn.product(v)

        return LinearMap(product, ggn.like)

    def statistics(self, wanted, *, bn=None):
        self.seen.append("gradients")
        return super().statistics(wanted, bn=bn)

    def layer_gradients(self, kind, *, key=None, bn=None):
        self.seen.append("gradients")
        return super().layer_gradients(kind, key=key, bn=bn)


def numbers(seen):
    return {kind: seen.count(kind) for kind in KINDS}


def make(name, **options):
    return pkgutil.resolve_name(optimizers.FUNCTIONAL[name].make)(
        **{"lr": lr_of(name)} | OPTIONS.get(name, {}) | options
    )


def trained(optimizer, steps=STEPS):
    """The last state, and what the oracle was asked after each step."""
    seen, after, params = [], [], toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(steps):
        params, state = optimizer.update(Counting(params, seen), state, params)
        after.append(numbers(seen))
        assert calls_so_far(optimizer, state) == after[-1]
    return state, after


@pytest.mark.parametrize("name", optimizers.names())
def test_a_functional_optimizer_declares_what_it_asks(name):
    """In every step; and the oracle that counts for optimizers which declare nothing agrees."""
    _, after = trained(make(name))
    assert after[-1]["gradients"] >= STEPS
    _, again = trained(counted(make(name)._replace(calls=None)))
    assert after == again


@pytest.mark.parametrize("name", ["adahessian", "sophia_h", "newton_cg"])
def test_a_product_on_a_part_of_the_batch_is_a_part_of_one(name):
    """In a run, which knows the batch; a sum of parts is rounded up."""
    whole, part = make(name), make(name, curvature_batch=8)
    state, after = trained(whole)
    products = after[-1]["products"]
    told = counting_at(part, None, 64)
    assert calls_so_far(told, state) == after[-1] | {"products": -(-products // 8)}
    assert calls_so_far(counting_at(part, None, 8), state) == after[-1]
    assert counting_at(whole, None, 64) is whole


def test_sophia_s_products_come_when_they_are_due():
    _, after = trained(make("sophia_h"))
    assert [numbers["products"] for numbers in after] == [1, 1, 1, 2, 2, 2, 3, 3]


def test_newton_s_products_follow_its_conjugate_gradients():
    _, after = trained(make("newton_cg"))
    products = [numbers["products"] for numbers in after]
    steps = {last - before for before, last in itertools.pairwise(products)}
    assert len(steps) > 1, "the number of steps varies"
    assert all(3 <= number <= 8 for number in steps)


@pytest.mark.large
@pytest.mark.parametrize("name", ["sophia_h", "newton_cg"])
def test_compiled_code_counts_what_it_computes(name):
    """A graph holds all steps of conjugate gradients, and runs only one branch of a condition."""
    optimizer, seen = make(name, **({"cg_steps": 2} if name == "newton_cg" else {})), []
    step = torch.compile(
        lambda params, state: optimizer.update(toy.Oracle(params), state, params), backend="eager", fullgraph=True
    )
    params = toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(4):
        params, state = step(params, state)
        seen.append(calls_so_far(optimizer, state))
    expected = {"sophia_h": [1, 1, 1, 2], "newton_cg": [4, 8, 12, 16]}[name]
    assert [numbers["products"] for numbers in seen] == expected
    assert [numbers["gradients"] for numbers in seen] == [1, 2, 3, 4]


def test_transforms_that_do_not_say_what_they_ask_are_counted():
    """A user's own, which asks for a product."""
    observe = lambda view, slots: view.oracle.hvp(view.params) and slots
    own = Transform({}, no_slots, lambda direction, slots, params, hyper, step: (direction, slots), observe)
    optimizer = compose(own, lr=0.1)
    assert optimizer.calls is None
    _, after = trained(counted(optimizer), steps=3)
    assert after[-1] == {"gradients": 3, "products": 3, "evaluations": 0}


def line_search():
    """A functional optimizer as a user writes it: it tries three lengths of a step."""

    def update(oracle, opt_state, params):
        grads = oracle.grad()
        tried = [tree.add_scaled(params, -1, torch.tensor(lr), grads) for lr in (0.1, 0.3, 1.0)]
        values = torch.stack([oracle.loss_at(point) for point in tried])
        best = values.argmin()
        moved = {name: torch.stack([point[name] for point in tried])[best] for name in params}
        return moved, {"steps": opt_state["steps"] + 1}

    return Optimizer(lambda params, key: {"steps": torch.zeros((), dtype=torch.int64)}, update)


def test_an_optimizer_that_declares_nothing_is_counted_in_eager_code_and_goes_on_when_restored():
    optimizer, params = counted(line_search()), toy.params()
    state = optimizer.init(params, random.key(0))
    for steps in (1, 2, 3):
        params, state = optimizer.update(toy.Oracle(params), state, params)
        assert calls_so_far(optimizer, state) == {"gradients": steps, "products": 0, "evaluations": 3 * steps}
        state = optimizer.load(optimizer.save(state), params, random.key(0))
    assert int(state.state["steps"]) == 3
    assert counted(optimizer) is optimizer
    assert counted(line_search()._replace(update=optimizer.update)).update is not optimizer.update


@pytest.mark.large
def test_what_a_compiled_step_calls_is_not_known():
    optimizer, params = counted(line_search()), toy.params()
    state = optimizer.init(params, random.key(0))
    step = torch.compile(lambda params, state: optimizer.update(toy.Oracle(params), state, params), backend="eager")
    moved, state = step(params, state)
    assert calls_so_far(optimizer, state) == {}
    _, state = optimizer.update(toy.Oracle(moved), state, moved)
    assert calls_so_far(optimizer, state) == {}, "nor later"


def test_each_vector_is_a_product():
    count, params = Count(), toy.params()
    oracle = CountingOracle(toy.Oracle(params), params, count)
    several = tree.map(lambda leaf: torch.stack([leaf, leaf, leaf]), params)
    ggn = oracle.make_ggnvp()
    ggn(params), ggn(several), ggn.flat(tree.flatten(params)), ggn.columns(torch.ones(ggn.size, 2).double())
    oracle.hvp(params)
    assert count == Count(products=8)
    oracle.at(params).value(), oracle.at(params).grad(), oracle.value(), oracle.grad()
    assert count == Count(gradients=3, products=8)


@pytest.mark.parametrize(
    ("cls", "hyper", "expected"),
    [
        (torch.optim.SGD, {}, {"gradients": 5, "products": 0, "evaluations": 0}),
        (classes.Extragradient, {}, {"gradients": 10, "products": 0, "evaluations": 0}),
        (classes.NewtonDiagonal, {}, {"gradients": 5, "products": 5, "evaluations": 0}),
    ],
)
def test_a_class_s_calls_are_those_of_its_closure(cls, hyper, expected):
    optimizer, params = from_class(cls, 0.1, hyper), toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(5):
        params, state = optimizer.update(toy.Oracle(params), state, params)
        state = optimizer.load(optimizer.save(state), params, random.key(0))
    assert calls_so_far(optimizer, state) == expected


class CallingFirst(classes.NewtonDiagonal):
    """Calls its closure where the step starts."""

    def step(self, closure):
        torch.enable_grad()(closure)()
        super().step()


def test_a_graph_is_made_once_at_each_point():
    cls = {name: from_class(each, 0.1, {}) for name, each in (("own", CallingFirst), ("twin", classes.NewtonDiagonal))}
    params, states = {name: toy.params() for name in cls}, {}
    for name, optimizer in cls.items():
        states[name] = optimizer.init(params[name], random.key(0))
        for _ in range(3):
            params[name], states[name] = optimizer.update(toy.Oracle(params[name]), states[name], params[name])
    assert states["own"].calls == states["twin"].calls == {"gradients": 3, "products": 3, "evaluations": 0}
    assert all(torch.equal(params["own"][name], leaf) for name, leaf in params["twin"].items())


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_l_bfgs_asks_as_often_as_in_a_plain_loop(search):
    optimizer, asked = from_class(torch.optim.LBFGS, 0.5, {"max_iter": 4, "line_search_fn": search}), []
    state, _ = trained(optimizer, steps=4)

    def plain(leaves):
        made = torch.optim.LBFGS(leaves, lr=0.5, max_iter=4, line_search_fn=search)
        step = made.step

        def counting(closure):
            points = []
            asked.append(points)

            def count():
                points.append(torch.cat([leaf.detach().flatten() for leaf in leaves]))
                return closure()

            return step(count)

        made.step = counting
        return made

    toy.run_torch(plain, steps=4)
    changes = [sum(not torch.equal(*pair) for pair in itertools.pairwise(points)) for points in asked]
    assert sum(changes) > 4
    assert state.calls["gradients"] == 4 + sum(changes)


def test_several_optimizers_share_a_gradient():
    def make(named):
        leaves = [leaf for _, leaf in named]
        return [torch.optim.SGD(leaves[:1], lr=0.1), torch.optim.Adam(leaves[1:], lr=0.1)]

    state, _ = trained(from_factory(make), steps=5)
    assert state.calls == {"gradients": 5, "products": 0, "evaluations": 0}
    assert not isinstance(state, Counted)
