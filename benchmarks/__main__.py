"""Everything that the README claims of speed, measured: `python -m benchmarks`, or `make bench`.

    python -m benchmarks [--only epochs steps ...] [--problems NAME ...] [--threads 1 2] [--data DIR] [--quick]

Prints ratios first and writes JSON into `benchmarks/results/`; `python -m benchmarks.report` makes tables of it.
"""

from __future__ import annotations

import importlib.util

from benchmarks import augmentation, epochs, optimizers, recording, report, scaling, start, steps

BENCHMARKS = {each.BENCHMARK.name: each.BENCHMARK for each in (epochs, steps, optimizers, augmentation, start, scaling)}


def main(arguments: list[str] | None = None) -> None:
    """Measures, prints, writes, and draws."""
    parser = recording.parser("Everything that the README claims of speed, measured.")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    options = parser.parse_args(arguments)
    recording.carry_out([BENCHMARKS[name] for name in options.only], options)
    results = recording.results_of(options)
    if "scaling" in options.only and importlib.util.find_spec("matplotlib"):
        scaling.plot(recording.read(results / "scaling.json"), results / "scaling.png")
    print(report.missed(results))


if __name__ == "__main__":
    main()
