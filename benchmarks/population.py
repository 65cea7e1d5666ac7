"""A population beside the same runs one after another: 36 learning rates x 10 seeds.

    python -m benchmarks.population [--problems two_d_branin ...] [--rounds 3] [--data DIR] [--quick]

Whole runs, from the plan to the record: a population by the way that is measured to be fastest; a sequence of compiled
runs; a sequence of eager ones. They take turns; a sequence is a sample of the runs, timed a run. All is compiled
before. For nets of growing size it is steps: by each way, in turns, and whether the chosen way is the faster one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from benchmarks import recording
from benchmarks.population_report import COMPILED, EAGER, ONE_BY_ONE, POPULATION, TOGETHER, report
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.timing import Times, clock_for, interleaved
from deepobs_func import RunConfig, run
from deepobs_func.datasets.loading import kept_in_memory
from deepobs_func.runner import Execution, make_plan, run_members
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population.choice import choose_way
from deepobs_func.runner.population.way import Shared
from deepobs_func.runner.population.ways import WAYS
from deepobs_func.runner.series import Series

RATES, SEEDS = 36, 10
EPOCHS = {"two_d_branin": 20, "two_d_beale": 20, "quadratic_deep": 20, "mnist_logreg": 1}
OF_STEPS = "steps of "
MEMBERS = {
    "steps of mnist_logreg": 8,
    "steps of mnist_logreg, compiled": 8,
    "steps of mnist_mlp": 8,
    "steps of mnist_mlp, compiled": 8,
    "steps of mnist_2c2d": 4,
    "steps of mnist_vae": 3,
}
BUDGET = 10.0
SAMPLE = 3  # runs of a sequence that are timed in a round


def configs(name: str, settings: Settings, rates: int, seeds: int, epochs: int) -> list[RunConfig]:
    """The runs, from rates that are too small to rates that are too large."""
    data = settings.data if name.startswith("mnist") else "synthetic"
    made = RunConfig(name, "momentum", 1.0, epochs=epochs, data=data, output_dir=None, device="cpu", compile="on")
    lrs = [10 ** (-5 + 7 * index / max(rates - 1, 1)) for index in range(rates)]
    return [dataclasses.replace(made, lr=lr, seed=seed) for seed in range(42, 42 + seeds) for lr in lrs]


def of_runs(name: str, settings: Settings) -> Run:
    """Seconds of a run by each way, in turns."""
    rates, seeds, epochs = (4, 2, 1) if settings.quick else (RATES, SEEDS, EPOCHS[name])
    made = configs(name, settings, rates, seeds, epochs)
    single = _execution_of(made[0])
    eager = dataclasses.replace(single, compile=False, steps_per_call=1)
    chosen = run_members(made)[0].record.extra["execution"]  # measures, and compiles
    for execution in (single, eager):
        run(made[0], execution=execution)
    sample = made[:: max(1, len(made) // SAMPLE)][:SAMPLE]
    sides: dict[str, Callable[[], int]] = {
        POPULATION: lambda: len(run_members(made, execution=Execution(**chosen))),
        COMPILED: lambda: len([run(each, execution=single) for each in sample]),
        EAGER: lambda: len([run(each, execution=eager) for each in sample]),
    }
    found: dict[str, list[float]] = {side: [] for side in sides}
    clock = clock_for(settings.threads)  # the processor's time, on one thread
    for _ in range(settings.rounds):
        for side, call in sides.items():
            start = clock()
            count = call()
            found[side].append((clock() - start) / count)
    times = {side: Times(dict(enumerate(seconds))) for side, seconds in found.items()}
    return {
        "kind": "runs",
        "members": len(made),
        "epochs": epochs,
        "execution": chosen,
        "seconds": {side: each.median for side, each in times.items()},
        "ratios": {side: round(times[side].ratio(times[POPULATION]), 2) for side in (COMPILED, EAGER)},
        "quartiles": {
            side: [round(each, 2) for each in times[side].spread(times[POPULATION])] for side in (COMPILED, EAGER)
        },
    }


def _execution_of(config: RunConfig) -> Execution:
    return Execution(**run(config).record.extra["execution"])


def of_steps(name: str, settings: Settings) -> Run:
    """Seconds of a step of a member by each way, in turns, and which way is chosen."""
    problem, _, mode = name.removeprefix(OF_STEPS).partition(", ")
    members = 2 if settings.quick else MEMBERS[name]
    compile = "on" if mode else "off"
    made = RunConfig(problem, "momentum", 1e-3, data="synthetic", output_dir=None, device="cpu", compile=compile)
    made = dataclasses.replace(made, epochs=1, batch_size=4 if settings.quick else None)
    plans = [make_plan(dataclasses.replace(made, lr=1e-3 / (1 + index))) for index in range(members)]
    shared = Shared.of(plans[0])
    chosen = choose_way(shared, plans, Series(members))
    how = dataclasses.replace(chosen, way="loop", members=1)
    ways = {ONE_BY_ONE: how, TOGETHER: dataclasses.replace(how, way="vmap", members=members)}
    clock = clock_for(settings.threads)
    with how.apply("float32", shared.plan.device):
        calls = {way: _call(shared, plans, each) for way, each in ways.items()}
        times = interleaved(calls, max(3, settings.rounds), clock, least=0.1, budget=BUDGET)
    taken = times[TOGETHER if chosen.way == "vmap" else ONE_BY_ONE]
    return {
        "kind": "steps",
        "members": members,
        "seconds": {way: each.median / members / how.steps_per_call for way, each in times.items()},
        "ratio": times[ONE_BY_ONE].ratio(times[TOGETHER]),
        "quartiles": times[ONE_BY_ONE].spread(times[TOGETHER]),
        "taken": taken.median / min(each.median for each in times.values()),
        "execution": chosen.as_plain_data(),
    }


def _call(shared: Shared, plans: Sequence[Plan], execution: Execution) -> Callable[[], object]:
    """Makes a call of all members; the first one was made."""
    calls = WAYS[execution.way](shared, plans, execution).first_calls()

    def call() -> None:
        next(calls).loss.sum().item()

    call()
    return call


def measure(name: str, settings: Settings) -> Run:
    """One problem."""
    torch.set_num_threads(settings.threads)
    with kept_in_memory():  # as a worker has it: a sequence does not read the data for each run
        return (of_steps if name in MEMBERS else of_runs)(name, settings)


BENCHMARK = Benchmark("population", (*EPOCHS, *MEMBERS), measure, report)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
