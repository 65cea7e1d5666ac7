"""One step by two processes of one thread each, on halves of the batch, beside one process of two threads.

    python -m benchmarks.ranks [--problems mnist_2c2d ...] [--rounds 7] [--results DIR] [--quick]

Eager steps of SGD on a batch that lies there. The processes talk by gloo; they take turns with the one process, which
stands still meanwhile.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks import recording, tables
from benchmarks.recording import RESULTS, Run
from benchmarks.shares import learning_rate
from benchmarks.tables import Target
from deepobs_func import optimizers, problems, random
from deepobs_func.backend import ranks as ranks_of
from deepobs_func.backend.kernels import using
from deepobs_func.backend.memory import keep_freed_memory
from deepobs_func.base import map_inputs
from deepobs_func.problems.pieces import Parts
from deepobs_func.runner import make_step
from deepobs_func.runner.step import Carry

PROBLEMS = ("mnist_2c2d", "cifar10_3c3d", "cifar100_allcnnc")
PROCESSES = 2
LEAST = 0.9  # of the speed of one process with as many threads
SECONDS = 1.0  # of a turn


def stepping(name: str, batch_size: int) -> Callable[[], None]:
    """A call of the next step, on this process's shard of a batch."""
    problem, ranks = problems.get(name), ranks_of.current()
    optimizer = optimizers.sgd(learning_rate(problem))
    step = make_step(problem, optimizer, plain=True, parts=Parts(0, ranks))
    params, state = problem.init(0)
    batch = problem.fake_batch(batch_size)
    x, noise = map_inputs(ranks.shard, batch.x), ranks.shards(batch.noise)
    batch = batch._replace(x=x, y=ranks.shard(batch.y), noise=noise, state=state)
    carry = Carry(params, optimizer.init(params, random.key(0)), state)

    def call() -> None:
        nonlocal carry
        with using(onednn=False):
            carry, _ = step(carry, batch)

    return call


def _member(rank: int, folder: str, name: str, batch_size: int, connection: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=PROCESSES)
    call = stepping(name, batch_size)
    while (repeats := connection.recv()) is not None:
        dist.barrier()
        connection.send(seconds(call, repeats))
    dist.destroy_process_group()


def seconds(call: Callable[[], None], repeats: int) -> float:
    """Of one call, on average."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def measure(name: str, rounds: int, quick: bool) -> Run:
    """Milliseconds of a step by both, in turns, and the speed of the processes as a share of that of the threads."""
    keep_freed_memory()
    torch.set_num_threads(1)  # before processes are forked
    batch_size = 8 if quick else problems.get(name).batch_size
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        pipes = [context.Pipe() for _ in range(PROCESSES)]
        members = [
            context.Process(target=_member, args=(rank, folder, name, batch_size, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for member in members:
            member.start()

        def together(repeats: int) -> float:
            for ours, _ in pipes:
                ours.send(repeats)
            return max(ours.recv() for ours, _ in pipes)

        once = together(2)
        torch.set_num_threads(PROCESSES)
        alone = stepping(name, batch_size)
        seconds(alone, 2)
        repeats = 1 if quick else max(1, round(SECONDS / once))
        turns = [(together(repeats), seconds(alone, repeats)) for _ in range(rounds)]
        for ours, _ in pipes:
            ours.send(None)
        for member in members:
            member.join()
    found = [one / several for several, one in turns]
    low, _, high = statistics.quantiles(found, n=4, method="inclusive")
    return {
        "problem": name,
        "threads": PROCESSES,
        "batch_size": batch_size,
        "processes_milliseconds": 1e3 * statistics.median(several for several, _ in turns),
        "threads_milliseconds": 1e3 * statistics.median(one for _, one in turns),
        "ratio": statistics.median(found),
        "quartiles": [low, high],
        "environment": recording.environment(),
    }


def targets(run: Run) -> list[Target]:
    """No slower than nine tenths."""
    return [Target("of the speed of one process with as many threads:", run["ratio"], LEAST)]


def summary(runs: list[Run]) -> str:
    """A line a problem."""
    lines = [
        [
            run["problem"],
            str(run["batch_size"]),
            f"{run['processes_milliseconds']:.3g} ms",
            f"{run['threads_milliseconds']:.3g} ms",
            tables.ratio(run),
            "met" if all(target.met for target in targets(run)) else "missed",
        ]
        for run in runs
    ]
    header = ["a step", "batch", "two processes of a thread", "one process of two threads", "speed", "target 0.9"]
    return tables.table(header, lines)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--quick", action="store_true", help="small batches: does it run?")
    options = parser.parse_args(arguments)
    os.environ["OMP_NUM_THREADS"] = str(PROCESSES)
    for name in options.problems:
        run = measure(name, options.rounds, options.quick)
        print(summary([run]), flush=True)
        if not options.quick:
            recording.write(options.results / "ranks.json", run)


if __name__ == "__main__":
    main()
