"""The demonstration: three optimizers against published numbers, and against each other where none are published."""

from __future__ import annotations

import importlib.util
import itertools
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepobs_func import datasets
from deepobs_func.analysis import figures, load, published
from deepobs_func.analysis.statistics import LEVEL, Sample, holm, welch
from deepobs_func.backend.threads import cores
from deepobs_func.errors import ConfigError, DataError, as_flag
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, run

SEEDS = range(42, 52)
MLP_SEEDS = range(42, 45)
MLP_EPOCHS = 2
MapRuns = Callable[[Sequence[RunConfig]], Iterable[RunRecord]]
DRAWING = ("matplotlib", "pandas", "plotly", "jinja2")
EXTRA = "'deepobs-func[report]'"
NO_VERDICT = "no verdict at this number of seeds"
MLP_SETTINGS: Sequence[tuple[str, float, dict[str, float]]] = (
    ("sgd", 0.1, {}),
    ("momentum", 0.03, {"momentum": 0.9}),
    ("adam", 1e-3, {}),
)


@contextmanager
def processes() -> Iterator[MapRuns]:
    """Runs on all cores, one process of one thread each.

    Runs this small gain little from a second thread, and two threads that wait for each other at every operation are
    slowed down many times by whatever else the machine does.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(cores(), context, initializer=_one_thread) as pool:
        try:
            yield lambda configs: pool.map(record_of, configs)
        except BaseException:  # an interrupt too: the other runs do not start
            pool.shutdown(cancel_futures=True)
            raise


def record_of(config: RunConfig) -> RunRecord:
    """The record of a run, which goes from process to process."""
    return run(config).record


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def demo(console: Console, data: str, output_dir: Path, map_runs: MapRuns) -> None:
    """Runs the whole demonstration, prints its two tables and writes records, figures and a report.

    Args:
        console: where it prints.
        data: the data folder in which MNIST may be, or `"synthetic"`.
        output_dir: gets `results/`, the records, and, where the extra `report` is installed, figures and `report.html`.
        map_runs: runs several configurations, e.g. that of `processes`.

    Raises:
        ConfigError: the folder cannot be made.
    """
    start = time.perf_counter()
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{output_dir} cannot be made ({error}). Name another folder with --output-dir.") from error
    missing = [name for name in DRAWING if importlib.util.find_spec(name) is None]
    if missing:
        console.print(
            f"No figures and no report: {', '.join(missing)} not installed. pip install {escape(EXTRA)} brings them.\n"
        )
    _against_published(console, output_dir, map_runs, draws=not missing)
    _against_each_other(console, data, output_dir, map_runs, draws=not missing)
    if not missing:
        _report(console, output_dir)
    console.print(
        f"\nDone in {time.perf_counter() - start:.0f} s. The records are in {escape(str(output_dir / 'results'))}."
    )


def _against_published(console: Console, output_dir: Path, map_runs: MapRuns, *, draws: bool) -> None:
    """quadratic_deep, ten seeds, under the protocol of the published runs."""
    console.print(
        f"[bold]quadratic_deep[/]: three optimizers at the published learning rates, {len(SEEDS)} seeds each, "
        "protocol deepobs-1.1.2"
    )
    baselines = published.baselines("quadratic_deep")
    groups = {}
    for baseline in baselines:
        configs = [
            RunConfig(
                baseline.problem,
                baseline.optimizer,
                baseline.lr,
                baseline.hyperparams,
                seed=seed,
                protocol="deepobs-1.1.2",
                output_dir=str(output_dir / "results"),
            )
            for seed in SEEDS
        ]
        groups[baseline.optimizer] = _run_all(console, configs, map_runs)
    ours = [Sample.of([record.test_losses[-1] for record in records]) for records in groups.values()]
    theirs = [Sample(b.final_mean, b.final_sd, b.seeds) for b in baselines]
    adjusted = holm([welch(a, b) for a, b in zip(ours, theirs, strict=True)])
    table = Table("optimizer", "lr", "ours", "published", "p", "in band", "verdict", box=None)
    for baseline, a, b, p in zip(baselines, ours, theirs, adjusted, strict=True):
        in_band = "yes" if abs(a.mean - b.mean) <= 2 * b.sd else "no"
        verdict = NO_VERDICT if math.isnan(p) else "agrees" if p >= LEVEL else "differs"
        table.add_row(baseline.optimizer, f"{baseline.lr:.3g}", _shown(a), _shown(b), f"{p:.2f}", in_band, verdict)
    console.print(table)
    console.print(
        "Final test loss, mean ± standard deviation over the seeds. p: Welch's t-test of equal means, Holm's "
        f"adjustment over the three, level {LEVEL}. In band: our mean is within 2 published standard deviations."
    )
    if not draws:
        console.print()
        return
    path = output_dir / "quadratic_deep.png"
    figures.against_published(groups, baselines, "quadratic_deep, protocol deepobs-1.1.2", path)
    console.print(f"Curves with the published band: {escape(str(path))}\n")


def _against_each_other(console: Console, data: str, output_dir: Path, map_runs: MapRuns, *, draws: bool) -> None:
    """mnist_mlp, for which nothing is published: the three against each other."""
    data, remark = _mnist_or_stand_in(data)
    console.print(
        f"[bold]mnist_mlp[/]: {MLP_EPOCHS} epochs, {len(MLP_SEEDS)} seeds each; nothing is published to compare with. "
        f"Data: {remark}"
    )
    groups = {}
    for name, lr, hyperparams in MLP_SETTINGS:
        configs = [
            RunConfig(
                "mnist_mlp",
                name,
                lr,
                hyperparams,
                epochs=MLP_EPOCHS,
                seed=seed,
                data=data,
                output_dir=str(output_dir / "results"),
            )
            for seed in MLP_SEEDS
        ]
        groups[name] = _run_all(console, configs, map_runs)
    samples = {name: Sample.of(_final_accuracies(records)) for name, records in groups.items()}
    for name, sample in samples.items():
        console.print(f"  {name}: test accuracy {sample.mean:.2%} ± {sample.sd:.2%}", highlight=False)
    pairs = list(itertools.combinations(samples, 2))
    adjusted = holm([welch(samples[a], samples[b]) for a, b in pairs])
    table = Table("pair", "difference", "p", "verdict", box=None)
    for (a, b), p in zip(pairs, adjusted, strict=True):
        difference = samples[a].mean - samples[b].mean
        better = a if difference > 0 else b
        verdict = f"{better} is better" if p < LEVEL else NO_VERDICT
        table.add_row(f"{a} - {b}", f"{difference:+.2%}", f"{p:.3f}", verdict)
    console.print(table)
    console.print(f"p: Welch's t-test of equal means, Holm's adjustment over the three pairs, level {LEVEL}.")
    if draws:
        path = output_dir / "mnist_mlp.png"
        figures.training(groups, "test_accuracies", "mnist_mlp", path)
        console.print(f"Curves: {escape(str(path))}")


def _report(console: Console, output_dir: Path) -> None:
    """One page of all of it, beside the published runs of the same problem."""
    from deepobs_func.analysis.reports import write_report

    tree, path = str(output_dir / "results"), output_dir / "report.html"
    results = load(tree, baselines=True).select(problem=["mnist_mlp", "quadratic_deep"])
    write_report(results, path, title="The demonstration", sources=[tree])
    console.print(f"\n[bold]Report[/]: {escape(str(path))}. Open it in a browser; it works offline.")


def _mnist_or_stand_in(data: str) -> tuple[str, str]:
    """The data to use, and what to say about them."""
    from deepobs_func.datasets.loading import SYNTHETIC, load

    warning = "[bold red]the synthetic stand-in, so these numbers are no result[/]"
    if data == SYNTHETIC:
        return SYNTHETIC, warning
    try:
        load(datasets.spec("mnist"), data)
    except DataError as error:
        return SYNTHETIC, f"{warning}. {escape(error.told(as_flag))}"
    return data, f"MNIST from {escape(data)}"


def _run_all(console: Console, configs: Sequence[RunConfig], map_runs: MapRuns) -> list[RunRecord]:
    first = configs[0]
    with console.status(f"{first.problem} {first.optimizer}"):
        start = time.perf_counter()
        records = list(map_runs(configs))
    seconds = time.perf_counter() - start
    console.print(f"  {first.optimizer}, lr {first.lr:.3g}: {len(records)} runs in {seconds:.0f} s", highlight=False)
    return records


def _final_accuracies(records: Sequence[RunRecord]) -> list[float]:
    return [(record.test_accuracies or [float("nan")])[-1] for record in records]


def _shown(sample: Sample) -> str:
    return f"{sample.mean:.3f} ± {sample.sd:.3f}"
