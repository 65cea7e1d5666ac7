"""A step looks at no value and moves no tensor to or from the processor: on `meta`, where there is no value to look at.

What a GPU would wait for raises there, or is counted: a number that is read, a size that depends on one, a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from deepobs_func import optimizers, problems, random
from deepobs_func.datasets.loading import Split
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.counting import counted
from deepobs_func.optimizers.scaling import scaled
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution
from deepobs_func.runner import step as step_module
from deepobs_func.runner.step import Carry, StepInput, TrainStep, make_train_step

META = torch.device("meta")
BATCH, STEPS = 4, 2
EAGER = Execution()
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "is_nonzero", "equal")
COPIES = ("_to_copy", "copy_", "lift_fresh", "lift_fresh_copy", "_foreach_copy_", "scalar_tensor")

MAKERS = ("tensor", "as_tensor", "from_numpy")


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._makers = {name: getattr(torch, name) for name in MAKERS}

    def __enter__(self) -> Waits:
        for name, make in self._makers.items():
            setattr(torch, name, self._seen(name, make))
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for name, make in self._makers.items():
            setattr(torch, name, make)

    def _seen(self, name: str, make: Any) -> Any:
        """A tensor of numbers lies on the processor before it goes to a device, below what is dispatched."""

        def seen(*args: Any, **kwargs: Any) -> Any:
            if not (args and isinstance(args[0], Tensor)):
                self.found.append(name)
            return make(*args, **kwargs)

        return seen

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        places = {leaf.device.type for leaf in (*args, result) if isinstance(leaf, Tensor)}
        if name in WAITS or (name in COPIES and places != {"meta"}):
            self.found.append(name)
        return result


def prepared(
    problem: Problem, optimizer: Optimizer, execution: Execution = EAGER
) -> tuple[TrainStep, Carry, StepInput]:
    """A step as a run has it, on data that have shapes alone."""
    key, spec = random.key(0, META), problem.dataset
    params, state = problem.init(key)
    carry = Carry(params, optimizer.init(params, key), state._replace(carry=problem.zero_carry(BATCH, device=META)))
    split = Split(*spec.function("fake")(spec, key, 2 * BATCH, torch.float32))
    keys = random.split(key, STEPS)
    draws = spec.function("draw")(keys, BATCH, torch.float32) if spec.augment else ()
    rows = torch.arange(STEPS * BATCH, device=META).view(STEPS, BATCH)
    return make_train_step(problem, optimizer, execution), carry, StepInput(split, rows, keys, draws)


SIX = ("mnist_logreg", "mnist_2c2d", "cifar10_3c3d", "mnist_vae", "svhn_wrn164", "quadratic_deep", "cifar100_vit")
RULES = {"momentum": optimizers.momentum, "adam": optimizers.adam, "adahessian": optimizers.adahessian}
RULES["adam under a loss scale"] = lambda lr: scaled(optimizers.adam(lr))


def waits(problem: Problem, optimizer: Optimizer) -> list[str]:
    """What the second call waits for: the first one may set something up."""
    step, carry, given = prepared(problem, optimizer)
    carry, _ = step(carry, given)
    with Waits() as found:
        carry, metrics = step(carry, given)
    assert metrics.loss.device == META
    assert {leaf.device for leaf in carry.params.values()} == {META}
    return found.found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.large) if name in ("mnist_vae", "cifar100_vit", "svhn_wrn164") else name
        for name in SIX
    ],
)
def test_steps_wait_for_nothing(name: str) -> None:
    assert waits(problems.get(name), optimizers.momentum(0.1)) == []


@pytest.mark.parametrize("rule", RULES)
def test_optimizers_wait_for_nothing(rule: str) -> None:
    assert waits(problems.get("mnist_logreg"), RULES[rule](0.1)) == []


@pytest.fixture
def by_aot_eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Traced as for a GPU, forward and backward, and run operation by operation: Inductor writes no code for `meta`."""
    step_module._make_steps.cache_clear()
    traced = functools.partial(torch.compile, backend="aot_eager", fullgraph=True, dynamic=False)
    monkeypatch.setattr(step_module, "compiled", lambda function, *more, **options: traced(function))
    yield
    step_module._make_steps.cache_clear()


@pytest.mark.usefixtures("by_aot_eager")
@pytest.mark.parametrize("name", ["mnist_logreg", *(pytest.param(name, marks=pytest.mark.large) for name in SIX[1:])])
def test_steps_are_one_graph_on_any_device(name: str) -> None:
    problem, optimizer = problems.get(name), optimizers.momentum(0.1)
    step, carry, given = prepared(problem, optimizer, Execution(compile=True))
    carry, metrics = step(carry, given)
    assert metrics.loss.shape == (STEPS,)
    assert {leaf.device for leaf in carry.params.values()} == {META}


def test_what_waits_is_seen() -> None:
    """The test of the test: an optimizer that reads a number, and one that brings a tensor along."""

    def reading(oracle: Any, state: Any, params: Any) -> Any:
        return {name: leaf * float(torch.ones(())) for name, leaf in params.items()}, state

    assert "_local_scalar_dense" in waits(problems.get("mnist_logreg"), Optimizer(lambda params, key: {}, reading))

    def bringing(oracle: Any, state: Any, params: Any) -> Any:
        return {name: leaf * torch.ones(leaf.shape).to(leaf.device) for name, leaf in params.items()}, state

    assert "_to_copy" in waits(problems.get("mnist_logreg"), Optimizer(lambda params, key: {}, bringing))

    def numbering(oracle: Any, state: Any, params: Any) -> Any:
        return {name: leaf * torch.tensor(0.5, device=leaf.device) for name, leaf in params.items()}, state

    assert "tensor" in waits(problems.get("mnist_logreg"), Optimizer(lambda params, key: {}, numbering))


def test_counting_calls_waits_for_nothing() -> None:
    def stepped(oracle: Any, state: Any, params: Any) -> Any:
        grads = oracle.grad()
        return {name: leaf - 0.1 * grads[name] for name, leaf in params.items()}, state

    assert waits(problems.get("mnist_logreg"), counted(Optimizer(lambda params, key: {}, stepped))) == []
