"""The cost of a step against its size: examples in a batch, width of a net, members of a population.

    python -m benchmarks.scaling [--problems batch width ...] [--threads 1 2] [--rounds 15] [--quick]

Each is fitted by a power of the size, by least squares on the logarithms: once over all sizes and once over the larger
half, where the overhead of a step counts less. With matplotlib there is a figure beside the results.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils._pytree import tree_map

from benchmarks import recording, tables
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.shares import learning_rate
from benchmarks.steps import OurStep
from benchmarks.timing import clock_for, interleaved
from deepobs_func import optimizers, problems, random
from deepobs_func.base import ModelState
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import make_step
from deepobs_func.runner.step import Carry

Call = Callable[[], Any]
BUDGET = 5.0
FITS = ("exponent", "exponent_of_the_larger")
SIZES = {
    "batch of mnist_mlp": (32, 64, 128, 256, 512, 1024, 2048),
    "batch of cifar10_3c3d": (32, 64, 128, 256, 512),
    "width of a dense net": (32, 64, 128, 256, 512, 1024, 2048),
    "members of mnist_logreg": (1, 2, 4, 8, 16, 32, 64),
    "members of mnist_mlp": (1, 2, 4, 8, 16),
}


def dense(width: int) -> Problem:
    """784-width-width-10 on MNIST."""
    torch.manual_seed(0)
    layers = (nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
    net = nn.Sequential(nn.Flatten(), *layers)
    return problems.from_module(net, lambda logits, y: cross_entropy(logits, y, reduction="none"), "mnist")


class Population:
    """The step under `vmap` over members that differ in their seed, all on one batch."""

    def __init__(self, problem: Problem, members: int, device: torch.device, *, compile: bool) -> None:
        optimizer = optimizers.sgd(learning_rate(problem))
        key = random.key(0, device)

        def start(seed: int) -> Carry:
            params, state = problem.init(seed=seed, device=device)
            return Carry(params, optimizer.init(params, key), state)

        self._carry = tree_map(lambda *leaves: torch.stack(leaves), *map(start, range(members)))
        self._batch = problem.fake_batch(problem.batch_size, device=device)._replace(state=ModelState({}, {}))
        step = torch.func.vmap(make_step(problem, optimizer), in_dims=(0, None))
        self._step = torch.compile(step, fullgraph=True, dynamic=False) if compile else step

    def __call__(self) -> None:
        self._carry, _ = self._step(self._carry, self._batch)


def step_for(family: str, size: int, device: torch.device, *, compile: bool) -> Call:
    """The step of one size of a family."""
    what, _, of = family.partition(" of ")
    if what == "members":
        return Population(problems.get(of), size, device, compile=compile)
    if what == "batch":
        return OurStep(problems.get(of), size, device, compile=compile)
    return OurStep(dense(size), 128, device, compile=compile)


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of the line through the logarithms."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(each) for each in seconds]).slope


def measure(family: str, settings: Settings) -> Run:
    """Times the steps of a family, eager and compiled."""
    torch.set_num_threads(settings.threads)
    device = recording.device()
    sizes = SIZES[family][:2] if settings.quick else SIZES[family]
    rows = []
    for mode in ("eager",) if settings.quick else ("eager", "compiled"):
        calls = {size: step_for(family, size, device, compile=mode == "compiled") for size in sizes}
        for call in calls.values():
            call()
            call()
        times = interleaved(calls, settings.rounds, clock_for(settings.threads, device.type), budget=BUDGET)
        seconds = [times[size].median for size in sizes]
        half = len(sizes) // 2 if len(sizes) > 3 else 0
        rows.append(
            {
                "mode": mode,
                "exponent": round(exponent(sizes, seconds), 3),
                "exponent_of_the_larger": round(exponent(sizes[half:], seconds[half:]), 3),
                "ratios": [round(times[size].ratio(times[sizes[0]]), 3) for size in sizes],
                "milliseconds": [round(1e3 * each, 4) for each in seconds],
            }
        )
    return {"sizes": list(sizes), "device": device.type, "rows": rows}


def report(run: Run) -> str:
    """Ratios to the smallest size, and the fits."""
    header = [tables.heading(run), *map(str, run["sizes"]), "exponent", "of the larger half"]
    lines = [
        [row["mode"], *(f"{each:.3g}" for each in row["ratios"]), *(f"{row[fit]:.2f}" for fit in FITS)]
        for row in run["rows"]
    ]
    return f"{tables.table(header, lines)}\n"


def summary(runs: list[Run]) -> str:
    """A line a family and mode."""
    lines = []
    for run in runs:
        for row in run["rows"]:
            ends = (f"{row['milliseconds'][at]:.3g} ms at {run['sizes'][at]}" for at in (0, -1))
            fits = (f"{row[fit]:.2f}" for fit in FITS)
            lines.append([run["problem"], str(run["threads"]), row["mode"], *ends, *fits])
    header = ["", "threads", "", "from", "to", "exponent", "of the larger half"]
    return tables.table(header, lines)


def plot(runs: list[Run], path: Path) -> None:
    """All families, a panel each: milliseconds against the size, on logarithmic axes, and the fitted powers."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(runs), figsize=(3.2 * len(runs), 3), squeeze=False, layout="constrained")
    for axis, run in zip(axes[0], runs, strict=True):
        for row in run["rows"]:
            axis.plot(run["sizes"], row["milliseconds"], "o-", label=f"{row['mode']}: size^{row['exponent']:.2f}")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(run["sizes"], [str(size) for size in run["sizes"]], fontsize="x-small")
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_title(f"{run['problem']}\n{run['threads']} thread(s)", fontsize="medium")
        axis.set_xlabel(run["problem"].split()[0])
        axis.legend(fontsize="small")
    axes[0][0].set_ylabel("ms a step")
    figure.savefig(path)
    plt.close(figure)


BENCHMARK = Benchmark("scaling", tuple(SIZES), measure, report)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
