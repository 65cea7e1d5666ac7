"""The command line: parse, call, print. torch is imported when a command needs it."""

from __future__ import annotations

import importlib.util
import inspect
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

import deepobs_func
from deepobs_func import datasets, optimizers, problems
from deepobs_func.cli_types import Every, Names, Numbers, Value
from deepobs_func.errors import ConfigError, UserError, as_flag
from deepobs_func.probes.rows import PRESETS, QUANTITIES
from deepobs_func.records import output_path
from deepobs_func.runner.config import (
    COMPILE,
    MEMORY_FORMATS,
    PRECISIONS,
    PROTOCOLS,
    TRACK_BN,
    RunConfig,
    default_data,
    resolve,
    unknown_optimizer,
)

_LISTS = ("--lr-sched-epochs", "--lr-sched-factors")
_TRACK = "Quantities of some steps, with commas: grad_norm,norm_test or a preset, economy or full; see deepobs list."
_PREFIX = "opt_"  # of the names under which hyperparameters are parsed


class RunCommand(click.Command):
    """`deepobs run`, which takes an option for every hyperparameter of the optimizer that is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Finds the optimizer first, since it decides which options there are."""
        args = _join_lists(args)
        optimizer = _named_optimizer(args)
        ctx.meta["hyperparameters"] = _hyperparameter_options(optimizer, self.params)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            taken = ", ".join(_hyperparameters(optimizer)) or "none beside --lr"
            raise click.NoSuchOption(
                error.option_name,
                f"No such option {error.option_name!r}. Hyperparameters of {optimizer}: {taken}.",
                error.possibilities,
                ctx,
            ) from error

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """The fixed options and those of the optimizer."""
        return [*super().get_params(ctx), *ctx.meta.get("hyperparameters", [])]


def _join_lists(args: Sequence[str]) -> list[str]:
    """`--flag 50 100` becomes `--flag 50,100` for the flags that take several numbers."""
    result: list[str] = []
    in_list = False
    for arg in args:
        if in_list and _is_number(arg):
            separator = "" if result[-1].endswith("=") else ","
            result[-1] += separator + arg
        else:
            in_list = arg in _LISTS
            result.append(f"{arg}=" if in_list else arg)
    return result


def _is_number(text: str) -> bool:
    """Whether the text is a number, or several with commas between them."""
    try:
        return all(float(part) is not None for part in text.split(","))
    except ValueError:
        return False


def _named_optimizer(args: Sequence[str]) -> str | None:
    for index, arg in enumerate(args):
        if arg == "--optimizer" and index + 1 < len(args):
            return args[index + 1]
        if arg.startswith("--optimizer="):
            return arg.partition("=")[2]
    return None


def _hyperparameters(optimizer: str | None) -> Mapping[str, Any]:
    if optimizer in optimizers.FUNCTIONAL:
        return optimizers.FUNCTIONAL[optimizer].defaults
    if optimizer is None:
        return {}
    if "." not in optimizer:
        raise ConfigError(unknown_optimizer(optimizer))
    from deepobs_func.optimizers.torch_optim import constructor_defaults, load_class

    return constructor_defaults(load_class(optimizer))


def _hyperparameter_options(optimizer: str | None, fixed: Sequence[click.Parameter]) -> list[click.Option]:
    """One option for each hyperparameter, `--NAME` and `--opt.NAME`; only the latter where a flag has the name."""
    taken = {name.replace("-", "_") for parameter in fixed for name in parameter.opts}
    options = []
    for name, default in _hyperparameters(optimizer).items():
        flags = [f"--opt.{name}"] if f"__{name}" in taken else [f"--{name}", f"--opt.{name}"]
        shown = "required" if default is inspect.Parameter.empty else f"default: {default}"
        help = f"Hyperparameter of {optimizer}; {shown}."
        options.append(click.Option([*flags, f"{_PREFIX}{name}"], type=Value(default), help=help, metavar="VALUE"))
    return options


def _complete(names: Sequence[str]) -> Any:
    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]

    return complete


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(deepobs_func.__version__, prog_name="deepobs")
def cli() -> None:
    """Benchmark optimizers on the test problems of DeepOBS.

    \b
    deepobs list
    deepobs run mnist_mlp --optimizer adam --lr 1e-3 --epochs 5
    deepobs demo

    Shell completion, for bash: eval "$(_DEEPOBS_COMPLETE=bash_source deepobs)"
    """  # noqa: D301  # a backspace is Click's mark of lines that stay as they are


@cli.command("list")
def list_command() -> None:
    """List the test problems, the optimizers and the quantities that can be tracked."""
    from rich.console import Console
    from rich.table import Table

    console = Console(soft_wrap=True) if sys.stdout.isatty() else Console(width=110)
    table = Table("problem", "data set", "measure", box=None)
    for title in ("parameters", "epochs", "batch size", "weight decay"):
        table.add_column(title, justify="right")
    for name in problems.names():
        row = problems.row(name)
        decay = "-" if row.weight_decay is None else f"{row.weight_decay:g}"
        measure = "accuracy" if row.accuracy else "loss"
        title = datasets.spec(row.dataset).title
        chosen = "*" if row.defaults_chosen_here else ""
        numbers = (f"{row.parameters:,}", f"{row.epochs}{chosen}", f"{row.batch_size}{chosen}", decay)
        table.add_row(name, title, measure, *numbers)
    console.print(table)
    console.print("* chosen here; nothing is published\n")
    table = Table("optimizer", "hyperparameters beside --lr", "", box=None)
    for functional in optimizers.FUNCTIONAL.values():
        defaults = " ".join(f"{name}={_shown(value)}" for name, value in functional.defaults.items())
        table.add_row(functional.name, defaults, functional.summary)
    table.add_row("torch.optim.X", "those of the class", "any torch.optim.Optimizer class, by import path")
    console.print(table)
    console.print()
    table = Table("quantity", "in preset economy", "", box=None)
    for quantity in QUANTITIES.values():
        table.add_row(quantity.name, "yes" if quantity.name in PRESETS["economy"] else "", quantity.summary)
    console.print(table)


def _shown(value: float | str | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


@cli.command("run", cls=RunCommand)
@click.argument("problem", shell_complete=_complete(problems.names()))
@click.option(
    "--optimizer",
    required=True,
    metavar="NAME|CLASS",
    help=f"{', '.join(optimizers.names())}, or the import path of a torch.optim.Optimizer class.",
    shell_complete=_complete(optimizers.names()),
)
@click.option("--lr", type=float, required=True, help="Learning rate.")
@click.option("--epochs", "-N", type=int, help="Default: the problem's published value.")
@click.option("--batch-size", "--bs", type=int, help="Default: the problem's published value.")
@click.option("--seed", "-r", type=int, default=42, show_default=True)
@click.option("--weight-decay", "--wd", type=float, help="The problem's L2 factor. Default: the problem's own.")
@click.option("--lr-sched-epochs", type=Numbers(int), metavar="E1 E2 ...", help="The learning rate changes here,")
@click.option("--lr-sched-factors", type=Numbers(float), metavar="F1 F2 ...", help="to lr times these factors.")
@click.option("--protocol", default="default", show_default=True, help=f"{' or '.join(PROTOCOLS)}.")
@click.option("--data", default=default_data, metavar="DIR|synthetic", help="Data folder, or the stand-in.")
@click.option("--output-dir", default="results", show_default=True, help="The results tree.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--compile", default="auto", show_default=True, help=f"{', '.join(COMPILE)}.")
@click.option("--memory-format", default="auto", show_default=True, help=f"Of images: {', '.join(MEMORY_FORMATS)}.")
@click.option("--precision", default="float32", show_default=True, help=f"{', '.join(PRECISIONS)}.")
@click.option("--train-log-interval", type=int, default=10, show_default=True, help="Steps between recorded losses.")
@click.option("--on-divergence", metavar="stop|continue", help="At an objective that is not finite.")
@click.option("--workers", type=int, help="Processes that read streamed data (ImageNet). Default: cores - 1, up to 16.")
@click.option(
    "--track", type=Names(), default=(), metavar="NAMES", help=_TRACK, shell_complete=_complete([*QUANTITIES, *PRESETS])
)
@click.option("--track-every", type=Every(), default=10, show_default=True, metavar="N|log", help="Steps between two.")
@click.option("--track-bn", metavar="MODE", help=f"On nets with batch norm: {', '.join(TRACK_BN)}.")
@click.option("--quiet", "-q", is_flag=True, help="Print nothing but the file's name.")
def run_command(quiet: bool, **options: Any) -> None:
    """Run one optimizer on one test problem and write its record.

    Every hyperparameter of the optimizer is an option: --momentum 0.99, --betas 0.9,0.99, --nesterov True. One that
    has the name of a flag is --opt.NAME. With --optimizer NAME --help they are listed.
    """
    hyperparams = {name.removeprefix(_PREFIX): options.pop(name) for name in list(options) if name.startswith(_PREFIX)}
    given = {name: value for name, value in hyperparams.items() if value is not None}
    config = RunConfig(**options, hyperparams=given)
    resolve(config)  # what is wrong in itself is said before torch is imported

    from rich.console import Console

    from deepobs_func.runner import RunInterrupted, run
    from deepobs_func.runner.progress import make_reporter

    signal.signal(signal.SIGTERM, _terminate)
    try:
        record = run(config, reporter=make_reporter(Console(), quiet=quiet))
    except RunInterrupted as interrupt:
        kept = f"; written to {interrupt.record.path}" if interrupt.record.path else "; nothing was trained yet"
        click.echo(f"Run {interrupt}{kept}", err=True)
        sys.exit(130)
    if record.synthetic and not quiet:
        click.echo("On the synthetic stand-in: these numbers are no result.")
    if record.status == "diverged" and not quiet:
        where = record.extra["divergence"]
        click.echo(f"Diverged in epoch {where['epoch']}: the objective was not finite.")
    if record.note:
        click.echo(record.note, err=True)
    click.echo(record.path)


def _terminate(number: int, frame: Any) -> None:
    """A job that is cancelled keeps its epochs, as after Ctrl-C.

    The workers that read its data may get the same signal and die of it, which torch, told of their death by another
    signal, would raise in the middle of whatever writes the record.
    """
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
    raise KeyboardInterrupt


@cli.command("check-parity")
@click.argument("names", nargs=-1, metavar="[PROBLEM]...", shell_complete=_complete(problems.names()))
@click.option("--golden", type=click.Path(path_type=Path), help="Folder of golden figures; default: the package's.")
def check_parity_command(names: tuple[str, ...], golden: Path | None) -> None:
    """Compare with figures that DeepOBS 1.1.2's own model code computed: losses, penalty, gradients, moments.

    One line a problem, with the worst relative deviation of each figure. Exit code 1 if one is beyond its tolerance.
    """
    for name in names:
        problems.row(name)
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


@cli.command("demo")
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


def main() -> None:
    """The entry point `deepobs`: a user's mistake exits with 2 and no traceback, Ctrl-C with 130."""
    sys.path.append("")  # the current folder, so that its `my_module.MyOptimizer` is found
    try:
        sys.exit(cli.main(prog_name="deepobs", standalone_mode=False))
    except UserError as error:
        click.echo(f"Error: {error.told(as_flag)}", err=True)
        for note in getattr(error, "__notes__", ()):  # where the record of a run is that failed in the middle
            click.echo(note, err=True)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        sys.exit(130)
