"""One Markdown table for each benchmark, from what was measured: `python -m benchmarks.report [FOLDER]`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import augmentation, epochs, optimizers, recording, scaling, start, steps
from benchmarks.recording import Run

SUMMARIES: dict[str, Callable[[list[Run]], str]] = {
    "epochs": epochs.summary,
    "steps": steps.summary,
    "optimizer_costs": optimizers.summary,
    "augmentation": augmentation.summary,
    "start": start.summary,
    "scaling": scaling.summary,
}
TARGETS = {
    "epochs": epochs.targets,
    "steps": steps.targets,
    "optimizer_costs": optimizers.targets,
    "augmentation": augmentation.targets,
    "start": start.targets,
}


def summary(name: str, results: Path = recording.RESULTS) -> str:
    """The table of a benchmark; empty where nothing was measured."""
    runs = recording.read(results / f"{name}.json")
    return SUMMARIES[name](runs) if runs else ""


def missed(results: Path = recording.RESULTS) -> str:
    """Every target that is missed, a line each, and how many are met."""
    found = [
        (f"{name}, {run['problem']}, {run['threads']} thread(s): {target}", target.met)
        for name, targets in TARGETS.items()
        for run in recording.read(results / f"{name}.json")
        for target in targets(run)
    ]
    lines = [line for line, met in found if not met]
    return "\n".join([*lines, f"{len(found) - len(lines)} of {len(found)} targets are met."])


def main(arguments: list[str]) -> None:
    """Prints everything."""
    results = Path(arguments[0]) if arguments else recording.RESULTS
    for name in SUMMARIES:
        print(f"### {name}\n\n{summary(name, results)}\n")
    print(missed(results))


if __name__ == "__main__":
    main(sys.argv[1:])
