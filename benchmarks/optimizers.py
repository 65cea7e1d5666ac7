"""What a step of each optimizer costs, in steps of SGD, all compiled; Shampoo and SOAP beside pytorch_optimizer's.

    python -m benchmarks.optimizers [--problems mnist_mlp ...] [--threads 1 2] [--rounds 15] [--quick]

A turn is a period of 10 steps at batch size 128, in which what is done every tenth step is done once. The package's
steps are those of a plain loop: forward, backward, `step`. Products of ours go to oneDNN where a run's would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import recording, tables
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.tables import Target

PROBLEMS = ("mnist_mlp", "fmnist_2c2d")
PERIOD, BATCH = 10, 128
OURS = ("sgd", "adam", "nadamw", "lion", "prodigy", "schedule_free_adamw", "muon", "sgd_line_search", "lbfgs", "kfac")
SLOW = ("shampoo", "soap")
RATES = {"sgd": 0.01, "sgd_line_search": 1.0, "lbfgs": 0.1, "kfac": 1e-3, "muon": 1e-3}
KFAC, THEIRS = 2.5, 1.2  # of SGD, and of the package, at most


def _period(problem: Any, name: str) -> Callable[[], object]:
    """Ten steps of ours, compiled, which go on where the last ones ended."""
    from deepobs_func import optimizers, random
    from deepobs_func.backend import onednn
    from deepobs_func.backend.compiling import compiled
    from deepobs_func.runner.step import Carry, make_step

    optimizer = optimizers.FUNCTIONAL[name]
    made = getattr(optimizers, optimizer.name)(RATES.get(name, 1e-4))
    params, state = problem.init(0)
    batches = [problem.fake_batch(BATCH, seed)._replace(state=state) for seed in range(PERIOD)]
    carry = Carry(params, made.init(params, random.key(0)), state)
    multiplies = onednn.is_faster(next(iter(params.values())).device, params)
    step = compiled(make_step(problem, made), problem, onednn=multiplies)

    def steps() -> None:
        nonlocal carry
        for batch in batches:
            carry, _ = step(carry, batch)

    return steps


def _period_of_theirs(problem: Any, name: str) -> Callable[[], object]:
    import pytorch_optimizer

    params, state = problem.init(0)
    leaves = {key: leaf.requires_grad_() for key, leaf in params.items()}
    words = {
        "shampoo": ("Shampoo", {"lr": 1e-4, "preconditioning_compute_steps": PERIOD}),
        "soap": ("SOAP", {"lr": 1e-4, "precondition_frequency": PERIOD}),
    }
    cls, options = words[name]
    optimizer = getattr(pytorch_optimizer, cls)(list(leaves.values()), **options)
    batches = [problem.fake_batch(BATCH, seed)._replace(state=state) for seed in range(PERIOD)]

    def steps() -> None:
        for batch in batches:
            optimizer.zero_grad()
            problem.loss(leaves, batch).mean().backward()
            optimizer.step()

    return steps


def measure(name: str, settings: Settings) -> Run:
    """Everything in turn; the slow ones sit out rounds."""
    import torch

    from benchmarks.timing import clock_for, interleaved
    from deepobs_func import problems

    torch.set_num_threads(settings.threads)
    problem = problems.get(name)
    calls = {by: _period(problem, by) for by in (*OURS, *SLOW)}
    if name == "mnist_mlp":
        calls |= {f"{by}, pytorch_optimizer": _period_of_theirs(problem, by) for by in SLOW}
    for call in calls.values():
        call()
    budget = 5.0 if settings.quick else 20.0
    found = interleaved(calls, settings.rounds, clock_for(settings.threads), least=0.0, budget=budget)
    rows = []
    for by, times in found.items():
        row = {"by": by, "seconds": times.median / PERIOD, "ratio": round(times.ratio(found["sgd"]), 3)}
        row["quartiles"] = [round(each, 3) for each in times.spread(found["sgd"])]
        if f"{by}, pytorch_optimizer" in found:
            row["of theirs"] = round(times.ratio(found[f"{by}, pytorch_optimizer"]), 3)
        rows.append(row)
    return {"rows": rows}


def targets(run: Run) -> list[Target]:
    """K-FAC's step is at most 2.5 of SGD's; Shampoo's and SOAP's at most 1.2 of the package's."""
    found = []
    for row in run["rows"]:
        if row["by"] == "kfac" and run["problem"] == "mnist_mlp":
            found.append(Target("steps of SGD take a step of K-FAC:", row["ratio"], KFAC, least=False))
        if "of theirs" in row:
            found.append(Target(f"of pytorch_optimizer's {row['by']}:", row["of theirs"], THEIRS, least=False))
    return found


def report(run: Run) -> str:
    """Ratios to SGD."""
    lines = [
        [row["by"], tables.ratio(row, 2), f"{1e3 * row['seconds']:.3g}", str(row.get("of theirs", ""))]
        for row in run["rows"]
    ]
    table = tables.table([tables.heading(run), "steps of SGD", "ms", "of pytorch_optimizer's"], lines)
    return f"{table}\n{tables.verdicts(targets(run))}\n"


def summary(runs: list[Run]) -> str:
    """A line an optimizer, a column a problem."""
    names = list(dict.fromkeys(row["by"] for run in runs for row in run["rows"]))
    by = {(run["problem"], run["threads"]): {row["by"]: row for row in run["rows"]} for run in runs}
    cell = lambda row: "" if row is None else f"{row['ratio']:.2f} ({1e3 * row['seconds']:.3g} ms)"
    lines = [[name, *(cell(rows.get(name)) for rows in by.values())] for name in names]
    return tables.table(["steps of SGD", *(f"{problem}, {n} thread(s)" for problem, n in by)], lines)


BENCHMARK = Benchmark("optimizer_costs", PROBLEMS, measure, report)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
