"""Completion in bash, zsh and fish, and `deepobs completion`, which prints what a shell has to know for it.

Nothing but completions reaches the terminal: an error, or what the code of another package prints, would end up in the
middle of the line that the user is typing.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections.abc import Generator

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)

from deepobs_func.cli.types import complete

VARIABLE = "_DEEPOBS_COMPLETE"
SHELLS = ("bash", "zsh", "fish")

# Click's own script splits words where bash does, at `:` and `=` too, and shows names or folders, but not both.
_BASH = r"""
%(complete_func)s() {
    local IFS=$'\n' line=${COMP_LINE:0:COMP_POINT} word type value
    word=${line##*[[:space:]]}
    word=${word%%"${COMP_WORDS[COMP_CWORD]}"}
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o plusdirs ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("${value#"$word"}") ;;
        esac
    done < <(COMP_WORDS=$line %(complete_var)s=bash_complete "$1" 2>/dev/null)
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Reads the line up to the cursor, and splits it as a shell does."""

    source_template = _BASH

    @staticmethod
    def _check_version() -> None:
        """Says nothing: older versions than 4.4 complain themselves."""

    def get_completion_args(self) -> tuple[list[str], str]:
        line = os.environ["COMP_WORDS"]
        words = split_arg_string(line)
        incomplete = "" if re.search(r"\s$", line) else words.pop()
        return words[1:], incomplete


class _WholeWords(ShellComplete):
    """Offers `--option=value` as one word, as zsh and fish have it."""

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        found = super().get_completions(args, incomplete)
        option, equals, _ = incomplete.partition("=")
        if option.startswith("--") and equals:
            return [CompletionItem(f"{option}={item.value}", item.type, item.help) for item in found]
        return found


class _Zsh(_WholeWords, ZshComplete):
    """Completes paths after the `=` of `--option=path`."""

    def source(self) -> str:
        first = "    local -a completions\n"
        return _hushed(self).replace(first, f"    compset -P '--*='\n{first}", 1)


class _Fish(_WholeWords, FishComplete):
    """Asks in silence."""

    def source(self) -> str:
        return _hushed(self)


def _hushed(shell: ShellComplete) -> str:
    """Click's script, in which the call of the program says nothing to the terminal."""
    script = shell.source_template % shell.source_vars()
    call = rf"(_complete\b.*) {re.escape(shell.prog_name)}\)"
    return re.sub(call, rf"\1 {shell.prog_name} 2>/dev/null)", script)


for _shell in (_Bash, _Zsh, _Fish):
    add_completion_class(_shell)


@click.command("completion")
@click.argument("shell", metavar="SHELL", type=click.Choice(SHELLS), shell_complete=complete(SHELLS))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL (bash, zsh or fish) completes commands, options, values and paths.

    \b
    eval "$(deepobs completion bash)"    in ~/.bashrc
    eval "$(deepobs completion zsh)"     in ~/.zshrc, after compinit
    deepobs completion fish | source     in ~/.config/fish/config.fish
    """  # noqa: D301  # a backspace is Click's mark of lines that stay as they are
    click.echo(_of(ctx.find_root().command, shell).source())


def answer(cli: click.Command) -> bool:
    """Answers a shell that asks for completions, and nobody else.

    Args:
        cli: the command line.

    Returns:
        Whether a shell asked. What cannot be completed has no completions.
    """
    shell, _, instruction = os.environ.get(VARIABLE, "").partition("_")
    if instruction != "complete" or shell not in SHELLS:
        return False
    text = ""
    with _silence(), contextlib.suppress(BaseException):  # an interrupt too; a traceback would be typed into the line
        text = _of(cli, shell).complete()
    click.echo(text.encode())
    return True


def _of(cli: click.Command, shell: str) -> ShellComplete:
    kind = get_completion_class(shell)
    assert kind is not None, "it is one of three"
    return kind(cli, {}, "deepobs", VARIABLE)


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """Within it nothing that this process or a library of C writes reaches its two streams."""
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream, _ in kept:
            os.dup2(nowhere, stream)
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)
