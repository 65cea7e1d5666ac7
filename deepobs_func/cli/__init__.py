"""The command line: parse, call, print. torch is imported when a command needs it."""

from __future__ import annotations

import contextlib
import errno
import sys

import click

import deepobs_func
from deepobs_func.cli.analysis import best_command, compare_command, show_command, table_command
from deepobs_func.cli.check import (
    check_optimizer_command,
    check_parity_command,
    check_problem_command,
    demo_command,
)
from deepobs_func.cli.completion import VARIABLE, answer, completion_command
from deepobs_func.cli.data import data_command
from deepobs_func.cli.describe import describe_command
from deepobs_func.cli.doctor import doctor_command
from deepobs_func.cli.duel import duel_command
from deepobs_func.cli.probe import probe_command
from deepobs_func.cli.report import plot_command, report_command
from deepobs_func.cli.run import resume_command, run_command
from deepobs_func.cli.runtime import runtime_command
from deepobs_func.cli.show import list_command, optimizers_command
from deepobs_func.cli.study import cancel_command, logs_command, merge_command, status_command, sweep_command
from deepobs_func.cli.tune import tune_command
from deepobs_func.errors import UserError, as_flag

__all__ = ["cli", "main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(deepobs_func.__version__, prog_name="deepobs")
def cli() -> None:
    """Benchmark optimizers on the test problems of DeepOBS.

    \b
    deepobs list
    deepobs run mnist_mlp --optimizer adam --lr 1e-3 --epochs 5
    deepobs probe results/.../random_seed__42__....json --quantities hess_max_ev,trace
    deepobs sweep study.yaml --jobs 2
    deepobs tune mnist_mlp --optimizer adam,momentum --budget random-20
    deepobs compare adam momentum
    deepobs duel adam momentum --problem mnist_mlp
    deepobs report results
    deepobs demo
    deepobs describe mnist_mlp

    Completion in bash, zsh and fish: deepobs completion --help. What is missing or slow here: deepobs doctor.

    Exit codes: 0 done; 1 something that was looked at, or one of several runs, failed; 2 a mistake in what was given,
    said in one line; 3 a duel without a verdict; 130 interrupted, and what was done is kept.
    """  # noqa: D301  # a backspace is Click's mark of lines that stay as they are


_STUDIES = (sweep_command, tune_command, status_command, logs_command, cancel_command, merge_command)
_ANALYSIS = (show_command, compare_command, best_command, table_command, report_command, plot_command)
_VERDICTS = (duel_command, runtime_command)
_CATALOGUE = (list_command, describe_command, optimizers_command)
for command in (
    *(*_CATALOGUE, run_command, resume_command, probe_command),
    *(*_STUDIES, *_ANALYSIS, *_VERDICTS),
    *(data_command, doctor_command, check_parity_command, check_problem_command, check_optimizer_command),
    *(demo_command, completion_command),
):
    cli.add_command(command)
cli.add_command(sweep_command, "benchmark")  # DeepOBS's ports have these names
cli.add_command(report_command, "analyze")

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what a user can mend, wherever it is found


def main() -> None:
    """The entry point `deepobs`: a user's mistake exits with 2 and no traceback, a signal with 130."""
    if answer(cli):
        sys.exit(0)
    sys.path.append("")  # the current folder, so that its `my_module.MyOptimizer` is found
    try:
        code = cli.main(prog_name="deepobs", complete_var=VARIABLE, standalone_mode=False)
    except UserError as error:
        _tell(f"Error: {error.told(as_flag)}", error)
        sys.exit(2)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        place = error.filename or "A file"
        _tell(f"Error: {place} cannot be written ({error.strerror}). Make room there, or name another folder.", error)
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
