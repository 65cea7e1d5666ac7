"""`deepobs check-parity`, `check-problem`, `check-optimizer` and `demo`: is all as it should be, what it looks like."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepobs_func import optimizers, problems
from deepobs_func.cli.of_optimizer import OptimizerCommand, taken_hyperparams
from deepobs_func.cli.types import complete, folders
from deepobs_func.records.places import output_path
from deepobs_func.runner.config import default_data

if TYPE_CHECKING:
    from deepobs_func.runner.checking import Finding


@click.command("check-parity")
@click.argument("names", nargs=-1, metavar="[PROBLEM]...", shell_complete=complete(problems.REGISTRY))
@click.option("--golden", type=click.Path(path_type=Path), help="Folder of golden figures; default: the package's.")
def check_parity_command(names: tuple[str, ...], golden: Path | None) -> None:
    """Compare with figures that DeepOBS 1.1.2's own model code computed: losses, penalty, gradients, moments.

    One line a problem, with the worst relative deviation of each figure; without names, of each of DeepOBS's problems.
    The package has figures of these alone (deepobs list --set deepobs); others need a folder of yours.
    Exit code 1 if one is beyond its tolerance.
    """
    for name in names:
        problems.spec_of(name)
    from deepobs_func.compat import parity

    if golden is None:
        parity.refuse_others(names)
    good = True
    for name in names or problems.SETS["deepobs"]:
        figures = parity.check(name, golden)
        limits = ("" if figure.holds else f" (allowed: {figure.tolerance:g})" for figure in figures)
        shown = " ".join(f"{f.name} {f.deviation:.1e}{limit}" for f, limit in zip(figures, limits, strict=True))
        holds = all(figure.holds for figure in figures)
        click.echo(f"{'equal  ' if holds else 'DIFFERS'} {name}: {shown}")
        good = good and holds
    sys.exit(0 if good else 1)


@click.command("check-problem")
@click.argument("problem", metavar="PROBLEM", shell_complete=complete(problems.REGISTRY))
@click.option("--compile/--no-compile", default=True, help="Whether its gradient is compiled; by default it is.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
def check_problem_command(problem: str, compile: bool, as_json: bool) -> None:
    """Look at a problem: what draws, what it remembers, which derivatives are right, what compiles.

    PROBLEM is a name or an import path, package.module:name, of a problem or of a function that makes one. Exit code 1
    if something is not as it should be.
    """
    from deepobs_func.runner.checking import examine_problem

    found = _problem(problem)
    sys.exit(_told(examine_problem(found, compile=compile), as_json))


@click.command("check-optimizer", cls=OptimizerCommand)
@click.argument("optimizer", metavar="OPTIMIZER", shell_complete=complete(optimizers.FUNCTIONAL))
@click.option("--lr", type=float, help="Learning rate. Default: the optimizer's own, or 0.01.")
@click.option(
    "--problem",
    metavar="NAME|PATH",
    help="What it is tried on, on random batches. Default: small nets.",
    shell_complete=complete(problems.REGISTRY),
)
@click.option("--compile/--no-compile", default=True, help="Whether its step is compiled; by default it is.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, one object a line.")
def check_optimizer_command(
    optimizer: str, lr: float | None, problem: str | None, compile: bool, as_json: bool, **options: Any
) -> None:
    """Try an optimizer for a minute: is it pure, what does it ask for, where is it finite, what does it cost.

    OPTIMIZER, which comes first, is a name (deepobs list) or the import path of a functional optimizer, of a
    torch.optim.Optimizer class, or of a function that makes an optimizer. Its hyperparameters are options, as of
    deepobs run. Exit code 1 if something is not as it should be.
    """
    from deepobs_func.runner.checking_optimizers import examine_optimizer

    found = None if problem is None else _problem(problem)
    hyperparams = taken_hyperparams(options)
    findings = examine_optimizer(optimizer, lr=lr, hyperparams=hyperparams, problem=found, compile=compile)
    sys.exit(_told(findings, as_json))


def _problem(name: str) -> Any:
    from deepobs_func.runner.config import is_path
    from deepobs_func.runner.plan import problem_at

    return problem_at(name) if is_path(name) else problems.get(name)


def _told(findings: Iterable[Finding], as_json: bool) -> int:
    """Says what was found, line by line as it is found; the exit code."""
    good = True
    for finding in findings:
        mark = {True: "good", False: "BAD", None: ""}[finding.good]
        line = json.dumps(finding._asdict()) if as_json else f"{mark:5}{finding.check}: {finding.found}"
        click.echo(line)
        good = good and finding.good is not False
    return 0 if good else 1


@click.command("demo")
@click.option(
    "--data",
    default=default_data,
    metavar="DIR|synthetic",
    help="Where MNIST may be.",
    shell_complete=folders("synthetic"),
)
@click.option(
    "--output-dir",
    default="demo",
    show_default=True,
    help="Gets records, figures and a report.",
    shell_complete=folders(),
)
def demo_command(data: str, output_dir: str) -> None:
    """Three optimizers against published numbers on quadratic_deep, and against each other on mnist_mlp."""
    from rich.console import Console

    from deepobs_func.demo import demo, processes

    with processes() as map_runs:
        demo(Console(), data, output_path(output_dir), map_runs)
