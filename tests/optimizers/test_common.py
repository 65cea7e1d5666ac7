"""One table over all functional optimizers: the properties that the runner and populations rest on."""

import inspect
import pkgutil
import subprocess
import sys

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from deepobs_func import optimizers, random
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.hyperparameters import Range
from tests.optimizers import toy

NAMES = optimizers.names()
DEFAULTS = {name: dict(row.defaults) for name, row in optimizers.FUNCTIONAL.items()}
LRS = {"sgd": 0.3, "rmsprop": 0.01, "newton_cg": 0.5, "sophia_h": 0.02, "sgd_cabs": 0.3}
LRS |= {
    "lion": 0.02,
    "prodigy": 1.0,
    "schedule_free_sgd": 0.5,
    "sgd_line_search": 2.0,
    "lbfgs": 1.0,
    "shampoo": 0.5,
    "kfac": 0.5,
    "ekfac": 0.5,
}
# Sophia: with its own gamma, every coordinate of this problem is clipped. Prodigy: its own d0 grows for many steps.
OTHERS = {"sophia_h": {"gamma": 2.0}, "prodigy": {"d0": 0.01}, "muon": {"adam_factor": 1.0}}
OTHERS["shampoo"] = {"update_every": 1}  # roots of the first gradient alone are too large for the second
OTHERS |= {name: {"kl_clip": 0.0, "damping": 0.1} for name in ("kfac", "ekfac")}
DRAWING = ["adahessian", "sophia_h", "kfac", "ekfac"]
AVERAGING = ["schedule_free_sgd", "schedule_free_adamw"]
# No numbers of the state: they decide what is computed.
STRUCTURE = {"cg_steps", "bn", "micro_batches", "ns_steps", "adam_for", "max_backtracks", "memory", "max_dim"}
STRUCTURE |= {"fisher", "curvature_batch", "others"}
VALUES = {"update_every": [1, 3, 10]}  # where [0.01, 0.05, 0.4] says nothing
# Well-conditioned: with a damping of 0.01, ten steps of conjugate gradients make 1e-8 of a round-off of 1e-16.
VALUES |= {"damping": [0.4, 1.0, 3.0], "damping_factor": [1.0, 1.25, 1.5], "grow": [1.0, 1.5, 2.0]}


def lr_of(name):
    return LRS.get(name, 0.05)


def constructor(name):
    return pkgutil.resolve_name(optimizers.FUNCTIONAL[name].make)


def make(name, **options):
    return constructor(name)(**{"lr": lr_of(name)} | OTHERS.get(name, {}) | options)


def rich_options(name):
    """A transform, where the optimizer takes them, and a schedule; few steps of a loop that a graph unrolls."""
    options, parameters = {"schedule": optimizers.cosine(30)}, inspect.signature(constructor(name)).parameters
    if "cg_steps" in parameters:
        options["cg_steps"] = 3
    if "before" in parameters:
        options["before"] = [optimizers.clip_by_global_norm(1.0)]
    return options


@pytest.mark.parametrize("name", NAMES)
def test_defaults_of_the_row_are_those_of_the_constructor(name):
    parameters = inspect.signature(constructor(name)).parameters
    keywords = {key for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    assert keywords in ({"before", "after", "schedule"}, {"before", "schedule"}, {"schedule"})
    assert parameters["lr"].default is inspect.Parameter.empty
    assert {key: p.default for key, p in parameters.items() if key not in {"lr", *keywords}} == DEFAULTS[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_objective_falls(name):
    assert toy.objective(toy.run(make(name))) < 0.8 * toy.objective(toy.params())


@pytest.mark.parametrize("name", NAMES)
def test_a_schedule_scales_the_learning_rate(name):
    halved = make(name, schedule=optimizers.steps((0,), (0.5,)))
    toy.assert_close(toy.run(halved, steps=10), toy.run(make(name, lr=0.5 * lr_of(name)), steps=10))


@pytest.mark.parametrize(
    ("name", "hyper"),
    [(name, hyper) for name in NAMES for hyper in ("lr", *DEFAULTS[name]) if hyper not in STRUCTURE],
)
def test_a_grid_under_vmap_equals_separate_runs(name, hyper):
    # The gradients are (3, 4): in SOAP's basis of four, one number is rounding alone, over the root of its square.
    given = {"epsilon": 1e-4} if name == "soap" else {}
    optimizer, values = make(name, **given), VALUES.get(hyper, [0.01, 0.05, 0.4])

    steps = 3 if name == "newton_cg" else 6  # whose steps are products, all ten of them under vmap

    def train(value):
        params = toy.params()
        state = optimizer.init(params, random.key(0))
        state = state._replace(hyper=state.hyper | {hyper: value})
        for _ in range(steps):
            params, state = optimizer.update(toy.Oracle(params), state, params)
        return params

    grid = torch.func.vmap(train)(torch.tensor(values, dtype=torch.float64))
    for member, value in enumerate(values):
        alone = toy.run(make(name, **(given | {hyper: value})), steps=steps)
        toy.assert_close({key: stacked[member] for key, stacked in grid.items()}, alone)


@pytest.mark.parametrize("name", NAMES)
def test_members_with_keys_of_their_own_equal_separate_runs(name):
    optimizer, keys = make(name), random.split(random.key(0), 3)
    together = torch.func.vmap(lambda key: toy.run(optimizer, steps=12, key=key))(keys)
    for member, key in enumerate(keys):
        toy.assert_close(
            {key: stacked[member] for key, stacked in together.items()}, toy.run(optimizer, steps=12, key=key)
        )


# Their compiled steps are in the quick suite elsewhere, are those of others with a term more, or take long.
LONG_TO_COMPILE = (
    "sgd",
    "muon",
    *("newton_cg", "sophia_h", "adahessian", "adamw", "rmsprop", "nesterov", "sgd_cabs", "adam", "nadamw", "lion"),
    *("prodigy", "schedule_free_adamw", "sgd_line_search", "soap", "shampoo", "kfac", "ekfac", "lbfgs"),
)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.large) if name in LONG_TO_COMPILE else name for name in NAMES]
)
def test_a_compiled_update_equals_eager_and_serves_every_learning_rate(name):
    options, backend = rich_options(name), CompileCounterWithBackend("aot_eager")
    update = make(name, lr=1.0, **options).update
    step = torch.compile(lambda s, p: update(toy.Oracle(p), s, p), backend=backend, fullgraph=True)
    compiled = []  # after each learning rate; the first call of all may also compile an empty graph of torch's own
    for lr in (0.01, 0.02, 0.05):
        optimizer = make(name, lr=lr, **options)
        params = toy.params()
        state = optimizer.init(params, random.key(0))
        for _ in range(5):
            params, state = step(state, params)
        toy.assert_close(params, toy.run(optimizer, steps=5))
        compiled.append(backend.frame_count)
    assert compiled[0] > 0
    assert set(compiled) == {compiled[0]}


@pytest.mark.parametrize("name", NAMES)
def test_an_update_changes_none_of_its_inputs(name):
    optimizer, params = make(name), toy.params()
    state = optimizer.init(params, random.key(0))
    for _ in range(3):
        leaves = torch.utils._pytree.tree_leaves((state, params))
        before = [leaf.clone() for leaf in leaves]
        new_params, new_state = optimizer.update(toy.Oracle(params), state, params)
        assert all(torch.equal(leaf.nan_to_num(), copy.nan_to_num()) for leaf, copy in zip(leaves, before, strict=True))
        params, state = new_params, new_state


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtypes_of_parameters_and_slots_are_kept(name, dtype):
    optimizer, params = make(name), {key: tensor.to(dtype) for key, tensor in toy.params().items()}
    state = optimizer.init(params, random.key(0))
    after, new_state = optimizer.update(toy.Oracle(params), state, params)
    kinds = lambda pytree: [(leaf.dtype, leaf.shape) for leaf in torch.utils._pytree.tree_leaves(pytree)]
    assert kinds(after) == kinds(params)
    assert kinds(new_state) == kinds(state)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_follows_from_its_key(name):
    first, again, other = (toy.run(make(name), steps=5, key=random.key(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first) == (name in DRAWING)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_is_a_value_and_the_iterate_is_evaluated(name):
    optimizer, params, key = make(name), toy.params(), random.key(0)
    state = optimizer.init(params, key)
    for _ in range(4):
        state = optimizer.load(optimizer.save(state), params, random.key(1))
        params, state = optimizer.update(toy.Oracle(params), state, params)
        assert (optimizer.eval_params(state, params) is params) == (name not in AVERAGING)
    whole = toy.run(make(name), steps=4, key=key)
    assert all(torch.equal(params[key], whole[key]) for key in whole)


@pytest.mark.parametrize("name", NAMES)
def test_a_report_is_numbers(name):
    optimizer, params = make(name), toy.params()
    state = optimizer.init(params, random.key(0))
    names = set(optimizer.report(state))
    _, state = optimizer.update(toy.Oracle(params), state, params)
    report = optimizer.report(state)
    assert set(report) == names
    assert all(value.shape == () and value.isfinite() for value in report.values())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("warm_start", 1.5, "warm_start is 1.5; it must be at least 0 and at most 1"),
        ("damping_factor", 0.5, "damping_factor is 0.5; it must be at least 1"),
        ("damping", -1.0, "damping is -1.0; it must be at least 0"),
        ("cg_steps", 2.5, "cg_steps is 2.5; it must be a whole number from 1"),
        ("cg_steps", 0, "cg_steps is 0; it must be a whole number from 1"),
        ("cg_tol", float("nan"), "cg_tol is nan; it must be a finite number"),
    ],
)
def test_values_out_of_range_are_refused(name, value, words):
    with pytest.raises(ConfigError, match=words):
        optimizers.newton_cg(1.0, **{name: value})


@pytest.mark.parametrize("name", list(optimizers.FUNCTIONAL.own))
def test_the_range_of_the_row_is_that_of_the_constructor(name):
    """Of this package's; a run checks those of others by the row.

    Also where another optimizer has a hyperparameter of the same name and another range.
    """
    for hyper, row in optimizers.FUNCTIONAL[name].hyperparameters.items():
        if isinstance(row.kind, Range) and row.kind.low >= 0:
            with pytest.raises(ConfigError, match=f"{hyper} is .*; it must be {row.kind}"):
                make(name, **{hyper: row.kind.low - 1e-3})


@pytest.mark.parametrize(("name", "hyper"), [("kfac", "damping"), ("ekfac", "damping"), ("shampoo", "epsilon")])
def test_what_makes_matrices_regular_is_not_zero(name, hyper):
    with pytest.raises(ConfigError, match=f"{hyper} is 0.0; it must be"):
        make(name, **{hyper: 0.0})
    with pytest.raises(ConfigError, match=r"shrink is 0\.0; it must be"):
        optimizers.sgd_line_search(1.0, shrink=0.0)


class Broken(toy.Oracle):
    """One gradient of which one coordinate is not a number."""

    def grad(self):
        grads = super().grad()
        grads["layer.bias"][0] = torch.nan
        return grads


@pytest.mark.parametrize("name", [name for name in NAMES if name != "newton_cg"])  # which leaves such a step out
def test_a_gradient_that_is_not_a_number_is_seen_in_the_parameters(name):
    optimizer, params = make(name), toy.params()
    state = optimizer.init(params, random.key(0))
    for oracle in (toy.Oracle, toy.Oracle, Broken, toy.Oracle):
        params, state = optimizer.update(oracle(params), state, params)
    assert not params["layer.bias"][0].isfinite()


def test_an_unknown_choice_is_refused():
    with pytest.raises(ConfigError, match=r"bn: 'frosen'\. Did you mean 'frozen'"):
        optimizers.sgd_cabs(1.0, bn="frosen")


def test_everything_exported_can_be_had():
    for name in optimizers.__all__:
        assert getattr(optimizers, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'adagrad'"):
        _ = optimizers.adagrad


def test_listing_the_optimizers_imports_no_torch():
    code = "import sys; from deepobs_func import optimizers; optimizers.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
