"""A guard against slower code that does not look at the clock: how much work a step and a probe are.

Counted are tensor operations and Python's function calls of warm eager code, and kernels of compiled code: figures that
another program on the machine does not change. `python -m tests.runner.test_cost` counts anew, for when a cost has
changed on purpose.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch._inductor.config
import torch._inductor.metrics
from torch._inductor.async_compile import AsyncCompile
from torch.utils._python_dispatch import TorchDispatchMode

from deepobs_func import optimizers, probes, problems, random
from deepobs_func.base import Batch, Params
from deepobs_func.datasets.loading import Split
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.step import Carry, StepInput, TrainStep, make_train_step
from tests.nets.test_modern import narrow

FILE = Path(__file__).with_name("costs.json")
KNOWN: dict[str, dict[str, int]] = json.loads(FILE.read_text()) if FILE.exists() else {}
STEPS = (
    *("two_d_rosenbrock", "quadratic_deep", "mnist_logreg", "mnist_mlp", "mnist_2c2d", "mnist_vae", "cifar10_3c3d"),
    *("cifar100_allcnnc", "svhn_wrn164", "tolstoi_char_rnn"),
)
COMPILED = ("two_d_rosenbrock", "quadratic_deep", "mnist_logreg")
PROBED = ("mnist_mlp", "mnist_2c2d", "cifar10_3c3d")
NARROW = ("cifar10_resnet18_gn", "cifar100_vit", "tolstoi_gpt")  # made narrow: the operations are those of a block
SLACK = 1.05  # for Python's calls, some of which are the library's own
BATCH = 4


class Operations(TorchDispatchMode):
    """Counts the tensor operations that reach a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """Of a call that was made before."""
    call()
    with Operations() as counted:
        call()
    return counted.count


def python_calls(call: Callable[[], object]) -> int:
    """Python functions that a call enters, once it is warm."""
    call()
    count = 0

    def hear(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(hear)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def train_step(problem: Problem, choice: Execution) -> Callable[[], object]:
    """A step of SGD on random data."""
    optimizer, key = optimizers.sgd(0.01), random.key(0)
    step: TrainStep = make_train_step(problem, optimizer, choice)
    params, state = problem.init(key)
    carry = Carry(params, optimizer.init(params, key), state._replace(carry=problem.zero_carry(BATCH)))
    x, y = problem.dataset.function("fake")(problem.dataset, key, BATCH, torch.float32)
    split = Split((x * 255).to(torch.uint8) if problem.dataset.augment else x, y)
    k = choice.steps_per_call
    spec = problem.dataset
    draws = spec.function("draw")(random.split(key, k), BATCH, torch.float32) if spec.augment else ()
    given = StepInput(split, torch.arange(BATCH).expand(k, BATCH), key.expand(k, 2), draws)
    return lambda: step(carry, given)


def probe_calls(problem: Problem) -> dict[str, Callable[[], object]]:
    """The per-example probes and the curvature products, in eager code."""
    params: Params = problem.init(0)[0]
    batch: Batch = problem.fake_batch(BATCH)
    return {
        "norms": lambda: probes.per_example_sq_norms(problem, params, batch),
        "variance": lambda: probes.grad_variance(problem, params, batch),
        "gram": lambda: probes.gram(problem, params, batch),
        "hvp": lambda: probes.hvp(problem, params, batch, params),
        "ggnvp": lambda: probes.ggnvp(problem, params, batch, params),
    }


class KernelCalledError(Exception):
    """A generated kernel was called."""


def _not_compiled(compiler: AsyncCompile, types: list[str], source: str) -> Callable[..., None]:
    """In the place of a kernel that a C++ compiler would take a second for, and nobody wants the results of."""

    def kernel(*arguments: object) -> None:
        raise KernelCalledError

    return kernel


def kernels(problem: Problem) -> int:
    """That Inductor generates for two steps in one call; they are counted, and not compiled."""
    torch._inductor.metrics.reset()
    with (
        torch._inductor.config.patch(force_disable_caches=True),
        mock.patch.object(AsyncCompile, "cpp_pybinding", _not_compiled),
        contextlib.suppress(KernelCalledError),
    ):
        train_step(problem, Execution(compile=True, steps_per_call=2))()
    return torch._inductor.metrics.generated_kernel_count


def found(name: str) -> Problem:
    """A problem, of a net that is cheap to run."""
    return narrow(name) if name in NARROW else problems.get(name)


def counted() -> dict[str, dict[str, int]]:
    """Everything, anew."""
    steps = {name: train_step(found(name), Execution()) for name in (*STEPS, *NARROW)}
    probed = {f"{name} {what}": call for name in (*PROBED, *NARROW) for what, call in probe_calls(found(name)).items()}
    return {
        "operations": {what: operations(call) for what, call in {**steps, **probed}.items()},
        "python calls": {name: python_calls(call) for name, call in steps.items()},
        "kernels": {name: kernels(problems.get(name)) for name in COMPILED},
    }


@pytest.mark.parametrize("name", [*STEPS, *NARROW])
def test_a_step_is_no_more_work_than_it_was(name: str) -> None:
    call = train_step(found(name), Execution())
    assert operations(call) <= KNOWN["operations"][name]
    assert python_calls(call) <= SLACK * KNOWN["python calls"][name]


@pytest.mark.parametrize("name", [*PROBED, *NARROW])
def test_a_probe_is_no_more_work_than_it_was(name: str) -> None:
    for what, call in probe_calls(found(name)).items():
        assert operations(call) <= KNOWN["operations"][f"{name} {what}"], what


@pytest.mark.large
@pytest.mark.parametrize("name", COMPILED)
def test_a_compiled_step_has_no_more_kernels_than_it_had(name: str) -> None:
    assert 0 < kernels(problems.get(name)) <= KNOWN["kernels"][name]


def test_the_counters_count() -> None:
    x = torch.ones(3)
    assert operations(lambda: x + x * x) == 2
    assert python_calls(lambda: [str(i) for i in range(3)]) <= 3


if __name__ == "__main__":
    FILE.write_text(json.dumps(counted(), indent=1) + "\n")
