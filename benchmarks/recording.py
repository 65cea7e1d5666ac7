"""How a benchmark is run and kept: a problem in a process of its own, its results in a JSON file beside older ones."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deepobs_func import problems, records
from deepobs_func.backend.memory import keep_freed_memory
from deepobs_func.runner.config import default_data

RESULTS = Path(__file__).parent / "results"
Run = dict[str, Any]


class Settings(NamedTuple):
    """What every benchmark is told.

    Attributes:
        threads: of torch.
        rounds: in which the functions take turns.
        data: the data folder, or `"synthetic"`.
        quick: only whether it works.
    """

    threads: int = 1
    rounds: int = 15
    data: str = "synthetic"
    quick: bool = False


class Benchmark(NamedTuple):
    """A benchmark, as the command line sees it.

    Attributes:
        name: of its file among the results.
        problems: what it is measured on.
        measure: `(problem, settings) -> run`, in a new process.
        report: `run -> text`.
    """

    name: str
    problems: Sequence[str]
    measure: Callable[[str, Settings], Run]
    report: Callable[[Run], str]


def environment() -> dict[str, Any]:
    """What the numbers depend on."""
    models = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return {**records.environment(), "torch": torch.__version__, "cpu": cpu, **gpu}


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if os.path.exists(path) else []


def device() -> torch.device:
    """Where everything is measured: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def in_a_new_process(measure: Callable[..., Run], *arguments: Any) -> Run:
    """Measures where nothing else has been allocated or compiled, under the memory rule of runs, for all alike."""
    os.environ |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "KINETO_LOG_LEVEL": "9"}  # the profiler's notes on its work
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), initializer=keep_freed_memory) as pool:
        return pool.submit(measure, *arguments).result()


def measured(benchmark: Benchmark, problem: str, settings: Settings) -> Run:
    """One problem's results, with all that is needed to tell them from others."""
    run = in_a_new_process(benchmark.measure, problem, settings)
    about = {"threads": settings.threads, "rounds": settings.rounds, "quick": settings.quick}
    return {"problem": problem, **about, **run, "environment": environment()}


def read(path: Path) -> list[Run]:
    """The runs of a file; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else []


def merged(old: list[Run], new: Run) -> list[Run]:
    """The runs with one more, in the place of an older one of the same problem and number of threads."""
    known = problems.names()
    order = lambda run: (run["threads"], known.index(run["problem"]) if run["problem"] in known else -1, run["problem"])
    return sorted([run for run in old if order(run) != order(new)] + [new], key=order)


def write(path: Path, run: Run) -> None:
    """Adds a run to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(merged(read(path), run), indent=1) + "\n", encoding="utf-8")


def parser(description: str) -> argparse.ArgumentParser:
    """The flags that all benchmarks have."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--problems", nargs="+", metavar="NAME", help="default: all that it is measured on")
    found.add_argument("--threads", nargs="+", type=int, default=[1])
    found.add_argument("--rounds", type=int, default=Settings().rounds)
    found.add_argument("--data", default=default_data(), metavar="DIR|synthetic", help="stand-ins where files lack")
    found.add_argument("--quick", action="store_true", help="small sizes, two rounds: does it run?")
    found.add_argument("--results", type=Path, help="the folder of the JSON files")
    return found


def results_of(options: argparse.Namespace) -> Path:
    """Where the JSON files go; a quick look never replaces a measurement."""
    return options.results or (RESULTS / "quick" if options.quick else RESULTS)


def carry_out(benchmarks: Sequence[Benchmark], options: argparse.Namespace) -> None:
    """Measures, prints and writes."""
    results = results_of(options)
    for threads in options.threads:
        settings = Settings(threads, 2 if options.quick else options.rounds, options.data, options.quick)
        for benchmark in benchmarks:
            for problem in options.problems or benchmark.problems:
                if problem in benchmark.problems or len(benchmarks) == 1:
                    run = measured(benchmark, problem, settings)
                    print(benchmark.report(run), flush=True)
                    write(results / f"{benchmark.name}.json", run)


def main(benchmark: Benchmark, description: str | None, arguments: list[str] | None = None) -> None:
    """The command line of one benchmark."""
    carry_out([benchmark], parser((description or "").splitlines()[0]).parse_args(arguments))
