"""What the probes cost, as multiples of one plain gradient of the same net, beside other libraries.

    python -m benchmarks.probes [--problems mnist_mlp ...] [--threads 1 2] [--rounds 15] [--quick]

Every problem is measured in a process of its own, in which all functions take turns, compiled and in eager code. Ours
and `vmap(grad)` are compared with the plain gradient in the same mode, and compiled as a run's step is; the libraries,
which run in eager code only, are compared with the eager one. Dropout is left out, which the libraries would draw anew.
Of the modern set everything is eager, as a call of a probe is by default: each compilation takes minutes.
The results replace those of the same problems and numbers of threads in `benchmarks/results/probes.json`.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import probes_report
from benchmarks.memory import peak_bytes
from benchmarks.recording import environment, in_a_new_process
from benchmarks.shares import BATCH_SIZES, MODERN
from benchmarks.timing import clock_for, interleaved
from deepobs_func import probes, problems, random, runner
from deepobs_func.backend import onednn
from deepobs_func.base import Batch, Params
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem

PROBLEMS = ("mnist_logreg", "mnist_mlp", "mnist_2c2d", "cifar10_3c3d", "cifar100_allcnnc", *MODERN)
QUANTITIES = dict.fromkeys(MODERN, ("sq_norms", "hvp", "ggnvp"))  # where it is not all
RESULTS = Path(__file__).parent / "results" / "probes.json"
Probe = Callable[[Params, Batch, dict[str, Tensor]], Any]
Call = Callable[[], Any]


class Key(NamedTuple):
    """One of the functions that take turns: what is computed, by whom, `"eager"` or `"compiled"`."""

    quantity: str
    by: str
    mode: str


class Size(NamedTuple):
    """How much is measured."""

    batch_size: int = 128
    rounds: int = 15


QUICK = Size(batch_size=4, rounds=2)


def ours(problem: Problem) -> dict[str, Probe]:
    """The probes of deepobs_func, by quantity; pure, so that each compiles to one graph."""
    return {
        "sq_norms": lambda params, batch, v: probes.per_example_sq_norms(problem, params, batch),
        "sum_of_squares": lambda params, batch, v: probes.grad_sum_of_squares(problem, params, batch),
        "variance": lambda params, batch, v: probes.grad_variance(problem, params, batch),
        "gram": lambda params, batch, v: probes.gram(problem, params, batch),
        "dots": lambda params, batch, v: probes.per_example_dots(problem, params, batch, v),
        "hvp": lambda params, batch, v: probes.hvp(problem, params, batch, v),
        "ggnvp": lambda params, batch, v: probes.ggnvp(problem, params, batch, v),
    }


def point(problem: Problem, batch_size: int) -> tuple[Params, Batch, dict[str, Tensor]]:
    """Parameters, a batch without noise, and a direction."""
    params = problem.init(seed=0)[0]
    batch = problem.fake_batch(batch_size, seed=1)._replace(noise={})
    key = random.key(2)
    v = {name: random.normal(random.fold_in(key, i), leaf.shape) for i, (name, leaf) in enumerate(params.items())}
    return params, batch, v


def functions(problem: Problem, batch_size: int) -> Iterator[tuple[Key, Call]]:
    """Everything that is measured of a problem, the plain gradients first."""
    from benchmarks import others  # the libraries, which whoever takes only `ours` need not have

    params, batch, v = point(problem, batch_size)
    multiplies = onednn.is_faster(torch.device("cpu"), params)
    bind = functools.partial
    ways: dict[str, Callable[[Any], Any]] = {"eager": lambda function: function}
    if problem.name not in MODERN:
        ways["compiled"] = functools.partial(runner.compiled, problem=problem, onednn=multiplies)
    for mode, way in ways.items():
        make = make_plain_value_and_grad if mode == "eager" else make_value_and_grad
        yield Key("grad", "ours", mode), bind(way(make(problem)), params, batch)
    probed = ours(problem)
    wanted = QUANTITIES.get(problem.name, tuple(probed))
    for quantity, (mode, way) in itertools.product(wanted, ways.items()):
        yield Key(quantity, "ours", mode), bind(way(probed[quantity]), params, batch, v)
    vmap_grad = others.make_vmap_grad(problem)
    for quantity, (mode, way) in itertools.product(("sq_norms", "sum_of_squares", "variance", "gram"), ways.items()):
        if quantity in wanted:
            yield Key(quantity, "vmap(grad)", mode), bind(way(vmap_grad[quantity]), params, batch)
    if problem.name in MODERN:  # whose nets BackPACK does not know
        yield Key("sq_norms", "Opacus", "eager"), others.Opacus(problem, params, batch).sq_norms
        return
    backpack = others.BackPACK(problem, params, batch)
    for quantity in ("sq_norms", "sum_of_squares", "variance"):
        yield Key(quantity, "BackPACK", "eager"), getattr(backpack, quantity)
    yield Key("sq_norms", "Opacus", "eager"), others.Opacus(problem, params, batch).sq_norms
    yield Key("sq_norms", "Opacus ghost", "eager"), others.OpacusGhost(problem, params, batch).sq_norms
    curvlinops = others.Curvlinops(problem, params, batch)
    yield Key("hvp", "curvlinops", "eager"), bind(curvlinops.hvp, v)
    yield Key("ggnvp", "curvlinops", "eager"), bind(curvlinops.ggnvp, v)


def measure(name: str, threads: int, size: Size) -> dict[str, Any]:
    """Times and peak memory of everything that is measured of one problem."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", "Full backward hook is firing")  # the first layer's, on data
    calls = dict(functions(problems.get(name), size.batch_size))
    for call in calls.values():
        call()
    peaks = {key: peak_bytes(call) for key, call in calls.items()}
    times = interleaved(calls, size.rounds, clock_for(threads))
    rows = []
    for key in calls:
        plain = Key("grad", "ours", key.mode)
        rows.append(
            {
                **key._asdict(),
                "ratio": round(times[key].ratio(times[plain]), 3),
                "quartiles": [round(ratio, 3) for ratio in times[key].spread(times[plain])],
                "milliseconds": round(1e3 * times[key].median, 3),
                "memory_ratio": round(peaks[key] / peaks[plain], 3),
                "peak_mebibytes": round(peaks[key] / 2**20, 3),
            }
        )
    return {"problem": name, "threads": threads, **size._asdict(), "environment": environment(), "rows": rows}


def merged(old: list[dict[str, Any]], new: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs with one more, in the place of an older one of the same problem and number of threads."""
    order = lambda run: (run["threads"], PROBLEMS.index(run["problem"]))
    return sorted([run for run in old if order(run) != order(new)] + [new], key=order)


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description="What the probes cost, as multiples of one plain gradient.")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS, metavar="NAME")
    parser.add_argument("--threads", nargs="+", type=int, default=[1])
    parser.add_argument("--rounds", type=int, default=Size().rounds)
    parser.add_argument("--quick", action="store_true", help="small batches and two rounds: does it run?")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for threads in options.threads:
        for name in options.problems:
            size = QUICK if options.quick else Size(BATCH_SIZES.get(name, Size().batch_size), options.rounds)
            run = in_a_new_process(measure, name, threads, size)
            print(probes_report.report(run), flush=True)
            runs = json.loads(options.output.read_text()) if options.output.exists() else []
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(merged(runs, run), indent=1) + "\n")


if __name__ == "__main__":
    main()
