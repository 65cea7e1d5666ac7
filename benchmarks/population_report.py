"""The tables of `benchmarks.population` and `benchmarks.population_jax`, without JAX."""

from __future__ import annotations

from typing import Any

from benchmarks import tables
from benchmarks.recording import Run
from benchmarks.tables import Target

TARGETS = {"two_d": (20.0, 50.0), "quadratic_deep": (2.0, 4.0), "mnist_logreg": (2.0, 4.0)}
COMPILED, EAGER, POPULATION = "compiled sequence", "eager sequence", "population"
ONE_BY_ONE, TOGETHER = "one by one", "vmap"
MOST = 1.0  # times JAX's time
TAKEN = 1.1  # times the time of the faster way, which the chosen one may take


def targets(run: Run) -> list[Target]:
    """How many times faster than the sequences it is to be."""
    for family, (compiled, eager) in TARGETS.items():
        if run["problem"].startswith(family) and run["kind"] == "runs":
            return [
                Target("times faster than the compiled sequence:", run["ratios"][COMPILED], compiled),
                Target("times faster than the eager sequence:", run["ratios"][EAGER], eager),
            ]
    if run["kind"] == "steps":
        return [Target("times the faster way's time takes the chosen one:", run["taken"], TAKEN, least=False)]
    return []


def way_of(run: Run) -> str:
    """How the members were trained."""
    execution = run["execution"]
    return execution["way"] + (", compiled" if execution["compile"] else "")


def report(run: Run) -> str:
    """Milliseconds of a member, and ratios."""
    times: dict[str, Any] = run["seconds"]
    header = [tables.heading(run, f"{run['members']} members", f"taken: {way_of(run)}"), *times]
    lines = [["ms a member", *(f"{1e3 * seconds:.3g}" for seconds in times.values())]]
    if run["kind"] == "runs":
        lines.append(["members a second", *(f"{1 / seconds:.3g}" for seconds in times.values())])
    return "\n".join([tables.table(header, lines), tables.verdicts(targets(run))]).rstrip() + "\n"


def targets_beside_jax(run: Run) -> list[Target]:
    """At most as long as JAX."""
    return [Target("times JAX's time:", run["ratio"], MOST, least=False)]


def report_beside_jax(run: Run) -> str:
    """The ratio to JAX, and whether the target is met."""
    header = [tables.heading(run, f"{run['members']} members"), "ours / JAX", "ours, ms", "JAX, ms"]
    line = ["steps of Adam", tables.ratio(run), f"{run['milliseconds']:.4g}", f"{run['jax_milliseconds']:.4g}"]
    return f"{tables.table(header, [line])}\n{tables.verdicts(targets_beside_jax(run))}\n"


def summary(runs: list[Run], beside_jax: list[Run]) -> str:
    """All of it: whole runs, steps of larger nets, steps beside JAX."""
    whole = [run for run in runs if run["kind"] == "runs"]
    steps = [run for run in runs if run["kind"] == "steps"]
    parts = [
        tables.table(
            ["whole runs", "members", "members a second", "times a compiled sequence", "times an eager one", "way"],
            [
                [
                    run["problem"],
                    f"{run['members']}, {run['epochs']} epochs",
                    f"{1 / run['seconds'][POPULATION]:.3g}",
                    *(
                        tables.ratio({"ratio": run["ratios"][side], "quartiles": run["quartiles"][side]}, 1)
                        for side in (COMPILED, EAGER)
                    ),
                    way_of(run),
                ]
                for run in whole
            ],
        ),
        tables.table(
            ["ms a step of a member", "members", ONE_BY_ONE, TOGETHER, "times as fast by vmap", "chosen"],
            [
                [
                    run["problem"].removeprefix("steps of "),
                    str(run["members"]),
                    *(f"{1e3 * run['seconds'][way]:.3g}" for way in (ONE_BY_ONE, TOGETHER)),
                    tables.ratio(run),
                    run["execution"]["way"],
                ]
                for run in sorted(steps, key=lambda run: run["seconds"][ONE_BY_ONE])
            ],
        ),
        tables.table(
            ["steps of Adam", "members", "times the time of `jax.vmap`", "ms a step"],
            [
                [
                    run["problem"],
                    str(run["members"]),
                    tables.ratio(run),
                    f"{run['milliseconds'] / run['steps_per_call']:.3g}",
                ]
                for run in beside_jax
            ],
        ),
    ]
    return "\n\n".join(part for part, found in zip(parts, (whole, steps, beside_jax), strict=True) if found)
