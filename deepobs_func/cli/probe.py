"""`deepobs probe`: quantities of a run that has ended, at its checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deepobs_func.cli.options import shared
from deepobs_func.cli.types import Names, complete, complete_list, files, folders
from deepobs_func.errors import ConfigError, option
from deepobs_func.probes.catalog import ALIASES, PRESETS, QUANTITIES
from deepobs_func.runner.config import TRACK_BN

_OVER = ("batch", "train", "valid", "test")


@click.command("probe")
@click.argument("path", metavar="RUN|CHECKPOINT", type=click.Path(path_type=Path), shell_complete=files())
@click.option(
    "--quantities",
    type=Names(),
    required=True,
    metavar="NAMES",
    help="As of run --track: hess_max_ev,trace,spectrum,grad_norm/layer, or a preset; see deepobs list.",
    shell_complete=complete_list(QUANTITIES, PRESETS, ALIASES),
)
@click.option("--at", default="all", show_default=True, metavar="EPOCHS", help="0,5,10 (0 is the start), last or all.")
@click.option(
    "--over",
    default="batch",
    show_default=True,
    metavar="WHAT",
    help="batch, that of the next step; or a data set: train, valid or test.",
    shell_complete=complete(_OVER),
)
@click.option("--batches", type=int, metavar="N", help="The mean over N batches; of a data set, its first N.")
@click.option(
    "--bn",
    metavar="MODE",
    help=f"On nets with batch norm: {', '.join(TRACK_BN)}. Default: that of the run.",
    shell_complete=complete(TRACK_BN),
)
@click.option("--data", metavar="DIR", help="Where the data are, if they moved.", shell_complete=folders("synthetic"))
@click.option(
    "--output",
    metavar="FILE",
    help="Write the record to this new file; leave the run's own.",
    shell_complete=files(),
)
@shared("json")
def probe_command(path: Path, quantities: tuple[str, ...], at: str, as_json: bool, **how: Any) -> None:
    """Compute quantities at the kept checkpoints of a run, into its record.

    RUN is a record, *.json or *.json.partial, of a run with --checkpoint-every and --keep; CHECKPOINT one of its files
    *.safetensors. At a checkpoint a quantity is that of the step which the run makes next: what --track would have
    found. `deepobs plot tracked` and `deepobs report` show it beside what was tracked. Of a schedule-free method it is
    at y, where gradients are taken; the losses in the record are at the average x.
    """
    epochs = _epochs(at)
    from rich.console import Console

    from deepobs_func.analysis.plain import as_json as to_json
    from deepobs_func.runner.probing import How, probe

    console = Console(stderr=True)
    with console.status("probing") as status:
        given = How(progress=lambda done, of: status.update(f"probing: {done} of {of}"), **how)
        record, entry = probe(path, quantities, epochs, given)
    if as_json:
        click.echo(to_json({"file": str(record.path), "probed": entry}))
        return
    for name, column in entry["quantities"].items():
        value = column["values"][-1]
        if not isinstance(value, list):
            click.echo(f"{name}: {value:.6g} at step {column['steps'][-1]}")
    click.echo(str(record.path))


def _epochs(text: str) -> tuple[int, ...] | str:
    """The epochs that a text has, or one of the words for them."""
    if text in ("all", "last"):
        return text
    try:
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        raise ConfigError(
            f"{option('at')} {text}: it must be all, last, or epochs with commas, such as 0,5,10."
        ) from None
