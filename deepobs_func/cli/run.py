"""`deepobs run` and `deepobs resume`: one run, from its options to its record."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deepobs_func import optimizers, problems
from deepobs_func.cli.of_optimizer import OptimizerCommand, taken_hyperparams
from deepobs_func.cli.options import shared
from deepobs_func.cli.types import Every, Names, Numbers, Whole, complete, complete_list, files, folders
from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import PRESETS, QUANTITIES
from deepobs_func.runner import signals
from deepobs_func.runner.config import (
    MEMORY_FORMATS,
    SCHEDULES,
    TRACK_BN,
    RunConfig,
    is_path,
    resolve,
)

if TYPE_CHECKING:
    from deepobs_func.runner import RunInterrupted
    from deepobs_func.runner.callbacks import Callback

_LISTS = ("--lr-sched-epochs", "--lr-sched-factors", "--decay-epochs")
_TRACK = "Quantities of some steps, with commas: grad_norm,norm_test or a preset, economy or full; see deepobs list."


class RunCommand(OptimizerCommand):
    """`deepobs run`, which takes an option for every hyperparameter of the optimizer that is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Finds the optimizer first, since it decides which options there are.

        From here on, where torch may be imported, a signal waits until there is a run that can keep what it did.
        """
        ctx.with_resource(signals.caught())
        ctx.with_resource(signals.SHIELD.raised())
        try:
            return super().parse_args(ctx, _join_lists(args))
        except BaseException:  # click closes a context only once it is made
            ctx.close()
            raise

    def named_optimizer(self, args: Sequence[str]) -> str | None:
        """The value of `--optimizer`."""
        for index, arg in enumerate(args):
            if arg == "--optimizer" and index + 1 < len(args):
                return args[index + 1]
            if arg.startswith("--optimizer="):
                return arg.partition("=")[2]
        return None


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


def _while_it_goes(command: Callable[..., None]) -> Callable[..., None]:
    """The options of what a run shows and when it ends, which `run` and `resume` share."""
    options = (
        click.option("--stop-at", metavar="QUANTITY=VALUE", help="End at a target: test_accuracy=0.9, valid_loss=0.1."),
        click.option("--max-seconds", type=float, help="End after so many seconds of training."),
        click.option(
            "--log-json",
            metavar="FILE",
            help="A line of JSON for each evaluation, at the end of the file.",
            shell_complete=files(),
        ),
        click.option(
            "--tensorboard",
            metavar="DIR",
            help="Write losses, accuracies and what is tracked.",
            shell_complete=folders(),
        ),
        click.option("--quiet", "-q", is_flag=True, help="Print nothing but the file's name."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("run", cls=RunCommand)
@click.argument("problem", shell_complete=complete(problems.REGISTRY))
@click.option(
    "--optimizer",
    required=True,
    metavar="NAME|PATH",
    help=f"{', '.join(optimizers.FUNCTIONAL.own)}, another one of deepobs list, or the import path "
    "of a torch.optim.Optimizer class or of a function that makes an optimizer (my_file:make).",
    shell_complete=complete(optimizers.FUNCTIONAL),
)
@click.option("--lr", type=float, required=True, help="Learning rate.")
@shared("epochs", "batch_size")
@click.option("--seed", "-r", type=int, default=42, show_default=True)
@shared("weight_decay")
@click.option(
    "--schedule",
    metavar="NAME",
    help=f"Of the learning rate: {', '.join(SCHEDULES)}.",
    shell_complete=complete(SCHEDULES),
)
@click.option("--warm-up", type=float, default=0.0, metavar="EPOCHS", help="Linear growth before the schedule.")
@click.option("--decay-epochs", type=Numbers(int), metavar="E1 E2 ...", help="Where --schedule steps decays.")
@click.option("--decay-factor", type=float, default=0.1, show_default=True, help="Of --schedule steps, exponential.")
@click.option("--lr-sched-epochs", type=Numbers(int), metavar="E1 E2 ...", help="The learning rate changes here,")
@click.option("--lr-sched-factors", type=Numbers(float), metavar="F1 F2 ...", help="to lr times these factors.")
@click.option("--clip-norm", type=float, help="The largest norm of the gradient.")
@click.option("--clip-value", type=float, help="The largest magnitude of an element of the gradient.")
@shared("protocol")
@click.option(
    "--valid", type=Whole(), is_flag=False, flag_value=True, default=0, metavar="[N]", help="Set examples aside."
)
@shared("data", "output_dir", "device", "compile")
@click.option(
    "--execution", "execution", metavar="FILE", help="Execute it as a record, or a file, says.", shell_complete=files()
)
@click.option(
    "--memory-format",
    default="auto",
    show_default=True,
    help=f"Of images: {', '.join(MEMORY_FORMATS)}.",
    shell_complete=complete(MEMORY_FORMATS),
)
@shared("precision", "deterministic", "micro_batch", "activation_checkpointing", "bn_sync")
@click.option("--train-log-interval", type=int, default=10, show_default=True, help="Steps between recorded losses.")
@click.option(
    "--on-divergence",
    metavar="stop|continue",
    help="At an objective that is not finite.",
    shell_complete=complete(("stop", "continue")),
)
@click.option("--workers", type=int, help="Processes that read streamed data. Default: cores - 1, up to 16.")
@click.option(
    "--track", type=Names(), default=(), metavar="NAMES", help=_TRACK, shell_complete=complete_list(QUANTITIES, PRESETS)
)
@click.option("--track-every", type=Every(), default=10, show_default=True, metavar="N|log", help="Steps between two.")
@click.option(
    "--track-bn",
    metavar="MODE",
    help=f"On nets with batch norm: {', '.join(TRACK_BN)}.",
    shell_complete=complete(TRACK_BN),
)
@click.option(
    "--checkpoint-every", default="auto", show_default=True, metavar="N|Nsteps|auto|never", help="Epochs or steps."
)
@click.option("--keep", type=int, default=1, show_default=True, help="How many checkpoints stay.")
@click.option("--resume", is_flag=True, help="Go on where the same command was; do nothing where it is finished.")
@_while_it_goes
def run_command(execution: str | None, decay_epochs: tuple[int, ...] | None, resume: bool, **options: Any) -> None:
    """Run one optimizer on one test problem and write its record.

    PROBLEM is a name (deepobs list) or the import path of a problem or of a function that makes one
    (my_package.my_file:problem). Every hyperparameter of the optimizer is an option: --momentum 0.99, --betas
    0.9,0.99, --nesterov True. One that has the name of a flag is --opt.NAME. With --optimizer NAME --help they are
    listed.
    """
    hyperparams = taken_hyperparams(options)
    shown = {name: options.pop(name) for name in ("stop_at", "max_seconds", "log_json", "tensorboard", "quiet")}
    options["lr_sched_epochs"] = _decay_epochs(decay_epochs, options["schedule"], options["lr_sched_epochs"])
    config = RunConfig(**options, hyperparams=hyperparams)
    if not is_path(config.problem):
        resolve(config)  # what is wrong in itself is said before torch is imported
    _run(config, execution, resume, **shown)


@click.command("resume")
@click.argument("path", type=click.Path(path_type=Path))
@_while_it_goes
def resume_command(path: Path, **shown: Any) -> None:
    """Go on with a run from a checkpoint, or from the partial record of a run that was interrupted.

    PATH is a file *.safetensors or *.json.partial in the state folder beside the results tree.
    """
    with signals.caught(), signals.SHIELD.raised():
        from deepobs_func.runner import checkpoint
        from deepobs_func.runner.resuming import configuration_of, output_dir_of

        config = configuration_of(path)
        config = replace(config, output_dir=output_dir_of(path, config))
        _run(config, None, path if path.suffix == checkpoint.SUFFIX else True, **shown)


def _run(config: RunConfig, execution: str | None, resume: bool | Path, quiet: bool, **shown: Any) -> None:
    """Runs it, and says where its record is."""
    from rich.console import Console

    from deepobs_func.runner import Execution, RunInterrupted, run
    from deepobs_func.runner.distributed import joined, rank_started
    from deepobs_func.runner.progress import make_progress, say

    is_first = rank_started() == 0  # the others print and write nothing
    quiet = quiet or not is_first
    shown |= {} if is_first else {"log_json": None, "tensorboard": None}
    callbacks: list[Callback] = [*_callbacks(**shown), *make_progress(Console(), quiet=quiet)]
    how = None if execution is None else Execution.read(execution)
    try:
        with joined(config.device):
            ended = run(config, callbacks=callbacks, execution=how, resume=resume)
    except RunInterrupted as interrupt:
        for line in _interrupted(interrupt) if is_first else []:
            say(line, err=True)
        sys.exit(130)
    record = ended.record
    if not is_first:
        return
    if ended.training is None and not quiet:
        say("This run is finished already; nothing was done.")
    if record.synthetic and not quiet:
        say("On the synthetic stand-in: these numbers are no result.")
    if record.status == "diverged" and not quiet:
        say(f"Diverged in epoch {record.extra['divergence']['epoch']}: the objective was not finite.")
    if record.status == "stopped" and not quiet:
        say(f"Stopped: {record.extra['stopped']}.")
    if record.note:
        say(record.note, err=True)
    if "checkpoint_failed" in record.extra:
        say(f"The last checkpoint could not be written: {record.extra['checkpoint_failed']}", err=True)
    say(str(record.path))


def _callbacks(
    stop_at: str | None, max_seconds: float | None, log_json: str | None, tensorboard: str | None
) -> list[Callback]:
    """Those that were asked for."""
    from deepobs_func.runner import callbacks

    found: list[Callback] = []
    if stop_at is not None:
        found.append(callbacks.StopAt(*_target(stop_at)))
    if max_seconds is not None:
        found.append(callbacks.max_seconds(max_seconds))
    if log_json is not None:
        found.append(callbacks.JsonLines(log_json))
    if tensorboard is not None:
        found.append(callbacks.TensorBoard(tensorboard))
    return found


def _interrupted(interrupt: RunInterrupted) -> list[str]:
    """What is said of a run that a signal ended: where its record is, and how it goes on."""
    record = interrupt.record
    if record.path is None:
        return [f"Run {interrupt}."]
    lines = [f"Run {interrupt}; written to {record.path}. {record.note}".rstrip()]
    if interrupt.checkpoint is not None:
        lines.append(f"Go on with: deepobs resume {shlex.quote(str(interrupt.checkpoint))}")
    if "checkpoint_failed" in record.extra:
        lines.append(f"No checkpoint could be written: {record.extra['checkpoint_failed']}")
    return lines


def _decay_epochs(
    decay: tuple[int, ...] | None, schedule: str | None, epochs: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    """The epochs of a schedule, of the two options that give them."""
    if decay is not None and (schedule != "steps" or epochs is not None):
        raise ConfigError(
            "--decay-epochs is of --schedule steps alone; give that, and no --lr-sched-epochs, or drop it."
        )
    if schedule == "steps" and decay is None and epochs is None:
        raise ConfigError("--schedule steps needs --decay-epochs, at each of which the rate decays.")
    return epochs if decay is None else decay


def _target(text: str) -> tuple[str, float]:
    quantity, _, value = text.partition("=")
    try:
        return quantity, float(value)
    except ValueError:
        raise ConfigError(f"--stop-at {text}: it must be QUANTITY=VALUE, such as test_accuracy=0.9.") from None
