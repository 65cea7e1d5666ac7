"""The commands that are typed most answer at once: nothing is imported that they do not need."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("--help", "run --help", "resume --help", "list", "list --help", "demo --help", "check-parity --help")
ANALYSIS = ("show --help", "compare --help", "best --help", "table --help")
SECONDS = 0.3  # of processor time; measured, 0.17 to 0.27 on a busy machine
TRIES = 5
HEAVY = ("torch", "numpy", "pandas", "scipy", "matplotlib", "rich", "torchvision", "jaxtyping", "safetensors")


def seconds(*args: str, compiled: Path) -> float:
    """The processor time of one command, whose modules Python has compiled in a call before, as it does by default."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment["PYTHONPYCACHEPREFIX"] = str(compiled)
    command = [sys.executable, "-m", "deepobs_func", *args]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the modules that one command has compiled are there for the next."""
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.parametrize("command", COMMANDS)
def test_it_takes_little_processor_time(command: str, compiled: Path) -> None:
    """The first of some tries that is quick enough: other processes on the machine only make one slower."""
    tries = (seconds(*command.split(), compiled=compiled) for _ in range(TRIES))
    assert any(taken < SECONDS for taken in tries)


@pytest.mark.parametrize("command", [*COMMANDS, *ANALYSIS])
def test_it_imports_nothing_heavy(command: str) -> None:
    code = f"""
import sys
from deepobs_func.cli import main
try:
    main()
finally:
    heavy = ("importlib.metadata",) * ("help" in sys.argv[-1]) + {HEAVY}
    sys.stderr.write(repr([name for name in heavy if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "[]")
