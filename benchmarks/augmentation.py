"""CIFAR's augmentation of a batch: ours beside torchvision's transforms of one image at a time, and beside the step.

    python -m benchmarks.augmentation [--problems cifar10_3c3d] [--threads 1 2] [--rounds 15] [--quick]

Ours takes the rows of a batch out of a set of bytes on the device and distorts them, as one compiled function and in
eager code. The images are random bytes, on which it costs the same.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks import recording, tables
from benchmarks.plain_images import Images, augmented, flips, transforms
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.steps import OurStep
from benchmarks.tables import Target
from benchmarks.timing import clock_for, interleaved
from deepobs_func import problems, random
from deepobs_func.datasets.loading import Split
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.step import Gather, make_gather

PROBLEMS = ("cifar10_3c3d",)
HELD = 10_000  # images, of which a batch takes some
BUDGET = 20.0
TIMES_AS_FAST, SHARE_OF_THE_STEP = 20.0, 0.1
COMPILED, EAGER, STEP, BATCHED, SINGLY = (
    *("ours, compiled", "ours, eager", "the compiled step"),
    *("plain, batched", "torchvision, image by image"),
)


class _Draws:
    """The random numbers of batch after batch, drawn for an epoch at once as in a run."""

    def __init__(self, problem: Problem, batch_size: int, key: random.Key) -> None:
        self._draw, self._batch_size = problem.dataset.function("draw"), batch_size
        self._key, self._steps = key, problem.dataset.batches(problem.dataset.train_size, batch_size)
        self._left: list[Any] = []

    def __next__(self) -> Any:
        if not self._left:
            (self._key,) = random.split(self._key, 1)
            epoch = self._draw(random.split(self._key, self._steps), self._batch_size, torch.float32)
            self._left = [tree_map(operator.itemgetter(step), epoch) for step in range(self._steps)]
        return self._left.pop()


def calls_for(problem: Problem, batch_size: int, device: torch.device) -> dict[str, Callable[[], Any]]:
    """Everything that takes turns."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (HELD, *problem.dataset.shape), dtype=torch.uint8, generator=generator)
    rows = torch.randperm(HELD, generator=generator)[:batch_size]
    images = Images(Split(x, torch.zeros(HELD, dtype=torch.int64)), transforms(problem.dataset, augment=True))
    held, at, key = x.to(device), rows.to(device), random.key(0, device)
    gather, data = make_gather(problem, augment=True), Split(held, torch.zeros(HELD, dtype=torch.int64, device=device))
    draws = _Draws(problem, batch_size, key)

    def ours(gather: Gather) -> Tensor:
        return gather(data, at, next(draws))[0]

    compiled = torch.compile(gather, fullgraph=True, dynamic=False)
    flip, listed = flips(problem.dataset), rows.tolist()
    return {
        COMPILED: lambda: ours(compiled),
        EAGER: lambda: ours(gather),
        BATCHED: lambda: augmented(held[at], flip=flip),
        SINGLY: lambda: torch.stack([images[row][0] for row in listed]).to(device),
        STEP: OurStep(problem, batch_size, device, compile=True),
    }


def measure(name: str, settings: Settings) -> Run:
    """Times the augmentation of one data set."""
    torch.set_num_threads(settings.threads)
    device, problem = recording.device(), problems.get(name)
    batch_size = 8 if settings.quick else problem.batch_size
    calls = calls_for(problem, batch_size, device)
    for call in calls.values():
        call()
        call()
    times = interleaved(calls, settings.rounds, clock_for(settings.threads, device.type), budget=BUDGET)
    rows = [
        {
            "by": by,
            "ratio": round(times[by].ratio(times[COMPILED]), 3),
            "quartiles": [round(each, 3) for each in times[by].spread(times[COMPILED])],
            "milliseconds": round(1e3 * times[by].median, 4),
        }
        for by in calls
    ]
    return {"batch_size": batch_size, "device": device.type, "rows": rows}


def targets(run: Run) -> list[Target]:
    """Faster than image by image, and little beside the step."""
    ratios = {row["by"]: row["ratio"] for row in run["rows"]}
    return [
        Target("times as fast as torchvision's transforms:", ratios[SINGLY], TIMES_AS_FAST),
        Target("of the step:", 1 / ratios[STEP], SHARE_OF_THE_STEP, least=False),
    ]


def report(run: Run) -> str:
    """Ratios to our compiled function, and whether the targets are met."""
    lines = [[row["by"], tables.ratio(row), f"{row['milliseconds']:.4g}"] for row in run["rows"]]
    header = [tables.heading(run, f"a batch of {run['batch_size']}"), "times as long as ours", "ms"]
    return f"{tables.table(header, lines)}\n{tables.verdicts(targets(run))}\n"


def summary(runs: list[Run]) -> str:
    """A line for each number of threads."""
    lines = []
    for run in runs:
        rows = {row["by"]: row for row in run["rows"]}
        lines.append(
            [
                run["problem"],
                str(run["threads"]),
                f"{rows[COMPILED]['milliseconds']:.3g} ms",
                *(f"{rows[by]['ratio']:.1f}" for by in (EAGER, BATCHED, SINGLY)),
                f"{1 / rows[STEP]['ratio']:.3f}",
                "met" if all(target.met for target in targets(run)) else "missed",
            ]
        )
    header = ["", "threads", "ours", "eager", "plain, batched", "torchvision", "of the step", "20 times, below 0.1"]
    return tables.table(header, lines)


BENCHMARK = Benchmark("augmentation", PROBLEMS, measure, report)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
