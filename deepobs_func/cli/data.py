"""`deepobs data`: what is at hand, where it lies, what is fetched once, and whether it is whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import click

from deepobs_func import datasets
from deepobs_func.cli.printing import as_json_option, print_json, print_table
from deepobs_func.cli.types import complete, folders
from deepobs_func.datasets.at_hand import AtHand, at_hand
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import DataError, as_flag
from deepobs_func.runner.config import default_data

_SETS = click.argument("names", nargs=-1, metavar="[SET]...", shell_complete=complete(datasets.REGISTRY))
data_option = click.option(
    "--data", default=default_data, metavar="DIR", help="The data folder.", shell_complete=folders()
)


@click.group("data")
def data_command() -> None:
    """Fetch and check data sets and published runs; say where they are.

    The data folder is $DEEPOBS_DATA, else data_deepobs in the current folder.
    """


@data_command.command("status")
@_SETS
@data_option
@as_json_option
def status_command(names: tuple[str, ...], data: str, as_json: bool) -> None:
    """Show which data sets are at hand. Nothing is opened: deepobs data verify reads the files."""
    found = [at_hand(spec, data) for spec in _specs(names)]
    if as_json:
        print_json({"data": data, "sets": [each._asdict() for each in found]})
        return
    print_table(("data set", "at hand", "MB", "where"), map(_row, found))


@data_command.command("where")
@click.argument("name", required=False, metavar="[SET]", shell_complete=complete(datasets.REGISTRY))
@data_option
def where_command(name: str | None, data: str) -> None:
    """Print the data folder, or the folder in which the files of SET are. Exit code 1 if they are not there."""
    if name is None:
        click.echo(Path(data).expanduser().absolute())
        return
    spec = datasets.spec(name)
    found = at_hand(spec, data)
    if found.folder is None:
        goes = "" if spec.generated else f"it goes into {Path(data).expanduser() / spec.folders[0]}"
        place = goes or f"it is {spec.without_files}"
        click.echo(f"{spec.title} has no folder; {place}.", err=True)
        sys.exit(0 if spec.generated else 1)
    click.echo(found.folder.absolute())


@data_command.command("download")
@click.argument("names", nargs=-1, required=True, metavar="SET...", shell_complete=complete(datasets.REGISTRY, ["all"]))
@data_option
def download_command(names: tuple[str, ...], data: str) -> None:
    """Fetch data sets into the data folder; `all` for those that may be downloaded.

    A run does so itself at first use. What is there already stays. Exit code 1 if one of several could not be fetched.
    """
    from deepobs_func.datasets.loading import fetch

    def one(spec: DatasetSpec) -> str:
        found = at_hand(spec, data)
        if found.state == "part":
            raise DataError(f"{found.folder} lacks {', '.join(found.missing)}. Move it away, and download anew.")
        if found.state != "no":
            return f"is {spec.without_files}" if found.folder is None else f"is there already: {found.folder}"
        return f"fetched: {fetch(spec, Path(data).expanduser())}"

    everything = [spec for spec in datasets.REGISTRY.values() if spec.files and not spec.streamed]
    _each(everything if names == ("all",) else _specs(names), one)


@data_command.command("verify")
@_SETS
@data_option
def verify_command(names: tuple[str, ...], data: str) -> None:
    """Read data sets, by default those at hand, and compare them with the published ones.

    Exit code 1 if one is missing, cut off, or holds other data.
    """

    def one(spec: DatasetSpec) -> str:
        if at_hand(spec, data).state == "no":
            raise DataError(f"{spec.title} is not in {data}. Fetch it with: deepobs data download {spec.name}")
        from deepobs_func.datasets.verifying import verify

        return verify(spec, data)

    with_files = [spec for spec in _specs(()) if at_hand(spec, data).state in ("yes", "part")]
    if not (names or with_files):
        click.echo(f"No data set is in {data}. Fetch one with: deepobs data download SET")
    _each(_specs(names) if names else with_files, one)


@data_command.group("prepare")
def prepare_command() -> None:
    """Unpack what nobody may pass on, and so each user gets from its source."""


@prepare_command.command("imagenet")
@click.option(
    "--from", "source", metavar="DIR", help="Where the tar files are. Default: DATA/imagenet.", shell_complete=folders()
)
@data_option
def imagenet_command(source: str | None, data: str) -> None:
    """Unpack ImageNet's official tar files, sort the images by class, and check the result.

    It takes ILSVRC2012_img_train.tar, ILSVRC2012_img_val.tar and ILSVRC2012_devkit_t12.tar.gz; without them it says
    where they come from. It goes on where an earlier call was interrupted, and leaves the tar files where they are.
    """
    from deepobs_func.datasets.imagenet_archives import prepare

    spec = datasets.spec("imagenet")
    folder = Path(data).expanduser() / spec.folders[0]
    prepare(spec, folder if source is None else Path(source).expanduser(), folder, click.echo)


@data_command.command("baselines")
@click.argument("folder", default="baselines_deepobs", metavar="DIR", shell_complete=folders())
def baselines_command(folder: str) -> None:
    """Fetch the published runs of DeepOBS 1.1.2 into DIR, in DeepOBS's layout.

    The analysis has them without that, condensed: deepobs compare published.
    """
    from deepobs_func.compat.baselines import fetch_baselines

    new = fetch_baselines(folder)
    click.echo(f"{folder}: {new:,} new runs.")


def _specs(names: Iterable[str]) -> list[DatasetSpec]:
    """Those of some names, or all."""
    return [datasets.spec(name) for name in names or datasets.names()]


def _each(specs: list[DatasetSpec], one: Callable[[DatasetSpec], str]) -> None:
    """Says what came of each; one that fails does not stop the others. Exit code 1 if one failed."""
    failed = False
    for spec in specs:
        try:
            click.echo(f"{spec.name}: {one(spec)}")
        except DataError as error:
            failed = True
            click.echo(f"{spec.name}: {error.told(as_flag)}", err=True)
    sys.exit(1 if failed else 0)


def _row(found: AtHand) -> tuple[str, ...]:
    size = "" if found.size is None else f"{found.size / 1e6:.0f}"
    lacks = f" lacks {', '.join(found.missing)}" if found.missing else ""
    return (found.name, found.state, size, f"{found.folder or ''}{lacks}")
