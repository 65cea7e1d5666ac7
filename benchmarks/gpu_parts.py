"""What `benchmarks.gpu` measures on a device: its peak, steps, epochs, probes and populations.

Times are those between two events on the device's own clock, over repetitions that follow each other without a wait.
"""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from benchmarks.ours import Paused
from benchmarks.peak import operations
from benchmarks.plain_loops import InMemory
from benchmarks.probes import ours as probe_functions
from benchmarks.shares import learning_rate, shortened
from benchmarks.steps import ModuleStep
from deepobs_func import RunConfig, problems, random
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.precision import precision
from deepobs_func.datasets.loading import load
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, Training, make_plan
from deepobs_func.runner.population.way import Shared
from deepobs_func.runner.population.ways import WAYS

Row = dict[str, Any]
Call = Callable[[], object]
ROUNDS = 5


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def milliseconds(call: Call, device: torch.device, least: float = 0.05) -> float:
    """Of one call: the median over rounds, each of at least so many seconds, of the device's own time."""
    call()
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    repeats = max(2, min(1000, int(least / max(time.perf_counter() - start, 1e-6))))
    return statistics.median(_round(call, device, repeats) for _ in range(ROUNDS))


def _round(call: Call, device: torch.device, repeats: int) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        return 1e3 * (time.perf_counter() - start) / repeats
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def peak(device: torch.device, tiny: bool) -> Row:
    """Gigabytes a second of a copy, read and written, and teraflops of square products in each type."""
    side, size = (64, 2**16) if tiny else (8192, 2**28)
    source, target = torch.ones(size, device=device), torch.empty(size, device=device)
    found = {"gigabytes": 2 * source.nbytes / milliseconds(functools.partial(target.copy_, source), device) / 1e6}
    found["launch_microseconds"] = 1e3 * milliseconds(functools.partial(torch.add, source[:1], 1), device)
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bf16", torch.bfloat16)):
        if name == "tf32" and device.type != "cuda":
            continue
        a, b = (random.normal(random.key(seed, device), (side, side)).to(dtype) for seed in (0, 1))
        with precision(name, device):
            found[name] = 2 * side**3 / milliseconds(functools.partial(torch.mm, a, b), device) / 1e9
    return found


def saved_bytes(problem: Problem, batch_size: int, device: torch.device) -> int:
    """What a step moves at least: parameters read twice and written, saved activations written and read, inputs."""
    params, state = problem.init(seed=0, device=device)
    batch = problem.fake_batch(batch_size, device=device)
    batch = batch._replace(state=state._replace(carry=problem.zero_carry(batch_size, device=device)))
    leaves = {name: leaf.requires_grad_() for name, leaf in params.items()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = problem.loss(leaves, batch)
    for leaf in leaves.values():
        seen.pop(leaf.untyped_storage().data_ptr(), None)
    del losses
    return 3 * sum(leaf.nbytes for leaf in params.values()) + 2 * sum(seen.values())


class Stepping:
    """Steps of a real run, one after the other, from the gather of the batch to the update."""

    def __init__(self, problem: Problem, device: torch.device, execution: Execution, name: str = "float32") -> None:
        config = RunConfig(problem.name, "sgd", learning_rate(problem), data="synthetic", output_dir=None, epochs=1)
        config = dataclasses.replace(
            config,
            device=str(device),
            precision=name,
            on_divergence="continue",
            deterministic=execution.deterministic,
        )
        self._plan = make_plan(config, problem)
        self._training = Training(self._plan, execution)
        self._inputs = self._training.batches.first(execution.steps_per_call)
        self._carry = self._training.from_zero(self._training.start().carry)
        self._name, self.steps = name, execution.steps_per_call

    def __call__(self) -> None:
        with self._training.execution.apply(self._name, self._plan.device):
            self._carry, _ = self._training.train_step(self._carry, self._inputs)


def executions(problem: Problem, device: torch.device, *, compile: bool = True) -> dict[str, tuple[Execution, str]]:
    """Every way of making a step that is measured, with its precision."""
    compile = compile and problem.compile_step
    found = {"ours, eager": (Execution(), "float32")}
    whole = Execution(compile=True, compile_batch=True)
    if compile:
        found["ours, compiled"] = (whole, "float32")
    if device.type == "cuda":
        found["ours, eager, graph"] = (Execution(compile_batch=True, cuda_graphs=True), "float32")
        if compile:
            several = dataclasses.replace(whole, cuda_graphs=True)
            found["ours, compiled, graph"] = (several, "float32")
            found["ours, compiled, graph, tf32"] = (several, "tf32")
            same = dataclasses.replace(several, deterministic=True)
            found["ours, compiled, graph, deterministic"] = (same, "float32")
    if any(leaf.ndim == 4 for leaf in problem.init(0)[0].values()):
        last = Execution(channels_last=True, cuda_graphs=device.type == "cuda")
        found["ours, eager, channels last"] = (last, "bf16" if device.type == "cuda" else "float32")
    return found


def steps(name: str, device: torch.device, tiny: bool, ready: Call) -> list[Row]:
    """Milliseconds of a step by each way, beside the plain compiled module; compiled before `ready` is called."""
    problem = problems.get(name)
    size = 8 if tiny else problem.batch_size
    problem = dataclasses.replace(shortened(problem, _share(problem, 20)), batch_size=size)
    calls: dict[str, tuple[Call, int, str]] = {}
    failed: list[Row] = []

    def prepared(by: str, make: Callable[[], Any], of: str) -> None:
        try:
            call = make()
            for _ in range(3):
                call()
            wait(device)
            calls[by] = (call, getattr(call, "steps", 1), of)
        except Exception as error:  # one way that fails costs itself alone
            failed.append({"by": by, "error": f"{type(error).__name__}: {error}"[:500]})

    module = functools.partial(ModuleStep, problem, size, device)
    prepared("module, eager", functools.partial(module, compile=False), "float32")
    for by, (execution, of) in executions(problem, device, compile=not tiny).items():
        prepared(by, functools.partial(Stepping, problem, device, execution, of), of)
    if not tiny and (problem.compile_step or device.type == "cuda"):
        update = "fused" if device.type == "cuda" else "loop"
        prepared("module, compiled", functools.partial(module, compile=True, update=update), "float32")
    ready()
    least_bytes, flops = saved_bytes(problem, size, device), operations(problem, size, device)
    rows: list[Row] = []
    for by, (call, count, of) in calls.items():
        with precision(of if by.startswith("ours") else "float32", device):
            took = milliseconds(call, device) / count
        rows.append({"by": by, "precision": of, "milliseconds": took, "flops": flops, "bytes": least_bytes})
    return rows + failed


def _share(problem: Problem, batches: int) -> float:
    """Of the data set, as much as so many batches."""
    if problem.dataset.generated:
        return 1.0
    one = problem.batch_size * (problem.dataset.sequence_length or 1)
    return min(1.0, batches * one / problem.dataset.train_size)


def epochs(name: str, device: torch.device, tiny: bool, ready: Call) -> list[Row]:
    """Seconds of an epoch with its evaluation, on stand-in data, beside a plain loop that holds all in memory."""
    problem = problems.get(name)
    share = _share(problem, 3) if tiny else 1.0
    problem = shortened(problem, share)
    data = load(problem.dataset, "synthetic", device).arranged(problem.batch_size)
    # Not "auto": what it measures would be measured while other processes compile.
    ours = Paused(problem, "synthetic", "on" if problem.compile_step and not tiny else "off", share)
    loop = InMemory(problem, data)
    loop.epoch()
    ours.epoch()
    ready()
    rows = []
    for by, call in (("ours", ours.epoch), ("plain loop", loop.epoch)):
        seconds = [_seconds(call, device) for _ in range(2 if tiny else 3)]
        rows.append({"by": by, "seconds": statistics.median(seconds)})
    rows[0]["execution"] = ours.execution
    ours.stop()
    return rows


def _seconds(call: Call, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def probes(name: str, device: torch.device, tiny: bool, ready: Call) -> list[Row]:
    """Probes as multiples of the plain gradient, in eager and in compiled code."""
    problem = problems.get(name)
    size = 4 if tiny else problem.batch_size
    params, _ = problem.init(seed=0, device=device)
    batch = problem.fake_batch(size, seed=1, device=device)._replace(noise={})
    key = random.key(2, device)
    v = {name: random.normal(random.fold_in(key, i), leaf.shape) for i, (name, leaf) in enumerate(params.items())}
    functions = {"grad": lambda p, b, v: make_value_and_grad(problem)(p, b), **probe_functions(problem)}
    if tiny:
        functions = {quantity: functions[quantity] for quantity in ("grad", "variance", "hvp")}
    calls: dict[tuple[str, str], Call] = {
        ("grad", "plain"): functools.partial(make_plain_value_and_grad(problem), params, batch)
    }
    failed: list[Row] = []
    for quantity, function in functions.items():
        for mode in ("eager",) if tiny else ("eager", "compiled"):
            made = functools.partial(function if mode == "eager" else compiled(function, problem), params, batch, v)
            try:
                made()
                calls[quantity, mode] = made
            except Exception as error:
                failed.append({"quantity": quantity, "mode": mode, "error": f"{type(error).__name__}: {error}"[:500]})
    wait(device)
    ready()
    with precision("float32", device):
        took = {each: milliseconds(call, device, 0.03) for each, call in calls.items()}
    unit = {"plain": ("grad", "plain"), "eager": ("grad", "plain"), "compiled": ("grad", "compiled")}
    return [
        {
            "quantity": quantity,
            "mode": mode,
            "milliseconds": took[quantity, mode],
            "ratio": took[quantity, mode] / took[unit[mode]],
        }
        for quantity, mode in took
        if unit[mode] in took
    ] + failed


def populations(name: str, device: torch.device, tiny: bool, ready: Call) -> list[Row]:
    """Milliseconds of a step of a member, by `vmap` over more and more members, and of one alone."""
    problem = shortened(problems.get(name), _share(problems.get(name), 3 if tiny else 20))
    base = RunConfig(name, "momentum", 1e-3, data="synthetic", output_dir=None, epochs=1, device=str(device))
    graphs = device.type == "cuda"
    rows: list[Row] = []
    calls: dict[tuple[int, bool], Call] = {}
    for members in (1, 2) if tiny else (1, 8, 64):
        plans = [make_plan(dataclasses.replace(base, lr=1e-3 / (1 + index)), problem) for index in range(members)]
        for compile in (False,) if tiny else (False, True):
            execution = Execution(
                way="vmap", members=members, compile=compile, compile_batch=compile, cuda_graphs=graphs
            )
            try:
                with execution.apply("float32", device):
                    made = WAYS["vmap"](Shared.of(plans[0]), plans, execution)
                    iterator = made.first_calls()
                    next(iterator)
                    next(iterator)
                calls[members, compile] = functools.partial(next, iterator)
            except Exception as error:
                rows.append({"members": members, "compile": compile, "error": f"{type(error).__name__}: {error}"[:500]})
    ready()
    for (members, compile), call in calls.items():
        with precision("float32", device):
            took = milliseconds(call, device)
        rows.append({"members": members, "compile": compile, "milliseconds": took, "of_a_member": took / members})
    return rows


PARTS: dict[str, tuple[Callable[..., list[Row]], tuple[str, ...]]] = {
    "steps": (
        steps,
        (
            *("mnist_mlp", "mnist_2c2d", "cifar10_3c3d", "svhn_wrn164", "cifar100_allcnnc", "tolstoi_char_rnn"),
            *("quadratic_deep", "mnist_vae", "cifar100_wrn404", "cifar100_vit"),
        ),
    ),
    "epochs": (epochs, ("mnist_mlp", "mnist_2c2d", "cifar10_3c3d", "quadratic_deep", "tolstoi_char_rnn")),
    "probes": (probes, ("mnist_2c2d", "cifar10_3c3d")),
    "populations": (populations, ("mnist_logreg", "mnist_mlp")),
}
