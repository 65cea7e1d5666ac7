"""The command line: parse, call, print. torch is imported when a command needs it."""

from __future__ import annotations

import contextlib
import sys

import click

import deepobs_func
from deepobs_func.cli.check import check_parity_command, demo_command
from deepobs_func.cli.run import resume_command, run_command
from deepobs_func.cli.show import list_command
from deepobs_func.errors import UserError, as_flag

__all__ = ["cli", "main"]


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


for command in (list_command, run_command, resume_command, check_parity_command, demo_command):
    cli.add_command(command)


def main() -> None:
    """The entry point `deepobs`: a user's mistake exits with 2 and no traceback, a signal with 130."""
    sys.path.append("")  # the current folder, so that its `my_module.MyOptimizer` is found
    try:
        code = cli.main(prog_name="deepobs", standalone_mode=False)
    except UserError as error:
        _tell(f"Error: {error.told(as_flag)}", error)
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except SystemExit as error:
        if not hasattr(error, "__notes__"):
            raise
        _tell(f"Error: something in the run ended the process (SystemExit: {error}).", error)
        sys.exit(error.code or 1)  # the run has failed, whatever the code says
    sys.exit(code)


def _tell(text: str, error: BaseException) -> None:
    """Says what happened, and, where a run failed in the middle, where its record is."""
    for line in (text, *getattr(error, "__notes__", ())):
        with contextlib.suppress(OSError):  # nobody reads it
            click.echo(line, err=True)
