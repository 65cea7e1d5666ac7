"""Start-up, in fresh processes: imports, `deepobs list`, and the first step, eager, compiled, and compiled once more.

    python -m benchmarks.start [--problems mnist_mlp ...] [--threads 1 2] [--rounds 15] [--quick]

The first step is what a run does off its clock before it starts: a step and an evaluation, thrown away. A cold one has
an empty compile cache, a cached one that of a cold one before it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import recording, tables
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.tables import Target

PROBLEMS = ("mnist_logreg", "mnist_mlp", "cifar10_3c3d")
MOST_ROUNDS = 5
CACHED = 1 / 3  # of the cold one, at most
COMMANDS = {
    "python": "pass",
    "import torch": "import torch",
    "import deepobs_func": "import deepobs_func",
    "deepobs list": "import sys; sys.argv[1:] = ['list']; from deepobs_func.cli import main; main()",
}
EAGER, COLD, WARM = "first step, eager", "first step, cold", "first step, cached"
SHARE = 0.02  # of the data: they are no part of what is measured


def _seconds(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
    """Of a process, and what it wrote."""
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return time.perf_counter() - start, done.stdout


def _first_steps(name: str, threads: int, environment: dict[str, str]) -> dict[str, float]:
    """In this order, with a cache of its own for each round."""
    found = {}
    with tempfile.TemporaryDirectory() as cache:
        # What is kept from run to run beside compiled code goes there too.
        fresh = {**environment, "TORCHINDUCTOR_CACHE_DIR": cache, "XDG_CACHE_HOME": cache}
        for by, compile in ((EAGER, "off"), (COLD, "on"), (WARM, "on")):
            command = [sys.executable, "-m", "benchmarks.start", "--first-step", name, compile, str(threads)]
            _, text = _seconds(command, fresh)
            found[by] = float(json.loads(text.splitlines()[-1]))
    return found


def first_step(name: str, compile: str, threads: int) -> float:
    """The seconds that a run takes before its clock starts, in this process."""
    import torch

    from benchmarks.shares import learning_rate, shortened
    from deepobs_func import problems
    from deepobs_func.runner import RunConfig, Training, make_plan

    torch.set_num_threads(threads)
    problem = shortened(problems.get(name), SHARE)
    rate = learning_rate(problem)
    config = RunConfig(name, "sgd", rate, data="synthetic", output_dir=None, compile=compile)
    return Training(make_plan(config, problem)).start().log.timings["warm_up"]


def measure(name: str, settings: Settings) -> Run:
    """Medians over a few rounds, in each of which everything has a turn."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    taken: dict[str, list[float]] = {}
    for _ in range(1 if settings.quick else min(settings.rounds, MOST_ROUNDS)):
        turn = {by: _seconds([sys.executable, "-c", code], environment)[0] for by, code in COMMANDS.items()}
        turn |= _first_steps(name, settings.threads, environment)
        for by, seconds in turn.items():
            taken.setdefault(by, []).append(seconds)
    cold = taken[COLD]
    rows = []
    for by, seconds in taken.items():
        ratios = [mine / theirs for mine, theirs in zip(seconds, cold, strict=True)]
        low, _, high = statistics.quantiles(ratios * 2, n=4, method="inclusive")
        row = {"by": by, "ratio": round(statistics.median(ratios), 4)}
        rows.append(
            row | {"quartiles": [round(low, 4), round(high, 4)], "seconds": round(statistics.median(seconds), 4)}
        )
    return {"rows": rows}


def targets(run: Run) -> list[Target]:
    """The cache is used."""
    (row,) = (row for row in run["rows"] if row["by"] == WARM)
    return [Target("of the cold first step takes the cached one:", row["ratio"], CACHED, least=False)]


def report(run: Run) -> str:
    """Ratios to the cold first step."""
    lines = [[row["by"], tables.ratio(row, 3), f"{row['seconds']:.3g}"] for row in run["rows"]]
    table = tables.table([tables.heading(run), "of the cold first step", "seconds"], lines)
    return f"{table}\n{tables.verdicts(targets(run))}\n"


def summary(runs: list[Run]) -> str:
    """A line a problem, in seconds."""
    lines = []
    for run in runs:
        seconds: dict[str, Any] = {row["by"]: row["seconds"] for row in run["rows"]}
        verdict = ", ".join("met" if target.met else "missed" for target in targets(run))
        lines.append([run["problem"], str(run["threads"]), *(f"{each:.3g}" for each in seconds.values()), verdict])
    header = ["seconds", "threads", *COMMANDS, EAGER, COLD, WARM, "cached at most a third"]
    return tables.table(header, lines)


BENCHMARK = Benchmark("start", PROBLEMS, measure, report)

if __name__ == "__main__":
    if sys.argv[1:2] == ["--first-step"]:
        print(first_step(sys.argv[2], sys.argv[3], int(sys.argv[4])))
    else:
        recording.main(BENCHMARK, __doc__)
