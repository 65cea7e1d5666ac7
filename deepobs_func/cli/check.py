"""`deepobs check-parity` and `deepobs demo`: whether all is as it should be, and what it looks like."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import click

from deepobs_func import problems
from deepobs_func.cli.types import complete
from deepobs_func.errors import ConfigError
from deepobs_func.records.places import output_path
from deepobs_func.runner.config import default_data


@click.command("check-parity")
@click.argument("names", nargs=-1, metavar="[PROBLEM]...", shell_complete=complete(problems.REGISTRY))
@click.option("--golden", type=click.Path(path_type=Path), help="Folder of golden figures; default: the package's.")
def check_parity_command(names: tuple[str, ...], golden: Path | None) -> None:
    """Compare with figures that DeepOBS 1.1.2's own model code computed: losses, penalty, gradients, moments.

    One line a problem, with the worst relative deviation of each figure. Exit code 1 if one is beyond its tolerance.
    """
    for name in names:
        problems.spec_of(name)
    from deepobs_func.compat import parity

    good = True
    for name in names or problems.names():
        figures = parity.check(name, golden)
        limits = ("" if figure.holds else f" (allowed: {figure.tolerance:g})" for figure in figures)
        shown = " ".join(f"{f.name} {f.deviation:.1e}{limit}" for f, limit in zip(figures, limits, strict=True))
        holds = all(figure.holds for figure in figures)
        click.echo(f"{'equal  ' if holds else 'DIFFERS'} {name}: {shown}")
        good = good and holds
    sys.exit(0 if good else 1)


@click.command("demo")
@click.option("--data", default=default_data, metavar="DIR|synthetic", help="Where MNIST may be.")
@click.option("--output-dir", default="demo", show_default=True, help="Gets records and figures.")
def demo_command(data: str, output_dir: str) -> None:
    """Three optimizers against published numbers on quadratic_deep, and against each other on mnist_mlp."""
    from rich.console import Console

    missing = [name for name in ("matplotlib", "scipy") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"The demonstration needs {' and '.join(missing)}: pip install 'deepobs-func[report]'")
    from deepobs_func.demo import demo, processes

    with processes() as map_runs:
        demo(Console(), data, output_path(output_dir), map_runs)
