"""DeepOBS's analyzer over `deepobs_func.analysis`: the functions of 1.1.2 and of 1.2, and `Analyzer`.

A path is a results tree or a folder within it; "published" stands for the published runs. Figures are returned, not
shown: `figure.savefig("curves.pdf")`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from deepobs_func import analysis
from deepobs_func.analysis.choosing import Setting, choose, is_accuracy, settings_of
from deepobs_func.analysis.results import Results
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.runner.runtime import Entrant
from deepobs_func.runner.runtime import estimate_runtime as measure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_COLUMNS = {
    f"{split}_{old}": f"{split}_{new}"
    for split in ("train", "valid", "test")
    for old, new in (("losses", "loss"), ("accuracies", "accuracy"))
}


class OptimizerAnalyzer(NamedTuple):
    """An optimizer on a problem.

    Attributes:
        name: of the optimizer.
        settings: those that have a complete run.
        higher_is_better: of the problem's metric.
    """

    name: str
    settings: list[Setting]
    higher_is_better: bool

    @property
    def num_settings(self) -> int:
        """How many settings there are."""
        return len(self.settings)

    def get_best_setting_final(self) -> Setting:
        """The setting of the best final mean."""
        return choose(self.settings, "final", self.higher_is_better)

    def get_best_setting_best(self) -> Setting:
        """The setting of the best mean of any epoch."""
        return choose(self.settings, "best", self.higher_is_better)

    def get_setting_most_runs(self) -> Setting:
        """The setting of the most runs."""
        return choose(self.settings, "most", self.higher_is_better)


class TestProblemAnalyzer(NamedTuple):
    """A problem with its optimizers.

    Attributes:
        name: of the problem.
        optimizers: by name, those that have a complete run.
    """

    name: str
    optimizers: dict[str, OptimizerAnalyzer]


class Analyzer:
    """DeepOBS 1.1.2's reader of a results tree.

    Args:
        path: the tree.

    Attributes:
        path: the tree.
    """

    def __init__(self, path: str | Path) -> None:
        self.path: str = str(path)

    @cached_property
    def results(self) -> Results:
        """The runs, for the functions of `deepobs_func.analysis`."""
        return analysis.load(self.path)

    @cached_property
    def testproblems(self) -> dict[str, TestProblemAnalyzer]:
        """By name, the problems that have runs."""
        return {name: TestProblemAnalyzer(name, self._optimizers(name)) for name in self.results.problems}

    def _optimizers(self, problem: str) -> dict[str, OptimizerAnalyzer]:
        higher = is_accuracy(self.results.metric(problem))
        found = {name: settings_of(self.results, problem, name) for name in self.results.optimizers_on(problem)}
        return {name: OptimizerAnalyzer(name, settings, higher) for name, settings in found.items() if settings}


Source = Analyzer | str | Path


def get_best_run(folder_pars: Source) -> pd.DataFrame:
    """Prints and returns the best setting of each optimizer on each problem, by all modes.

    Args:
        folder_pars: the results.

    Returns:
        `analysis.best_settings` of them.
    """
    from deepobs_func.analysis.tables import best_text

    found = analysis.best_settings(_results(folder_pars))
    print(best_text(found))
    return found


def plot_lr_sensitivity(folder_pars: Source, baseline_pars: Source | None = None, mode: str = "final") -> Figure:
    """Draws the final metric over the learning rate, the small set above the large one.

    Args:
        folder_pars: the results.
        baseline_pars: others beside them.
        mode: `"final"`.

    Returns:
        The figure.

    Raises:
        ConfigError: it is another mode.
    """
    from deepobs_func.analysis import figures

    if mode != "final":
        raise ConfigError(f"mode {mode!r}: the figure is of the metric after the last epoch, mode 'final'.")
    return figures.sensitivity(_results(folder_pars, baseline_pars), paper=True)


def plot_performance(
    folder_pars: Source, baseline_pars: Source | None = None, mode: str = "most"
) -> tuple[Figure, Figure]:
    """Draws losses and accuracies over the epochs, as the paper has them.

    Args:
        folder_pars: the results.
        baseline_pars: others beside them.
        mode: which setting stands for an optimizer: `"most"`, `"final"` or `"best"`.

    Returns:
        The figures of the small and of the large set.
    """
    from deepobs_func.analysis import figures

    results = _results(folder_pars, baseline_pars)
    return figures.performance(results, "small", mode=mode), figures.performance(results, "large", mode=mode)


def plot_table(folder_pars: Source, baseline_pars: Source | None = None, mode: str = "most") -> pd.DataFrame:
    """Prints and returns performance, speed and tuneability of each optimizer on each problem.

    Args:
        folder_pars: the results.
        baseline_pars: others beside them.
        mode: which setting stands for an optimizer.

    Returns:
        `analysis.benchmark_table` of them.
    """
    table = analysis.benchmark_table(_results(folder_pars, baseline_pars), mode)
    print(analysis.table_text(table))
    return table


def plot_optimizer_performance(
    path: str | Path,
    mode: str = "most",
    metric: str = "valid_accuracies",
    reference_path: str | Path | None = None,
    **how: Any,
) -> Figure:
    """Draws the metric over the epochs, as DeepOBS 1.2 does.

    Args:
        path: of an optimizer, or of a problem with several.
        mode: which setting stands for an optimizer.
        metric: of the figure, e.g. `"test_accuracies"`; what is not there gives way to the test set's, or the loss.
        reference_path: of others beside them.
        how: DeepOBS's `fig`, `ax`, `show`, `which`, which have no effect: the figure is a new one.

    Returns:
        The figure.
    """
    from deepobs_func.analysis import figures

    results = _results(path, reference_path)
    return figures.curves(results, column_of(results, metric), mode=mode)


def plot_testset_performances(
    results_path: str | Path,
    mode: str = "most",
    metric: str = "valid_accuracies",
    reference_path: str | Path | None = None,
    **how: Any,
) -> Figure:
    """Draws the metric over the epochs, a panel for each problem.

    Args:
        results_path: the results tree.
        mode, metric, reference_path, how: as in `plot_optimizer_performance`.

    Returns:
        The figure.
    """
    return plot_optimizer_performance(results_path, mode, metric, reference_path, **how)


def plot_hyperparameter_sensitivity(
    path: str | Path,
    hyperparam: str = "lr",
    mode: str = "final",
    metric: str = "valid_accuracies",
    xscale: str = "linear",
    reference_path: str | Path | None = None,
    **how: Any,
) -> Figure:
    """Draws the metric of every setting over one hyperparameter; each point is the mean over the seeds.

    Args:
        path: of an optimizer, or of a problem with several.
        hyperparam: its name; `lr` for the learning rate.
        mode: `"final"` or `"best"`, the metric after the last epoch, or the best of any.
        metric: as in `plot_optimizer_performance`.
        xscale: `"linear"` or `"log"`.
        reference_path: of others beside them.
        how: DeepOBS's `fig`, `ax`, `show`, `plot_std`, which have no effect.

    Returns:
        The figure.

    Raises:
        ConfigError: no run has the hyperparameter.
    """
    from deepobs_func.analysis.figures.style import grid, style, styles

    results = _results(path, reference_path)
    with style():
        figure, axes = grid(len(results.problems))
        chosen, drawn = styles(results.optimizers), 0
        for axis, problem in zip(axes, results.problems, strict=True):
            for name in results.optimizers_on(problem):
                points = _points(results, problem, name, hyperparam, mode, metric)
                drawn += len(points)
                if points:
                    axis.plot(*zip(*points, strict=True), marker="o", label=name, **chosen[name].line)
            axis.set(title=problem, xlabel=hyperparam, ylabel=column_of(results, metric, problem), xscale=xscale)
            if axis.lines:
                axis.legend()
    if not drawn:
        raise ConfigError(f"No run below {path} has the hyperparameter {hyperparam!r}.")
    return figure


def _points(
    results: Results, problem: str, optimizer: str, hyperparam: str, mode: str, metric: str
) -> list[tuple[Any, float]]:
    found = []
    for each in settings_of(results, problem, optimizer, column_of(results, metric, problem)):
        row = results.row(each.runs[0])
        value = row["lr"] if hyperparam == "lr" else row["hyperparams"].get(hyperparam)
        if value is not None:
            found.append((value, each.best if mode == "best" else each.final))
    return sorted(found)


def get_performance_dictionary(
    optimizer_path: str | Path, mode: str = "most", metric: str = "valid_accuracies", conv_perf_file: Any = None
) -> dict[str, Any]:
    """What came of an optimizer on a problem.

    Args:
        optimizer_path: `<results>/<problem>/<optimizer>`.
        mode: which setting stands for it.
        metric: as in `plot_optimizer_performance`.
        conv_perf_file: has no effect: the published convergence performance counts.

    Returns:
        `Performance`, `Speed` (`"N.A."` without a target) and `Tuneability`.
    """
    results = _results(optimizer_path)
    row = analysis.benchmark_table(results, mode, column_of(results, metric)).iloc[0]
    speed = "N.A." if math.isnan(row["speed"]) else float(row["speed"])
    return {"Performance": float(row["performance"]), "Speed": speed, "Tuneability": dict(row["tuneability"])}


def check_output(results_path: str | Path) -> dict[tuple[str, str], dict[str, int]]:
    """Prints and returns how many runs each setting has.

    Args:
        results_path: the results tree.

    Returns:
        By problem and optimizer, the number of complete runs of each setting.

    Raises:
        DataError: a file cannot be read.
    """
    results = _results(results_path)
    if results.unread:
        raise DataError(f"{results.unread[0].path} cannot be read: {results.unread[0].reason}.")
    found = {
        (problem, name): {setting: len(runs) for setting, runs in results.complete_runs(problem, name).items()}
        for problem in results.problems
        for name in results.optimizers_on(problem)
    }
    for (problem, name), settings in found.items():
        print(f"{problem} | {name}: {len(settings)} settings, {sum(settings.values())} complete runs.")
    return found


def estimate_runtime(
    framework: str = "pytorch",
    runner_cls: Any = None,
    optimizer_cls: Any = None,
    optimizer_hp: Any = None,
    optimizer_hyperparams: Mapping[str, Any] | None = None,
    n_runs: int = 15,
    sgd_lr: float = 0.01,
    testproblem: str = "mnist_mlp",
    num_epochs: int | None = None,
    batch_size: int | None = None,
    **how: Any,
) -> dict[str, float]:
    """Measures what a step of an optimizer costs relative to SGD; the two take turns.

    Args:
        framework: `"pytorch"`.
        runner_cls, optimizer_hp: have no effect.
        optimizer_cls: the class.
        optimizer_hyperparams: its hyperparameters, with `lr`.
        n_runs: the turns, 3 or more.
        sgd_lr: has no effect on the cost.
        testproblem: the problem.
        num_epochs: has no effect: steps are measured.
        batch_size: by default the problem's.
        how: DeepOBS's other arguments, which have no effect.

    Returns:
        `ratio`, with the quartiles `low` and `high`; and `seconds` of a step.

    Raises:
        ConfigError: there is no class, or it cannot be run.
    """
    if optimizer_cls is None:
        raise ConfigError("estimate_runtime needs optimizer_cls, a class of torch.optim.Optimizer.")
    entrant = Entrant(optimizer_cls, {"lr": 0.01, **(optimizer_hyperparams or {})}, f"{optimizer_cls.__name__} (own)")
    sizes = {} if batch_size is None else {"batch_size": batch_size}
    baseline = Entrant("sgd", {"lr": sgd_lr})
    _, cost = measure([entrant], testproblem, baseline=baseline, rounds=n_runs, **sizes).costs
    print(f"{optimizer_cls.__name__} takes {cost.ratio:.2f} ({cost.low:.2f} to {cost.high:.2f}) times as long as SGD.")
    return {"ratio": cost.ratio, "low": cost.low, "high": cost.high, "seconds": cost.seconds}


def _results(*sources: Source | None) -> Results:
    paths: Iterable[str] = (
        each.path if isinstance(each, Analyzer) else str(each) for each in sources if each is not None
    )
    results = analysis.load(list(paths))
    if not len(results.runs):
        raise DataError(f"There is no run in {', '.join(str(each) for each in sources if each is not None)}.")
    return results


def column_of(results: Results, metric: str, problem: str | None = None) -> str | None:
    """DeepOBS's name of a metric as a column.

    Args:
        results: what was read.
        metric: such as `"valid_accuracies"`.
        problem: of its runs; None for all.

    Returns:
        The column; where no run has it, the test set's; else what the problem is judged by, or None for all of them.
    """
    column = _COLUMNS.get(metric, metric)
    runs = results.runs if problem is None else results.runs[results.runs["problem"] == problem]
    for name in (column, column.replace("valid", "test")):
        if any(results.has(run, name) for run in runs.index):
            return name
    return None if problem is None else results.metric(problem)
