"""`deepobs doctor`: what is here, what is missing, and what is slow and why."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import click

from deepobs_func import datasets
from deepobs_func.cli.data import data_option
from deepobs_func.cli.printing import as_json_option, print_json
from deepobs_func.datasets.at_hand import at_hand


@click.command("doctor")
@data_option
@as_json_option
def doctor_command(data: str, as_json: bool) -> None:
    """Show versions, compiler, devices, data and caches, and say what is missing or slow here, and why.

    Exit code 1 if runs would fail.
    """
    from deepobs_func.runner import checkup

    devices = checkup.devices()
    notes = list(checkup.notes(devices))
    found = {
        "versions": checkup.versions(),
        "extras": checkup.extras(),
        "devices": devices,
        "data": {"folder": data, "sets": {name: at_hand(datasets.spec(name), data).state for name in datasets.names()}},
        "caches": checkup.caches(),
        "notes": [note._asdict() for note in notes],
    }
    if as_json:
        print_json(found)
    else:
        _show(found)
    sys.exit(1 if any(note.kind == "broken" for note in notes) else 0)


def _show(found: Mapping[str, Any]) -> None:
    """The same for people."""
    _section("Versions", found["versions"])
    extras = {extra: _packages(packages) for extra, packages in found["extras"].items()}
    _section("Extras", extras)
    devices = found["devices"]
    _section("Machine", {name.replace("_", " "): _shown(name, value) for name, value in devices.items()})
    _section(f"Data in {found['data']['folder']}", found["data"]["sets"])
    caches = {name: f"{each['bytes'] / 1e6:.1f} MB in {each['folder']}" for name, each in found["caches"].items()}
    _section("Caches, which may be deleted", caches)
    click.secho("What to do", bold=True)
    for note in found["notes"]:
        click.echo(f"{note['kind']}: {note['what']}: {note['why']}. Mend: {note['mend']}.")
    if not found["notes"]:
        click.echo("Nothing.")


def _section(title: str, values: Mapping[str, Any]) -> None:
    click.secho(title, bold=True)
    width = max(map(len, values), default=0)
    for name, value in values.items():
        click.echo(f"  {name:{width}}  {'not installed' if value is None else value}")
    click.echo()


def _packages(packages: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {version or '(not installed)'}" for name, version in packages.items())


def _shown(name: str, value: Any) -> Any:
    if name == "memory_available":
        return f"{value / 1e9:.1f} GB"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return value or "none"
