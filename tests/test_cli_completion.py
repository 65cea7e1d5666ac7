"""Completion: names, values and paths; and nothing else in the prompt, whatever goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class
from click.testing import CliRunner

from deepobs_func import cli, optimizers, problems
from deepobs_func.cli.completion import SHELLS, VARIABLE
from deepobs_func.runner.config import PRECISIONS, PROTOCOLS

MAIN = "from deepobs_func.cli import main; main()"
OFFERED = {
    "deepobs run mnist_": [name for name in problems.names() if name.startswith("mnist_")],
    "deepobs run mnist_mlp --optimizer ada": ["adam", "adamw", "adahessian"],
    "deepobs run mnist_mlp --protocol ": list(PROTOCOLS),
    "deepobs run mnist_mlp --precision=": list(PRECISIONS),
    "deepobs run mnist_mlp --optimizer adam --bet": ["--beta1", "--beta2"],
    "deepobs run mnist_mlp --optimizer my:make --beta1 0.9 --lr-sched-f": ["--lr-sched-factors"],
    "deepobs run mnist_mlp --optimizer no_such_optimizer --clip-n": ["--clip-norm"],
    "deepobs run mnist_mlp --track grad_norm,loss_a": [],
    "deepobs tune mnist_mlp --optimizer adam,mom": ["adam,momentum"],
    "deepobs list --set la": ["large"],
    "deepobs optimizers ": optimizers.names(),
    "deepobs data prepare ": ["imagenet"],
    "deepobs plot pan": ["panel"],
    "deepobs run x --data ": ["dir", "synthetic"],
    "deepobs run x --data=syn": ["dir", "synthetic"],
    "deepobs run x --output-dir ": ["dir"],
    "deepobs run x --execution ": ["file"],
    "deepobs resume ": ["file"],
    "deepobs sweep ": ["file"],
    "deepobs run 'two_d_be": ["two_d_beale"],
    "deepobs list no_such_argument ": [],
}


def asked(line: str) -> dict[str, str]:
    """What bash hands over; the cursor is at the end of the line."""
    return {VARIABLE: "bash_complete", "COMP_WORDS": line}


@pytest.mark.parametrize("line", OFFERED)
def test_what_is_offered(line: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    for name, value in asked(line).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["deepobs"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as end:
        cli.main()
    out, err = capfd.readouterr()
    offers = [offer.split(",", 1) for offer in out.split()]
    assert [value if kind == "plain" else kind for kind, value in offers] == OFFERED[line]
    assert (end.value.code, err) == (0, "")


@pytest.mark.large
def test_nothing_else_is_printed(tmp_path: Path) -> None:
    """Neither what a user's module prints, by Python or by C, nor what it raises."""
    (tmp_path / "loud.py").write_text("import os\nprint('loud')\nos.system('echo loud; echo loud >&2')\n1 / 0\n")
    done = subprocess.run(
        [sys.executable, "-c", MAIN],
        env=os.environ | asked("deepobs run mnist_mlp --optimizer loud:make --pr"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "loud" not in done.stdout
    assert "--precision" in done.stdout


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_each_shell_asks_in_silence(shell: str) -> None:
    result = CliRunner().invoke(cli.cli, ["completion", shell])
    assert result.exit_code == 0
    assert result.output.count(f"{VARIABLE}={shell}_complete") == 1
    assert result.output.count("2>/dev/null") == 1
    assert get_completion_class(shell) is not None
    assert CliRunner().invoke(cli.cli, ["completion", "csh"]).exit_code == 2


@pytest.mark.parametrize(("shell", "word"), [("zsh", "2"), ("fish", "--set=la")])
def test_an_option_and_its_value_are_one_word(shell: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMP_WORDS", "deepobs list --set=la")
    monkeypatch.setenv("COMP_CWORD", word)
    kind = get_completion_class(shell)
    assert kind is not None
    assert "--set=large" in kind(cli.cli, {}, "deepobs", VARIABLE).complete().replace(",", "\n").splitlines()


BASH = """
set -u
deepobs() { :; }
eval "$(PYTHON -m deepobs_func completion bash)"
compopt() { options="$options$2;"; }
complete_here() {
    COMP_LINE=$1 COMP_POINT=${#1} COMP_CWORD=$(($# - 2)) COMP_WORDS=("${@:2}") options=""
    _deepobs_completion ./deepobs
    echo "$options${COMPREPLY[*]}"
}
complete_here "deepobs run x --protocol de" deepobs run x --protocol de
complete_here "deepobs run x --optimizer a:b --data=syn" deepobs run x --optimizer a : b --data = syn
complete_here "deepobs list --set la --bro" deepobs list --set la --bro
"""


def test_in_bash(tmp_path: Path) -> None:
    """Bash itself, which splits words at `:` and `=`."""
    program = tmp_path / "deepobs"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m deepobs_func "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", BASH.replace("PYTHON", sys.executable)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["default deepobs-1.1.2", "plusdirs;synthetic", ""]
