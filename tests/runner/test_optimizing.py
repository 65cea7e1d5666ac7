"""Optimizers by name, by path, by value; clipped, scheduled; and the twins of torch that they equal."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import lr_scheduler

from deepobs_func import optimizers, problems
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.runner import RunConfig, Training, checkpoint, run
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.plan import Plan, make_plan
from tests.optimizers import classes
from tests.runner.small import config, small_problem

MODULE = '''
import torch
from deepobs_func import optimizers

VALUE = optimizers.adam(0.1)
NOTHING = 3

def functional(lr, decay=0.5):
    return optimizers.momentum(lr, decay)

def fixed():
    return optimizers.sgd(0.1)

def plain(named_parameters, lr, momentum=0.0, nesterov=False):
    return torch.optim.SGD([p for _, p in named_parameters], lr=lr, momentum=momentum, nesterov=nesterov)

def any_name(ps, lr):
    return torch.optim.SGD([p for _, p in ps], lr=lr)

def functional_of_parameters(named):
    assert [name for name, _ in named] == ["weight", "bias"]
    return optimizers.sgd(0.1)

def scheduled(named, lr, gamma=0.5):
    optimizer = torch.optim.SGD([p for _, p in named], lr=lr)
    return optimizer, torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)

def grouped(named, lr, factor=0.1):
    """Per-layer rates; no decay on what is no matrix."""
    return torch.optim.AdamW(
        [{"params": [p], "lr": lr * factor**n, "weight_decay": 0.1 if p.ndim > 1 else 0.0}
         for n, (_, p) in enumerate(named)], lr=lr)

def several(named, lr):
    """Muon for matrices, AdamW for the rest, whose rate falls."""
    muon = torch.optim.Muon([p for _, p in named if p.ndim == 2], lr=lr)
    adamw = torch.optim.AdamW([p for _, p in named if p.ndim != 2], lr=lr)
    return [muon, (adamw, torch.optim.lr_scheduler.StepLR(adamw, 2, 0.5))]

def needs_data(named, lr):
    scale = max(float(p.detach().abs().max()) for _, p in named) or 1.0
    return torch.optim.SGD([p for _, p in named], lr=lr * (1.0 if scale else 1.0))

def no_rate(named):
    return torch.optim.SGD([p for _, p in named], lr=0.7)

def nothing(named, lr):
    pass

def a_number(lr):
    return lr

def failing(named, lr):
    return named["weight"]

def required(named, lr, strength):
    return torch.optim.SGD([p for _, p in named], lr=lr * strength)

def two_times(named, lr):
    leaves = [p for _, p in named]
    return [torch.optim.SGD(leaves, lr=lr), torch.optim.Adam(leaves[1:], lr=lr)]

def strict(damping: float, lr: float):
    return optimizers.sgd(lr * damping)
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of the user's."""
    (tmp_path / "mine_of_optimizing.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "mine_of_optimizing"
    __import__("sys").modules.pop("mine_of_optimizing", None)


def made(optimizer: str, **changes: Any) -> RunConfig:
    return config(optimizer=optimizer, epochs=2, train_log_interval=1, **changes)


def losses(made: RunConfig, optimizer: Any = None) -> list[float]:
    return run(made, small_problem(), optimizer).minibatch_train_losses


def plain_losses(make: Callable[[list[tuple[str, torch.nn.Parameter]]], Any], edit: Any = None, steps: int = 6) -> Any:
    """The loop that everybody writes, on the batches of the run."""
    problem = small_problem()
    training = Training(make_plan(made("sgd"), problem), Execution())
    state = training.start()
    leaves = {name: torch.nn.Parameter(leaf.clone()) for name, leaf in state.carry.params.items()}
    parts = make(list(leaves.items()))
    parts = parts if isinstance(parts, list) else [parts]
    found = []
    for index in range(steps):
        epoch, step = divmod(index, 3)
        for number, inputs in enumerate(training.batches.epoch(epoch, 1)):
            if number == step:
                batch = training.make_batch(state.carry.state, inputs.one(0))
        for leaf in leaves.values():
            leaf.grad = None
        loss = problem.objective(leaves, batch)
        found.append(loss.item())
        loss.backward()
        if edit:
            edit(list(leaves.values()))
        for part in parts:
            part.step()
    return found


# By path


@pytest.mark.parametrize(
    ("path", "hyperparams", "twin"),
    [
        ("VALUE", {}, lambda named: torch.optim.Adam([p for _, p in named], lr=0.1)),
        ("functional", {"decay": 0.9}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.1, momentum=0.9)),
        ("fixed", {}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.1)),
        ("plain", {"momentum": 0.9}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.1, momentum=0.9)),
        ("any_name", {}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.1)),
        ("needs_data", {}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.1)),
        ("functional_of_parameters", {}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.1)),
        ("strict", {"damping": 0.5}, lambda named: torch.optim.SGD([p for _, p in named], lr=0.05)),
    ],
)
def test_a_run_of_a_factory_is_the_plain_loop(mine: str, path: str, hyperparams: dict[str, Any], twin: Any) -> None:
    ours = losses(made(f"{mine}:{path}", hyperparams=hyperparams))
    np.testing.assert_allclose(ours, plain_losses(twin), rtol=1e-5)
    assert len(set(ours)) == 6


@pytest.mark.parametrize("path", ["scheduled", "grouped", "several"])
def test_schedulers_groups_and_several_optimizers_step_as_in_a_plain_loop(mine: str, path: str) -> None:
    def make(named: Any) -> Any:
        return list(flat(getattr(__import__(mine), path)(named, lr=0.1)))

    np.testing.assert_allclose(losses(made(f"{mine}:{path}")), plain_losses(make), rtol=1e-4)


def flat(parts: Any) -> Iterator[Any]:
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from flat(part)
    else:
        yield parts


def test_several_optimizers_are_saved_and_restored(mine: str) -> None:
    """Left at any event and entered again: the numbers of the undisturbed run."""
    training = Training(make_plan(made(f"{mine}:several"), small_problem()), Execution())
    found = [event.state for event in training(training.start())]
    whole = training.record(found[-1]).minibatch_train_losses
    for state in found:
        for event in training(state):
            last = event
        assert last.record.minibatch_train_losses == whole
        assert last.record.extra["calls"]["gradients"] == [3, 6]


def test_the_defaults_of_a_factory_are_in_the_record(mine: str) -> None:
    record = run(made(f"{mine}:plain", hyperparams={"momentum": 0.9}), small_problem()).record
    assert record.optimizer == "mine_of_optimizing.plain"
    assert record.hyperparams == {"momentum": 0.9, "nesterov": False}
    assert record.extra["defaults"] == ["nesterov"]
    assert run(made(f"{mine}:VALUE"), small_problem()).optimizer == "mine_of_optimizing.VALUE"


@pytest.mark.parametrize(
    ("path", "changes", "words"),
    [
        ("NOTHING", {}, "it is 3; it must be a functional optimizer, a class of torch.optim.Optimizer, or a function"),
        ("nothing", {}, "mine_of_optimizing:nothing made None; it must be a torch.optim.Optimizer, or that and a"),
        ("a_number", {}, "made 0.1; it must make a functional Optimizer, or, called with the named parameters"),
        ("failing", {}, r"it raised TypeError: list indices .*mine_of_optimizing\.py:5\d\)"),
        ("required", {}, "it raised TypeError: .*'strength'"),
        ("two_times", {}, "gives 'bias' to two optimizers; each takes its own"),
        ("plain", {"hyperparams": {"momentun": 0.9}}, "'momentun'. Did you mean 'momentum'"),
        ("no_rate", {}, "lr 0.1: mine_of_optimizing:no_rate does not use it; its parameter groups have .* 0.7"),
        ("fixed", {"lr": 0.3}, "lr 0.3: the optimizer mine_of_optimizing:fixed was made with 0.1. Give this one"),
        ("VALUE", {"lr": 0.3}, "lr 0.3: the optimizer .* was made with 0.1"),
        ("VALUE", {"hyperparams": {"beta1": 0.5}}, "beta1.* 0.5: the functional optimizer .* has its hyperparameters"),
        ("VALUE", {"schedule": "cosine"}, "has its schedule from who made it"),
        ("functional", {"schedule": "cosine"}, "has its schedule from who made it"),
        ("scheduled", {"schedule": "cosine"}, "has a scheduler of its own; drop that, or the schedule of the run"),
        (
            "plain",
            {"lr": 0.1, "hyperparams": {"nesterov": True}},
            "raised ValueError: Nesterov .*mine_of_optimizing.py",
        ),
        ("nowhere", {}, "Unknown name in mine_of_optimizing: 'nowhere'"),
    ],
)
def test_what_a_factory_may_not_do(mine: str, path: str, changes: dict[str, Any], words: str) -> None:
    """Found before data are read."""
    with pytest.raises(ConfigError, match=words):
        make_plan(made(f"{mine}:{path}", **changes), small_problem())


def test_a_module_that_cannot_be_imported_is_told_with_the_user_s_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text, words in (
        (
            "broken_a",
            "import torch\n\ntorch.zeros(2) @ torch.zeros(3)\n",
            r"RuntimeError: .*broken_a\.py:3: torch\.zeros",
        ),
        ("broken_b", "x = 1\nimport no_such_thing\n", r"ModuleNotFoundError: .*broken_b\.py:2: import no_such_thing\)"),
        ("broken_c", "x = 1\n\ndef f(:\n", r"SyntaxError: .*broken_c\.py:3: def f\(:\)"),
    ):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        for what in ("optimizer", "problem"):
            with pytest.raises(ConfigError, match=words):
                make_plan(config(**{what: f"{name}:make"}), small_problem() if what == "optimizer" else None)


# By value


def of_parameters(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    return lambda ps: torch.optim.SGD([p for _, p in ps], lr=lr)


VALUES: dict[str, Any] = {
    "functional": optimizers.sgd(0.1),
    "class": torch.optim.SGD,
    "callable": of_parameters(0.1),
    "partial": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.0).func,
    "several": lambda ps, lr: [torch.optim.SGD([p], lr=lr) for _, p in ps],
}


@pytest.mark.parametrize("kind", VALUES)
def test_a_value_runs_under_the_name_of_the_configuration(kind: str, tmp_path: Path) -> None:
    output_dir = tmp_path / "results"
    record = run(made("my_own", output_dir=str(output_dir)), small_problem(), VALUES[kind]).record
    assert record.optimizer == "my_own"
    assert record.path.parent.parent == output_dir / "small" / "my_own"
    np.testing.assert_allclose(record.minibatch_train_losses, losses(made("torch.optim.SGD")), rtol=1e-5)


def with_rate(lr: float) -> Optimizer:
    """A user's own, whose state says nothing of its rate."""

    def update(oracle: Any, state: Any, params: Any) -> Any:
        return {name: leaf - lr * oracle.grad()[name] for name, leaf in params.items()}, state

    return Optimizer(lambda params, key: (), update)


class Maker:
    """A callable object."""

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum

    def __call__(self, named: Any, lr: float) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for _, p in named], lr=lr, momentum=self.momentum)


def momentum_of(named: Any, momentum: float, lr: float) -> torch.optim.Optimizer:
    return Maker(momentum)(named, lr)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (with_rate(0.1), with_rate(0.2)),
        (optimizers.momentum(0.1, 0.5), optimizers.momentum(0.1, 0.6)),
        (optimizers.adam(0.1), optimizers.sgd(0.1)),
        (
            optimizers.sgd(0.1, before=[optimizers.clip_by_global_norm(1.0)]),
            optimizers.sgd(0.1, before=[optimizers.clip_by_global_norm(2.0)]),
        ),
        (optimizers.sgd(0.1, schedule=optimizers.cosine(9)), optimizers.sgd(0.1, schedule=optimizers.cosine(8))),
        (lambda ps, lr: torch.optim.SGD([p for _, p in ps], lr), VALUES["several"]),
        (functools.partial(momentum_of, momentum=0.5), functools.partial(momentum_of, momentum=0.6)),
        (Maker(0.5), Maker(0.6)),
        (torch.optim.SGD, torch.optim.Adam),
    ],
)
def test_two_optimizers_under_one_name_are_two_runs(first: Any, second: Any) -> None:
    ids = [make_plan(made("mine"), small_problem(), each).run_id for each in (first, second, first)]
    assert ids[0] == ids[2] != ids[1]


def test_the_run_of_a_user_s_optimizer_counts_its_calls() -> None:
    done = run(made("mine"), small_problem(), with_rate(0.1))
    assert done.extra["calls"] == {"gradients": [3, 6], "products": [0, 0], "evaluations": [0, 0]}
    np.testing.assert_allclose(done.minibatch_train_losses, losses(made("sgd")), rtol=1e-6)


class Slots(NamedTuple):
    """A state of a user's own kind."""

    mean: dict[str, torch.Tensor]
    steps: torch.Tensor


def signs(lr: float) -> Optimizer:
    """A user's own with a state."""

    def init(params: Any, key: Any) -> Slots:
        return Slots(
            {name: torch.zeros_like(leaf) for name, leaf in params.items()}, torch.zeros((), dtype=torch.int64)
        )

    def update(oracle: Any, slots: Slots, params: Any) -> Any:
        mean = {name: torch.lerp(slots.mean[name], grad, 0.1) for name, grad in oracle.grad().items()}
        moved = {name: leaf - lr * mean[name].sign() for name, leaf in params.items()}
        return moved, Slots(mean, slots.steps + 1)

    return Optimizer(init, update, report=lambda slots: {"steps": slots.steps})


def test_a_user_s_optimizer_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """Its state, and how often it has called the oracle."""
    training = Training(make_plan(made("mine"), small_problem(), signs(0.01)), Execution())
    events = [(event.state, event.record) for event in training(training.start())]
    whole = events[-1][1]
    assert whole.extra["calls"]["gradients"] == [3, 6]
    assert whole.extra["reports"] == {"steps": [1, 2, 3, 4, 5, 6]}
    for index, (state, _) in enumerate(events):
        path = tmp_path / f"{index}.safetensors"
        checkpoint.save(path, training, state)
        for event in training(checkpoint.read(path).state(training)):
            last = event
        assert last.record.minibatch_train_losses == whole.minibatch_train_losses
        assert {name: last.record.extra[name] for name in ("calls", "reports")} == {
            name: whole.extra[name] for name in ("calls", "reports")
        }


# Clipping


def graph_sgd(named: Any, lr: float) -> torch.optim.Optimizer:
    """Differentiates its gradient, whose values are clipped and whose graph is not."""
    return classes.NewtonDiagonal([p for _, p in named], lr=lr)


@pytest.mark.parametrize("way", ["momentum", "torch.optim.SGD", "value", "by hand"])
@pytest.mark.parametrize(("option", "bound"), [("clip_norm", 0.3), ("clip_value", 0.05)])
def test_clipping_is_torch_s(way: str, option: str, bound: float) -> None:
    clip = {"clip_norm": torch.nn.utils.clip_grad_norm_, "clip_value": torch.nn.utils.clip_grad_value_}[option]
    twin = lambda named: torch.optim.SGD([p for _, p in named], lr=0.1, momentum=0.9)
    expected = plain_losses(twin, lambda leaves: clip(leaves, bound))
    name = "mine" if way in ("value", "by hand") else way
    value = {"value": optimizers.momentum(0.1, 0.9), "by hand": lambda named, lr: twin(named)}.get(way)
    hyperparams = {} if value is not None else {"momentum": 0.9}
    ours = losses(made(name, hyperparams=hyperparams, **{option: bound}), value)
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    assert not np.allclose(ours, plain_losses(twin), rtol=1e-3), "nothing was clipped"


def test_a_class_that_differentiates_its_gradient_is_clipped_too() -> None:
    def twin_losses() -> list[float]:
        problem = small_problem()
        training = Training(make_plan(made("sgd"), problem), Execution())
        state, found = training.start(), []
        leaves = {name: torch.nn.Parameter(leaf.clone()) for name, leaf in state.carry.params.items()}
        twin = classes.NewtonDiagonal(list(leaves.values()), lr=0.1)
        for inputs in training.batches.epoch(0, 1):
            batch = training.make_batch(state.carry.state, inputs.one(0))
            loss = problem.objective(leaves, batch)
            found.append(loss.item())
            grads = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
            for leaf, grad in zip(leaves.values(), grads, strict=True):
                leaf.grad = grad.clone()
            torch.nn.utils.clip_grad_norm_(list(leaves.values()), 0.3)
            twin.step()
        return found

    made_ = config(optimizer="mine", epochs=1, train_log_interval=1, clip_norm=0.3)
    np.testing.assert_allclose(losses(made_, graph_sgd), twin_losses(), rtol=1e-5)


# Schedules


def rates(plan: Plan) -> list[float]:
    return [plan.lr_at(step) for step in range(plan.epochs * plan.steps_per_epoch)]


def twin_rates(lr: float, steps: int, make: Callable[[torch.optim.Optimizer], Any]) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def twin(kind: str, steps: int, per_epoch: int, warm: int) -> Callable[[torch.optim.Optimizer], Any]:
    def make(optimizer: torch.optim.Optimizer) -> Any:
        then: Any = {
            "cosine": lambda: lr_scheduler.CosineAnnealingLR(optimizer, steps - warm),
            "linear": lambda: lr_scheduler.LinearLR(optimizer, 1.0, 1e-300, steps - warm),
            "exponential": lambda: lr_scheduler.ExponentialLR(optimizer, 0.5 ** (1 / per_epoch)),
            "steps": lambda: lr_scheduler.MultiStepLR(optimizer, [2 * per_epoch - warm, 4 * per_epoch - warm], 0.5),
        }[kind]()
        if not warm:
            return then
        ramp = lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) / warm)
        return lr_scheduler.SequentialLR(optimizer, [ramp, then], [warm])

    return make


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["cosine", "linear", "exponential", "steps"]),
    epochs=st.integers(5, 7),
    warm_up=st.sampled_from([0.0, 1.0, 1.5]),
)
def test_schedules_are_those_of_torch(kind: str, epochs: int, warm_up: float) -> None:
    """At every step of a run of three steps an epoch."""
    more = {"lr_sched_epochs": (2, 4)} if kind == "steps" else {}
    plan = make_plan(config(schedule=kind, epochs=epochs, warm_up=warm_up, decay_factor=0.5, **more), SMALL)
    warm = round(3 * warm_up)
    expected = twin_rates(0.1, 3 * epochs, twin(kind, 3 * epochs, 3, warm))
    np.testing.assert_allclose(rates(plan), expected, rtol=1e-9, atol=1e-12)


SMALL = small_problem()


@pytest.mark.parametrize("kind", ["cosine", "exponential"])
def test_a_class_and_a_functional_optimizer_are_scheduled_alike(kind: str) -> None:
    changes = {"schedule": kind, "warm_up": 0.5, "decay_factor": 0.3}
    ours = losses(made("momentum", hyperparams={"momentum": 0.9}, **changes))
    theirs = losses(made("torch.optim.SGD", hyperparams={"momentum": 0.9}, **changes))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    assert not np.allclose(ours, losses(made("momentum", hyperparams={"momentum": 0.9})), rtol=1e-4)


def test_the_published_schedule_is_that_of_the_problem() -> None:
    """All-CNN-C: divided by 10 at 200, 250 and 300."""
    plan = make_plan(
        RunConfig("cifar100_allcnnc", "sgd", 0.05, schedule="published", data="synthetic", output_dir=None)
    )
    per_epoch = plan.steps_per_epoch
    found = [plan.lr_at(epoch * per_epoch) / 0.05 for epoch in (0, 199, 200, 249, 250, 299, 300, 349)]
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-12)
    with pytest.raises(ConfigError, match="published: none is known for small"):
        make_plan(config(schedule="published"), small_problem())


# What a class takes


def test_hyperparameters_are_passed_on() -> None:
    path = "tests.optimizers.classes.SharpnessAware"
    hyperparams = {"base_optimizer": "torch.optim.SGD", "rho": 0.1, "momentum": 0.9}
    done = run(made(path, hyperparams=hyperparams), small_problem())
    assert done.record.hyperparams == hyperparams
    assert done.extra["calls"]["gradients"] == [6, 12]
    assert done.state is not None
    (instance,) = done.state.carry.opt_state.instances
    assert {name: instance.param_groups[0][name] for name in ("lr", "momentum", "rho")} == {
        "lr": 0.1,
        "momentum": 0.9,
        "rho": 0.1,
    }
    with pytest.raises(ConfigError, match="unexpected keyword argument 'momentun'"):
        make_plan(made(path, hyperparams=hyperparams | {"momentun": 0.9}), small_problem())


def test_a_class_that_swallows_the_learning_rate_is_told_apart() -> None:
    with pytest.raises(ConfigError, match=r"lr 0\.1: tests\.optimizers\.classes\.Swallowing does not use it; .* 0\.3"):
        make_plan(made("tests.optimizers.classes.Swallowing"), small_problem())
    assert make_plan(made("tests.optimizers.classes.Swallowing", lr=0.3), small_problem()).config.lr == 0.3


# Positions


def test_on_two_d_problems_the_trajectory_is_recorded() -> None:
    made = RunConfig(
        "two_d_beale",
        "sgd",
        1e-7,
        epochs=1,
        track="position,update_size",
        track_every=1,
        output_dir=None,
        compile="off",
    )
    done = run(made)
    tracked = done.extra["tracked"]
    positions = np.array(tracked["quantities"]["position"])
    params, _ = problems.get("two_d_beale").init()
    assert positions.shape == (done.plan.steps_per_epoch, 2)
    assert tracked["steps"] == list(range(done.plan.steps_per_epoch))
    np.testing.assert_allclose(positions[0], torch.cat([leaf.flatten() for leaf in params.values()]))
    moved = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    np.testing.assert_allclose(moved, tracked["quantities"]["update_size"][:-1], rtol=1e-2)
    end = torch.cat([leaf.flatten() for leaf in done.params.values()]).numpy()
    np.testing.assert_allclose(
        np.linalg.norm(end - positions[-1]), tracked["quantities"]["update_size"][-1], rtol=1e-2, atol=1e-9
    )


def test_positions_are_for_small_problems() -> None:
    with pytest.raises(ConfigError, match="track position: it is for nets of at most 100 parameters; mnist_logreg has"):
        make_plan(RunConfig("mnist_logreg", "sgd", 0.1, track="position", data="synthetic", output_dir=None))
    plan = make_plan(config(track="full"), small_problem())
    assert "position" in plan.tracked
