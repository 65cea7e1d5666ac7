"""Any `torch.optim.Optimizer` class behind our interface does what it does by itself."""

import inspect
import re

import pytest
import torch

from deepobs_func import optimizers, random
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.torch_optim import constructor_defaults, from_class, from_factory, load_class
from tests.optimizers import classes, toy

SAME = [
    (torch.optim.SGD, 0.1, {"momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.AdamW, 0.05, {"amsgrad": True}),
    (torch.optim.LBFGS, 0.5, {"max_iter": 3}),
    (torch.optim.LBFGS, 1.0, {"max_iter": 4, "line_search_fn": "strong_wolfe"}),
    (classes.IgnoresClosure, 0.1, {}),
]
EXTRAGRADIENTS = [
    classes.Extragradient,
    classes.ExtragradientThroughData,
    classes.ExtragradientRebound,
]


@pytest.mark.parametrize(("cls", "lr", "hyper"), SAME)
def test_a_class_behind_the_interface_equals_the_class(cls, lr, hyper):
    ours = toy.run(from_class(cls, lr, hyper), steps=20)
    toy.assert_close(ours, toy.run_torch(lambda leaves: cls(leaves, lr=lr, **hyper), steps=20))


@pytest.mark.parametrize("cls", EXTRAGRADIENTS)
def test_a_closure_evaluates_where_the_class_has_moved_the_parameters(cls):
    expected = toy.params()
    for _ in range(10):
        ahead = {name: expected[name] - 0.3 * grad for name, grad in toy.Oracle(expected).grad().items()}
        expected = {name: expected[name] - 0.3 * grad for name, grad in toy.Oracle(ahead).grad().items()}
    toy.assert_close(toy.run(from_class(cls, 0.3, {}), steps=10), expected)


def test_a_closure_returns_the_objective_at_the_leaves():
    values = []

    class Recording(classes.IgnoresClosure):
        def step(self, closure=None):
            values.append(closure())
            super().step()
            values.append(closure())

    after = toy.run(from_class(Recording, 0.1, {}), steps=1)
    assert [float(value) for value in values] == [float(toy.objective(toy.params())), float(toy.objective(after))]
    assert not any(value.requires_grad for value in values)


def test_the_gradient_at_the_point_of_the_step_is_computed_once():
    calls = []

    class Counting(toy.Oracle):
        def at(self, params):
            calls.append(params)
            return super().at(params)

    optimizer, params = from_class(torch.optim.SGD, 0.1, {}), toy.params()
    optimizer.update(Counting(params), optimizer.init(params, random.key(0)), params)
    assert calls == []


def test_random_numbers_follow_from_the_key():
    optimizer = from_class(classes.Noisy, 0.1, {})
    runs = [toy.run(optimizer, steps=3, key=random.key(seed)) for seed in (1, 1, 2)]
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])
    assert not any(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


def test_the_global_generator_is_neither_read_nor_moved():
    optimizer, runs = from_class(classes.Noisy, 0.1, {}), []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            before = torch.get_rng_state()
            runs.append(toy.run(optimizer, steps=3))
            assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_runs_that_take_turns_do_not_disturb_each_other():
    optimizer = from_class(classes.Noisy, 0.1, {})
    params, states = [toy.params(), toy.params()], [optimizer.init(toy.params(), random.key(n)) for n in range(2)]
    for _ in range(3):
        for n in range(2):
            params[n], states[n] = optimizer.update(toy.Oracle(params[n]), states[n], params[n])
    for n in range(2):
        alone = toy.run(optimizer, steps=3, key=random.key(n))
        assert all(torch.equal(params[n][name], alone[name]) for name in alone)


@pytest.mark.parametrize(("cls", "lr", "hyper"), [*SAME, (classes.Noisy, 0.1, {}), (classes.Keeping, 0.1, {})])
def test_a_restored_state_goes_on_as_the_original(cls, lr, hyper):
    optimizer = from_class(cls, lr, hyper, optimizers.exponential(0.9))
    params, state = toy.params(), optimizer.init(toy.params(), random.key(0))
    params, state = optimizer.update(toy.Oracle(params), state, params)
    tree = optimizer.save(state)
    optimizer.update(toy.Oracle(params), state, params)  # which the snapshot does not see
    restored = optimizer.load(tree, params, random.key(7))
    for _ in range(2):
        params, restored = optimizer.update(toy.Oracle(params), restored, params)
    whole = toy.run(optimizer, steps=3)
    assert all(torch.equal(params[name], whole[name]) for name in whole)


def test_a_state_that_is_no_value_is_refused_with_its_place():
    optimizer, params = from_class(classes.Iterating, 0.1, {}), toy.params()
    with pytest.raises(ConfigError, match=r"Iterating\(lr=0\.1\) cannot be saved: optimizer\.factors is a generator\."):
        optimizer.save(optimizer.init(params, random.key(0)))


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("reversed", r"optimizer\S*made\S* is not what it was in a restored one"),
        (
            "local",
            r"optimizer.made is a tests.optimizers.classes.Unsaved.step.<locals>.Local, which a newly constructed",
        ),
        ("function", "optimizer.made is a function that a newly constructed one does not have"),
        ("views", r"optimizer.made\[1\] shares memory with optimizer.made\[0\]"),
        ("leaf", "optimizer.made is a view of a part of the parameter 'layer.weight'"),
    ],
)
def test_a_state_that_does_not_come_back_is_refused(what, words):
    optimizer, params = from_class(classes.Unsaved, 0.1, {"what": what}), toy.params()
    _, state = optimizer.update(toy.Oracle(params), optimizer.init(params, random.key(0)), params)
    with pytest.raises(ConfigError, match=rf"Unsaved.* cannot be saved: {words}.*Run it without checkpoints"):
        optimizer.save(state)


def test_a_schedule_scales_the_learning_rate_of_every_group():
    ours = toy.run(from_class(torch.optim.AdamW, 0.05, {}, optimizers.exponential(0.9)), steps=20)
    scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step)
    theirs = toy.run_torch(lambda leaves: torch.optim.AdamW(leaves, lr=0.05), steps=20, make_scheduler=scheduler)
    toy.assert_close(ours, theirs)


def factor_of(step):
    """A ramp from 0 that falls to 0 once more."""
    return torch.tensor([0.0, 0.5, 1.0, 0.0, 0.5])[step.long() % 5].double()


@pytest.mark.parametrize("rate", [0.05, torch.tensor(0.05, dtype=torch.float64)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_schedule_may_be_zero_and_groups_may_share_a_tensor(rate, count):
    def groups(leaves):
        parts = [leaves[:1], leaves[1:]] if count == 2 else [leaves]
        given = rate.clone() if isinstance(rate, torch.Tensor) else rate
        return torch.optim.Adam([{"params": part} for part in parts], lr=given, foreach=False)

    made = from_factory(lambda named: groups([leaf for _, leaf in named]), schedule=factor_of)
    scheduler = lambda optimizer: torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: float(factor_of(torch.tensor(step)))
    )
    theirs = toy.run_torch(lambda leaves: torch.optim.Adam(leaves, lr=0.05), steps=12, make_scheduler=scheduler)
    toy.assert_close(toy.run(made, steps=12), theirs)


def test_a_rate_of_zero_is_saved_with_what_it_goes_back_to():
    optimizer, params = from_class(torch.optim.SGD, 0.1, {}, factor_of), toy.params()
    state = optimizer.init(params, random.key(0))
    params, state = optimizer.update(toy.Oracle(params), state, params)
    loaded = optimizer.load(optimizer.save(state), params, random.key(0))
    expected, _ = optimizer.update(toy.Oracle(params), state, params)
    found, _ = optimizer.update(toy.Oracle(params), loaded, params)
    assert any((expected[name] != params[name]).any() for name in params)
    toy.assert_close(found, expected)


def test_an_update_leaves_alone_what_earlier_ones_returned():
    optimizer, params = from_class(torch.optim.SGD, 0.1, {"momentum": 0.9}), toy.params()
    state, seen, copies = optimizer.init(params, random.key(0)), [], []
    for _ in range(3):
        params, state = optimizer.update(toy.Oracle(params), state, params)
        seen.append(params)
        copies.append({name: leaf.clone() for name, leaf in params.items()})
    for before, same in zip(seen, copies, strict=True):
        assert all(torch.equal(before[name], same[name]) for name in same)


def test_an_update_starts_from_the_parameters_that_it_is_given():
    optimizer, params = from_class(torch.optim.SGD, 0.1, {}), toy.params()
    state = optimizer.init(params, random.key(0))
    _, state = optimizer.update(toy.Oracle(params), state, params)
    for elsewhere in ({name: leaf + 1 for name, leaf in params.items()}, params):
        grads = toy.Oracle(elsewhere).grad()
        after, state = optimizer.update(toy.Oracle(elsewhere), state, elsewhere)
        toy.assert_close(after, {name: elsewhere[name] - 0.1 * grads[name] for name in params})


def test_what_is_evaluated_is_the_mode_of_evaluation_and_leaves_no_trace():
    optimizer, params = from_class(classes.Rounding, 0.1, {}), toy.params()
    state = optimizer.init(params, random.key(0))
    assert optimizer.eval_params(state, params) is params
    for _ in range(3):
        params, state = optimizer.update(toy.Oracle(params), state, params)
        evaluated = optimizer.eval_params(state, params)
        toy.assert_close(evaluated, {name: leaf / 3 for name, leaf in params.items()})
    whole = toy.run(from_class(classes.IgnoresClosure, 0.1, {}), steps=3)
    assert all(torch.equal(params[name], whole[name]) for name in whole)


def test_the_parameters_given_to_init_are_left_alone():
    optimizer, params = from_class(torch.optim.SGD, 0.1, {}), toy.params()
    optimizer.update(toy.Oracle(params), optimizer.init(params, random.key(0)), params)
    assert all(torch.equal(params[name], start) for name, start in toy.params().items())


def test_the_parameters_returned_are_plain_tensors_in_their_order():
    after = toy.run(from_class(torch.optim.SGD, 0.1, {}), steps=1)
    assert list(after) == list(toy.params())
    assert {(type(leaf), leaf.requires_grad) for leaf in after.values()} == {(torch.Tensor, False)}


def test_an_update_of_torch_does_not_stand_in_a_compiled_step():
    assert not from_class(torch.optim.SGD, 0.1, {}).compiles
    assert optimizers.sgd(0.1).compiles


def test_an_error_of_the_constructor_keeps_its_words_and_its_place():
    optimizer = from_class(classes.Demanding, 0.1, {"strength": -2})
    lines, first = inspect.getsourcelines(classes.Demanding)
    place = f"{classes.__file__}:{first + next(n for n, line in enumerate(lines) if 'raise' in line)}"
    message = (
        "tests.optimizers.classes.Demanding(lr=0.1, strength=-2) raised "
        f"ArithmeticError: strength must not be -2! ({place})."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$") as raised:
        optimizer.init(toy.params(), random.key(0))
    assert isinstance(raised.value.__cause__, ArithmeticError)


@pytest.mark.parametrize(
    ("hyper", "words"),
    [({}, "missing 1 required positional argument: 'strength'"), ({"strength": 1, "params": []}, "'params'")],
)
def test_hyperparameters_that_do_not_fit_the_constructor_are_refused(hyper, words):
    with pytest.raises(ConfigError, match=f"TypeError: .*{words}"):
        from_class(classes.Demanding, 0.1, hyper).init(toy.params(), random.key(0))


def test_hyperparameters_reach_the_constructor_as_given():
    hyper = {"momentum": 0.7, "nesterov": True}
    given = from_class(torch.optim.SGD, 0.25, hyper).init(toy.params(), random.key(0)).instances[0].defaults
    assert {name: given[name] for name in ("lr", *hyper)} == {"lr": 0.25, **hyper}


def test_the_defaults_of_a_constructor_leave_out_parameters_and_learning_rate():
    required = inspect.Parameter.empty
    assert constructor_defaults(classes.Demanding) == {"strength": required, "mode": "fast"}
    assert constructor_defaults(classes.Noisy) == {"noise": 0.1}
    assert constructor_defaults(torch.optim.AdamW)["betas"] == (0.9, 0.999)
    assert "lr" not in constructor_defaults(torch.optim.AdamW)


@pytest.mark.parametrize(
    ("path", "cls"),
    [
        ("torch.optim.AdamW", torch.optim.AdamW),
        ("torch.optim.lbfgs.LBFGS", torch.optim.LBFGS),
        ("tests.optimizers.classes.Noisy", classes.Noisy),
    ],
)
def test_a_class_is_found_by_its_path(path, cls):
    assert load_class(path) is cls


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("torch.optim.AdmW", "Unknown name in torch.optim: 'AdmW'. Did you mean 'Adam.?'"),
        ("no_such_package.Adam", "'no_such_package.Adam' cannot be imported: ModuleNotFoundError: No module named"),
        ("AdamW", "The optimizer 'AdamW' is no import path. Give package.module:name."),
        ("torch.nn.Linear", "torch.nn.Linear is not a subclass of torch.optim.Optimizer but <class"),
        ("tests.optimizers.classes.no_class", "is not a subclass of torch.optim.Optimizer but <function"),
        ("torch.optim.", "The optimizer 'torch.optim.' is no import path."),
    ],
)
def test_a_path_that_leads_to_no_class_is_refused(path, message):
    with pytest.raises(ConfigError, match=message):
        load_class(path)


def test_a_module_that_fails_when_imported_is_named_with_its_place(tmp_path, monkeypatch):
    (tmp_path / "broken_optimizer_module.py").write_text("\n\nraise RuntimeError('not today')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"RuntimeError: not today \(.*broken_optimizer_module.py:3: raise"):
        load_class("broken_optimizer_module.Adam")


class OwnRate(torch.optim.SGD):
    """Halves its learning rate at every step."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["lr"] *= 0.5


def rates(schedule, steps=3):
    optimizer, params = from_class(OwnRate, 0.5, {}, schedule), toy.params()
    state, seen = optimizer.init(params, random.key(0)), []
    for _ in range(steps):
        seen.append(state.instances[0].param_groups[0]["lr"])
        params, state = optimizer.update(toy.Oracle(params), state, params)
    return seen


def test_a_class_that_moves_its_own_rate_is_left_alone():
    assert rates(None) == [0.5, 0.25, 0.125]


def test_a_schedule_scales_the_rate_that_a_class_has_come_to():
    assert rates(optimizers.steps((1,), (0.1,)), 4) == pytest.approx([0.5, 0.25, 0.0125, 0.00625])


def grouped(named):
    """Biases without decay, in a group of their own; the rates fall."""
    bias = [leaf for name, leaf in named if name.endswith("bias")]
    rest = [leaf for name, leaf in named if not name.endswith("bias")]
    optimizer = torch.optim.AdamW([{"params": bias, "weight_decay": 0.0}, {"params": rest, "lr": 0.02}], lr=0.05)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=[0.1, 0.05], total_steps=30)


def test_a_factory_makes_groups_and_a_scheduler():
    names = list(toy.params())
    theirs = toy.run_torch(lambda leaves: grouped(list(zip(names, leaves, strict=True))), steps=20)
    toy.assert_close(toy.run(from_factory(grouped), steps=20), theirs)


def test_a_scheduler_is_saved_with_its_optimizer():
    optimizer, params = from_factory(grouped), toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(7):
        params, state = optimizer.update(
            toy.Oracle(params), optimizer.load(optimizer.save(state), params, random.key(3)), params
        )
    whole = toy.run(optimizer, steps=7)
    assert all(torch.equal(params[name], whole[name]) for name in whole)


def of(make):
    return lambda named: make([leaf for _, leaf in named])


def plateau(leaves):
    optimizer = torch.optim.SGD(leaves, lr=0.1)
    return optimizer, torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (of(lambda leaves: leaves), "must be a torch.optim.Optimizer, or that and a scheduler"),
        (of(plateau), "must be a torch.optim.lr_scheduler.LRScheduler whose step.. needs no metric"),
        (of(lambda leaves: torch.optim.SGD([torch.zeros(2)], lr=1)), "tensors that are not the parameters which it"),
        (of(lambda leaves: leaves[7]), r"raised IndexError: list index out of range \(.*test_torch_optim.py"),
    ],
)
def test_what_a_factory_may_make(make, words):
    with pytest.raises(ConfigError, match=words):
        from_factory(make, name="mine").init(toy.params(), random.key(0))


def test_two_schedules_are_refused():
    with pytest.raises(ConfigError, match="grouped has a scheduler of its own; drop that, or the schedule of the run"):
        from_factory(grouped, schedule=optimizers.exponential(0.9)).init(toy.params(), random.key(0))


@pytest.mark.parametrize("inner", [torch.optim.Adam, "torch.optim.Adam"])
def test_a_wrapper_is_given_the_class_that_it_wraps(inner):
    ours = toy.run(from_class(classes.Halving, 0.1, {"optimizer": inner, "factor": 0.5}), steps=5)
    toy.assert_close(ours, toy.run(from_class(torch.optim.Adam, 0.05, {}), steps=5))
    assert constructor_defaults(classes.Halving)["factor"] == 0.5
    with pytest.raises(ConfigError, match=r"Halving wraps another optimizer: give its class as .* 'optimizer'"):
        from_class(classes.Halving, 0.1, {}).init(toy.params(), random.key(0))


def test_a_class_that_differentiates_its_gradient_has_its_graph():
    ours = toy.run(from_class(classes.NewtonDiagonal, 0.1, {}), steps=5)
    expected = toy.params()
    for _ in range(5):
        grads, ones = toy.Oracle(expected).grad(), {name: torch.ones_like(leaf) for name, leaf in expected.items()}
        products = toy.Oracle(expected).hvp(ones)
        expected = {name: leaf - 0.1 * grads[name] / (1 + products[name].abs()) for name, leaf in expected.items()}
    toy.assert_close(ours, expected)


def test_a_class_whose_need_of_a_graph_is_not_seen_is_refused():
    optimizer, params = from_class(classes.Hidden, 0.1, {}), toy.params()
    with pytest.raises(ConfigError, match=r"Hidden\(lr=0.1\) differentiates its gradients, .* functional adahessian"):
        optimizer.update(toy.Oracle(params), optimizer.init(params, random.key(0)), params)
