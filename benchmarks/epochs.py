"""An epoch from end to end, training and the evaluation that DeepOBS asks for: ours beside two plain loops.

    python -m benchmarks.epochs [--problems mnist_mlp ...] [--threads 1 2] [--rounds 15] [--data DIR] [--quick]

Ours is `deepobs run` by its own clock, which leaves out compilation, compiled and not. The faster one is the unit, and
it is said which of them `--compile auto` takes for a run of the default length. The plain loops
(`benchmarks/plain_loops.py`) hold everything in memory, or load it with torchvision's transforms and a DataLoader. All
take turns, an epoch each, or a stated share of one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import recording, tables
from benchmarks.ours import Paused
from benchmarks.plain_loops import InMemory, Loop, WithLoader
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.shares import SHARES, data_for, shortened
from benchmarks.tables import Target
from benchmarks.timing import Times, in_turns
from deepobs_func import problems
from deepobs_func.datasets.loading import load

PROBLEMS = (
    *("mnist_logreg", "mnist_mlp", "mnist_2c2d", "mnist_vae", "cifar10_3c3d", "cifar100_allcnnc", "svhn_wrn164"),
    *("tolstoi_char_rnn", "quadratic_deep", "two_d_rosenbrock", "two_d_beale", "two_d_branin"),
)
BUDGET = 10.0  # seconds for the epochs of each that takes part
LEAST = 0.2  # seconds of a turn
MOST_QUICK = 0.02  # of an epoch
# Processes that load, and whether they are kept: as DeepOBS's own PyTorch port has it, and two ways that can be faster.
LOADERS = {
    "DataLoader as in the port": (1, False),
    "DataLoader, 0 workers": (0, False),
    "DataLoader, 2 workers": (2, True),
}

IN_MEMORY, PORT = "in memory", "DataLoader as in the port"
OVER_THE_LOADER = {"mnist_logreg": 40.0, "mnist_mlp": 3.3}
OVER_MEMORY = {"mnist_logreg": 1.5, "mnist_mlp": 1.1, "quadratic_deep": 1.5, "two_d": 3.0}


def measure(name: str, settings: Settings) -> Run:
    """Times the epochs of one problem."""
    torch.set_num_threads(settings.threads)
    problem = problems.get(name)
    large = settings.quick and problem.dataset.train_size > 1000
    share = min(SHARES.get(name, 1.0), MOST_QUICK if large else 1.0)
    problem = shortened(problem, share)
    source = data_for(problem, settings.data)
    data = load(problem.dataset, source, recording.device()).arranged(problem.batch_size)
    auto = Paused(problem, source, "auto", share)
    ours = [auto]
    if problem.compile_step:  # else a run never compiles it: the recurrent net's fifty steps take the compiler minutes
        ours.append(Paused(problem, source, "off" if auto.execution["compile"] else "on", share))
    runs = {_name(run): run for run in ours}
    loops: dict[str, Loop] = {IN_MEMORY: InMemory(problem, data)}
    loops |= {by: WithLoader(problem, data, workers, kept) for by, (workers, kept) in LOADERS.items()}
    calls = {by: run.epoch for by, run in runs.items()} | {by: _timed(loop) for by, loop in loops.items()}
    once = {by: min(call(), call()) for by, call in calls.items()}
    turns = {by: _several(call, once[by]) for by, call in calls.items()}
    times = in_turns(turns, once, settings.rounds, budget=BUDGET)
    faster = min(runs, key=lambda by: times[by].median)
    rows = [_row(by, times, faster) | {"execution": runs[by].execution if by in runs else None} for by in times]
    for run in ours:
        run.stop()
    about = {"synthetic": data.synthetic, "source": data.source, "share": share, "auto": _name(auto)}
    return {**about, "rows": rows}


def _name(run: Paused) -> str:
    return "ours, compiled" if run.execution["compile"] else "ours, eager"


def _timed(loop: Loop) -> Callable[[], float]:
    def epoch() -> float:
        start = time.perf_counter()
        loop.epoch()  # its results are numbers, so that a GPU has come to an end
        return time.perf_counter() - start

    return epoch


def _several(epoch: Callable[[], float], once: float) -> Callable[[], float]:
    """A turn of several epochs, where one is short: the seconds of one, on average."""
    repeats = max(1, round(LEAST / once))
    return lambda: sum(epoch() for _ in range(repeats)) / repeats


def _row(by: str, times: dict[str, Times], faster: str) -> dict[str, Any]:
    """How many times as long as ours it takes, compiled or not, whichever is faster."""
    return {
        "by": by,
        "reference": by == faster,
        "ratio": round(times[by].ratio(times[faster]), 3),
        "quartiles": [round(each, 3) for each in times[by].spread(times[faster])],
        "seconds": round(times[by].median, 6),
        "turns": len(times[by].seconds),
    }


def targets(run: Run) -> list[Target]:
    """How many times as fast as others ours should be, compiled or not, whichever is faster."""
    name, found = run["problem"], []
    (memory,) = (row for row in run["rows"] if row["by"] == IN_MEMORY)
    bound = next((bound for prefix, bound in OVER_MEMORY.items() if name.startswith(prefix)), None)
    if bound is not None:
        found.append(Target("times as fast as the loop in memory:", memory["ratio"], bound))
    else:  # within noise
        found.append(Target("times as fast as the loop in memory, upper quartile:", memory["quartiles"][1], 1.0))
    if name in OVER_THE_LOADER:
        value = loader(run)["ratio"]
        found.append(Target("times as fast as the loop with a DataLoader:", value, OVER_THE_LOADER[name]))
    return found


def loader(run: Run) -> dict[str, Any]:
    """The row of the loop with a DataLoader as DeepOBS's own PyTorch port has it."""
    (found,) = (row for row in run["rows"] if row["by"] == PORT)
    return found


def report(run: Run) -> str:
    """Ratios to ours in the faster mode, and whether the targets are met."""
    lines = [
        [
            row["by"] + (" (--compile auto)" if row["by"] == run["auto"] else ""),
            tables.ratio(row),
            f"{row['seconds']:.4g}",
        ]
        for row in run["rows"]
    ]
    table = tables.table([tables.heading(run), "times as long as ours", "seconds"], lines)
    return f"{table}\n{tables.verdicts(targets(run))}\n"


def by_default(run: Run) -> Run:
    """The run with every ratio to what `--compile auto` takes, instead of to the faster of compiled and eager."""
    (auto,) = (row["ratio"] for row in run["rows"] if row["by"] == run["auto"])
    rows = [
        {**row, "ratio": row["ratio"] / auto, "quartiles": [each / auto for each in row["quartiles"]]}
        for row in run["rows"]
    ]
    return {**run, "rows": rows}


def summary(runs: list[Run]) -> str:
    """All problems in one table: how many times as long as ours by default, `--compile auto`, the others take."""
    lines = []
    for run in map(by_default, runs):
        rows = {row["by"]: row for row in run["rows"]}
        ours = rows[run["auto"]]
        fastest = min((row for row in run["rows"] if row["by"].startswith("ours, ")), key=lambda row: row["ratio"])
        missed = ["missed" for target in targets(run) if not target.met]
        lines.append(
            [
                run["problem"] + (" (stand-in data)" if run["synthetic"] else ""),
                str(run["threads"]),
                f"{ours['seconds'] / run['share']:.3g} s ({run['auto'].removeprefix('ours, ')})",
                f"{rows[IN_MEMORY]['ratio']:.2f}",
                f"{loader(run)['ratio']:.1f}",
                f"{fastest['ratio']:.2f} ({fastest['by'].removeprefix('ours, ')})",
                ", ".join(missed[:1]) or "met",
            ]
        )
    header = ["", "threads", "`--compile auto`, an epoch", "plain, in memory", "plain, DataLoader", "ours, faster mode"]
    return tables.table([*header, "targets"], lines)


BENCHMARK = Benchmark("epochs", PROBLEMS, measure, report)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
