"""Our sensitivity curves beside the published ones: `python -m benchmarks.sensitivity RESULTS BASELINES`.

RESULTS is a results tree with the published protocol (36 learning rates, seed 42, and seeds of the best one, under
`protocol=deepobs-1.1.2`), BASELINES the folder of the published runs. For each problem and optimizer that both have: do
the same settings diverge, is the best learning rate the same or its neighbour, do finite final losses lie within the
spread; and, over the seeds of the best setting, Welch's test, adjusted by Holm over all comparisons.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from deepobs_func import records
from deepobs_func.analysis.statistics import Sample, holm, welch

NAMES = {"GradientDescentOptimizer": "sgd", "MomentumOptimizer": "momentum", "AdamOptimizer": "adam"}
Runs = dict[tuple[str, str], dict[int, dict[int, records.RunRecord]]]  # problem, optimizer: exponent: seed


def exponent(lr: float) -> int:
    """The k of `10 ** (-5 + 0.2 k)`."""
    return round((math.log10(lr) + 5) / 0.2)


def read(folder: Path, epochs: dict[str, int] | None = None) -> Runs:
    """The runs below a folder."""
    found: Runs = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.rglob("random_seed__*.json")):
        record = records.read(path)
        name = NAMES.get(record.optimizer, record.optimizer)
        found[record.testproblem, name][exponent(record.learning_rate)][record.random_seed] = record
    return found


def metric(record: records.RunRecord, epoch: int) -> float:
    """Accuracy, or else loss, on the test set after an epoch."""
    column = record.test_losses if record.test_accuracies is None else record.test_accuracies
    return column[epoch]


@dataclass(frozen=True)
class Comparison:
    """Of a problem and an optimizer."""

    what: tuple[str, str]
    diverged: tuple[set[int], set[int]]
    best: tuple[int, int]
    ratios: dict[int, float]  # by exponent: ours / theirs of finite final losses
    ours: Sample
    theirs: Sample
    beyond: float

    @property
    def p(self) -> float:
        return welch(self.ours, self.theirs)


def compare(what: tuple[str, str], ours: dict, theirs: dict) -> Comparison:
    """Ours and theirs at the epoch where ours end."""
    first = next(iter(next(iter(ours.values())).values()))
    epoch, higher = len(first.test_losses) - 1, first.test_accuracies is not None
    grids = [{k: seeds[42].test_losses[epoch] for k, seeds in runs.items() if 42 in seeds} for runs in (ours, theirs)]
    common = grids[0].keys() & grids[1].keys()
    diverged = tuple({k for k in common if not math.isfinite(grid[k])} for grid in grids)
    finite = [k for k in common if all(math.isfinite(grid[k]) for grid in grids)]

    def best(runs: dict) -> int:
        values = {k: metric(seeds[42], epoch) for k, seeds in runs.items() if k in finite}
        return (max if higher else min)(values, key=lambda k: values[k]) if values else -1

    k = max(theirs, key=lambda k: len(theirs[k]))
    samples = [
        [metric(record, epoch) for seed, record in runs[k].items()] if k in runs else [math.nan]
        for runs in (ours, theirs)
    ]
    mine, other = Sample.of(samples[0]), Sample.of(samples[1])
    beyond = fmean(abs(value - other.mean) > 2 * other.sd for value in samples[0])
    ratios = {k: grids[0][k] / grids[1][k] for k in finite}
    return Comparison(what, diverged, (best(ours), best(theirs)), ratios, mine, other, beyond)


def main() -> None:
    """Prints a line for each comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("baselines", type=Path)
    given = parser.parse_args()
    ours, theirs = read(given.results), read(given.baselines)
    found = [compare(what, ours[what], theirs[what]) for what in ours if what in theirs]
    for each, p in zip(found, holm([each.p for each in found]), strict=True):
        mine, other = each.diverged
        worst = max(each.ratios.values(), key=lambda r: abs(math.log(abs(r))), default=math.nan)
        print(
            f"{each.what[0]} {each.what[1]}: diverged {len(mine)} / {len(other)}, of one alone {sorted(mine ^ other)}; "
            f"best {each.best[0]} / {each.best[1]}; largest ratio of finite final losses {worst:.4f} "
            f"(median {sorted(each.ratios.values())[len(each.ratios) // 2] if each.ratios else math.nan:.4f}); "
            f"seeds {each.ours.mean:.5g} +- {each.ours.sd:.2g} ({each.ours.size}) beside {each.theirs.mean:.5g} +- "
            f"{each.theirs.sd:.2g} ({each.theirs.size}), p {each.p:.3f}, by Holm {p:.3f}, {each.beyond:.0%} beyond 2 sd"
        )


if __name__ == "__main__":
    main()
