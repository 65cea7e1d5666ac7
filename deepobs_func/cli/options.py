"""Options that several commands share, each written once."""

from __future__ import annotations

from collections.abc import Callable

import click

from deepobs_func import optimizers, problems
from deepobs_func.cli.types import DEVICES, Names, complete, complete_list, folders
from deepobs_func.runner.config import BN_SYNC, COMPILE, PRECISIONS, PROTOCOLS, default_data

Command = Callable[..., None]
MODES = ("most", "final", "best")
CLOCKS = ("epoch", "step", "seconds", "gradients", "cost")

_OF_RUNS: dict[str, Callable[[Command], Command]] = {
    "epochs": click.option("--epochs", "-N", type=int, help="Default: the problem's published value."),
    "batch_size": click.option("--batch-size", "--bs", type=int, help="Default: the problem's published value."),
    "weight_decay": click.option(
        "--weight-decay", "--wd", type=float, help="The problem's L2 factor. Default: the problem's own."
    ),
    "protocol": click.option(
        "--protocol",
        default="default",
        show_default=True,
        help=f"{' or '.join(PROTOCOLS)}.",
        shell_complete=complete(PROTOCOLS),
    ),
    "data": click.option(
        "--data",
        default=default_data,
        metavar="DIR|synthetic",
        help="Data folder, or the stand-in.",
        shell_complete=folders("synthetic"),
    ),
    "output_dir": click.option(
        "--output-dir", default="results", show_default=True, help="The results tree.", shell_complete=folders()
    ),
    "device": click.option(
        "--device",
        default="auto",
        show_default=True,
        help="auto, cpu, cuda, cuda:1, ...",
        shell_complete=complete(DEVICES),
    ),
    "compile": click.option(
        "--compile",
        default="auto",
        show_default=True,
        help=f"{', '.join(COMPILE)}.",
        shell_complete=complete(COMPILE),
    ),
    "precision": click.option(
        "--precision",
        default="float32",
        show_default=True,
        help=f"{', '.join(PRECISIONS)}.",
        shell_complete=complete(PRECISIONS),
    ),
}
_OF_ONE_RUN: dict[str, Callable[[Command], Command]] = {
    "micro_batch": click.option(
        "--micro-batch", type=int, metavar="N", help="Look at N examples of a batch at a time, in as little memory."
    ),
    "deterministic": click.option(
        "--deterministic", is_flag=True, help="The same bits each time on a GPU too, by slower kernels."
    ),
    "activation_checkpointing": click.option(
        "--activation-checkpointing",
        is_flag=True,
        help="Compute the blocks of the net anew in the backward pass, in less memory.",
    ),
    "bn_sync": click.option(
        "--bn-sync",
        default="sync",
        show_default=True,
        metavar="sync|local",
        help="Of several processes: batch norm's statistics are of all shards, or of each.",
        shell_complete=complete(BN_SYNC),
    ),
}
_OF_RECORDS: dict[str, Callable[[Command], Command]] = {
    "problem": click.option(
        "--problem",
        type=Names(),
        metavar="NAMES",
        help="These alone, with commas.",
        shell_complete=complete_list(problems.REGISTRY),
    ),
    "optimizer": click.option(
        "--optimizer",
        type=Names(),
        metavar="NAMES",
        help="These alone, with commas.",
        shell_complete=complete_list(optimizers.FUNCTIONAL),
    ),
    "metric": click.option("--metric", metavar="NAME", help="test_loss, valid_accuracy, ... Default: the problem's."),
    "mode": click.option(
        "--mode",
        default="most",
        show_default=True,
        metavar="NAME",
        help="most: the most seeds; final: the best final mean; best: the best mean of any epoch.",
        shell_complete=complete(MODES),
    ),
    "baselines": click.option(
        "--baselines",
        metavar="published|DIR",
        help="`published` for the runs that come with the package, or a folder of others.",
        shell_complete=folders("published"),
    ),
    "results": click.option(
        "--results",
        "results_dir",
        default="results",
        show_default=True,
        help="The results tree.",
        shell_complete=folders(),
    ),
    "json": click.option("--json", "as_json", is_flag=True, help="As JSON; what is not finite is null."),
}
_SHARED = _OF_RUNS | _OF_ONE_RUN | _OF_RECORDS


def shared(*names: str) -> Callable[[Command], Command]:
    """Options of a command by their names, in this order.

    Args:
        names: fields of each run's `RunConfig` (`"protocol"`), or what chooses among records (`"mode"`).

    Returns:
        A decorator of the function of a command.
    """

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _SHARED[name](command)
        return command

    return add


def of_every_run(command: Command) -> Command:
    """Adds the options that become fields of each run's `RunConfig`.

    Args:
        command: the function of a command.

    Returns:
        The same, with the options.
    """
    return shared(*_OF_RUNS)(command)
