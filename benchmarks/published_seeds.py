"""Ours beside the published runs at the published best rates, after some epochs.

    python -m benchmarks.published_seeds RESULTS

RESULTS is a results tree of `deepobs sweep benchmarks/published_seeds.yaml`, or a part of it: what is found is added to
`benchmarks/results/published_seeds.json`, so that the seeds may come from several sessions. For each problem and
optimizer: our mean and deviation and the published ones at that epoch, Welch's test, Holm's adjustment over all
comparisons, and the share of ours beyond two published deviations.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from deepobs_func import records
from deepobs_func.analysis.published import Baseline, baselines
from deepobs_func.analysis.statistics import Sample, holm, welch

RESULTS = Path(__file__).parent / "results" / "published_seeds.json"
LEVEL = 0.01


def gathered(folder: Path, known: dict[str, Any]) -> dict[str, Any]:
    """By problem and optimizer, by seed, the metric after the last epoch; with the epoch."""
    for path in sorted(folder.rglob("random_seed__*.json")):
        record = records.read(path)
        column = record.test_losses if record.test_accuracies is None else record.test_accuracies
        entry = known.setdefault(f"{record.testproblem} {record.optimizer}", {"epochs": record.num_epochs, "seeds": {}})
        assert entry["epochs"] == record.num_epochs
        entry["seeds"][str(record.random_seed)] = column[-1]
    return known


def baseline(problem: str, optimizer: str) -> Baseline:
    """The published setting."""
    return next(each for each in baselines(problem) if each.optimizer == optimizer)


def main(folder: Path) -> None:
    """Adds what is there, and prints the table."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known = dict(sorted(gathered(folder, known).items()))
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    rows = []
    for name, entry in known.items():
        theirs = baseline(*name.split())
        epoch, values = entry["epochs"], list(entry["seeds"].values())
        ours = Sample.of(values)
        published = Sample(theirs.curve_mean[epoch], theirs.curve_sd[epoch], theirs.seeds)
        beyond = sum(abs(value - published.mean) > 2 * published.sd for value in values)
        rows.append((name, epoch, ours, published, welch(ours, published), beyond))
    adjusted = holm([row[4] for row in rows])
    for (name, epoch, ours, published, p, beyond), p_holm in zip(rows, adjusted, strict=True):
        print(
            f"{name}, epoch {epoch}: {ours.mean:.5g} +- {ours.sd:.2g} ({ours.size} seeds) beside {published.mean:.5g} "
            f"+- {published.sd:.2g}; p {p:.3f}, by Holm {p_holm:.3f}{'  BELOW' if p_holm < LEVEL else ''}; "
            f"{beyond} of {ours.size} beyond 2 sd"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
