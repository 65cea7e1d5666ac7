"""A sweep under Slurm: an array script whose tasks call the same command, each for its share of the runs.

A task that Slurm starts anew, after its node was lost or its time was up, goes on from its checkpoints.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from deepobs_func.errors import ConfigError, UserError, option

GRACE = 90  # seconds before the end of a task's time at which it is told to write its checkpoints


@dataclass(frozen=True)
class Array:
    """The resources of an array of tasks.

    Attributes:
        tasks: how many, each for its share of the runs.
        cpus: cores of each.
        gpus: of each.
        time: the most that one takes, as Slurm writes it, e.g. `"4:00:00"`; None for the cluster's default.
        memory: of each, e.g. `"8G"`; None for the cluster's default.
        partition: None for the default.
        options: further lines, e.g. `"--account=mine"`.
    """

    tasks: int
    cpus: int = 1
    gpus: int = 0
    time: str | None = None
    memory: str | None = None
    partition: str | None = None
    options: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The options of `sbatch`."""
        found = [f"--array=0-{self.tasks - 1}", f"--cpus-per-task={self.cpus}"]
        found += [f"--gpus-per-task={self.gpus}", "--ntasks=1"] if self.gpus else ["--ntasks=1"]
        given = (("time", self.time), ("mem", self.memory), ("partition", self.partition))
        found += [f"--{name}={value}" for name, value in given if value is not None]
        return [*found, "--requeue", f"--signal=B:TERM@{GRACE}", *self.options]


def script(command: Sequence[str], array: Array, logs: Path, folder: Path) -> str:
    """The array script.

    Args:
        command: the sweep, `["deepobs", "sweep", "spec.yaml", ...]`, without an engine; each task adds its share.
        array: what it asks for.
        logs: the folder of what the tasks print.
        folder: where the command is called.

    Returns:
        The text of a script for `bash`.

    Raises:
        ConfigError: a number is below 1, or an option is more than one line.

    >>> print(script(["deepobs", "sweep", "spec.yaml"], Array(2), Path("logs"), Path("/work")))
    #!/usr/bin/env bash
    #SBATCH --array=0-1
    #SBATCH --cpus-per-task=1
    #SBATCH --ntasks=1
    #SBATCH --requeue
    #SBATCH --signal=B:TERM@90
    #SBATCH --output=logs/slurm_%A_%a.log
    #SBATCH --job-name=deepobs
    # Each task runs its share of the sweep, and goes on from its checkpoints when it is started anew.
    set -u
    cd /work
    export OMP_NUM_THREADS=1
    heard=0
    trap 'heard=$((heard + 1)); kill -TERM $(jobs -p) 2>/dev/null' TERM
    deepobs sweep spec.yaml --share "${SLURM_ARRAY_TASK_ID}/2" &
    child=$!
    while :; do  # a signal ends `wait` early: then the code is not the child's
      before=$heard
      wait "$child"
      code=$?
      [ "$heard" = "$before" ] && exit "$code"
    done
    """
    for name, value in (("tasks", array.tasks), ("cpus", array.cpus)):
        if value < 1:
            raise ConfigError(f"{option(name)} {value}: it must be a whole number from 1.")
    lines = [*array.lines(), f"--output={logs}/slurm_%A_%a.log", "--job-name=deepobs"]
    for line in lines:
        if "\n" in line or not line.startswith("--"):
            raise ConfigError(f"{line!r} is no option of sbatch. Give it as on its command line: --account=mine.")
    call = f'{shlex.join(command)} --share "${{SLURM_ARRAY_TASK_ID}}/{array.tasks}"'
    return "\n".join(
        [
            "#!/usr/bin/env bash",
            *(f"#SBATCH {line}" for line in lines),
            "# Each task runs its share of the sweep, and goes on from its checkpoints when it is started anew.",
            "set -u",
            f"cd {shlex.quote(str(folder))}",
            f"export OMP_NUM_THREADS={array.cpus}",
            "heard=0",
            "trap 'heard=$((heard + 1)); kill -TERM $(jobs -p) 2>/dev/null' TERM",
            f"{call} &",
            "child=$!",
            "while :; do  # a signal ends `wait` early: then the code is not the child's",
            "  before=$heard",
            '  wait "$child"',
            "  code=$?",
            '  [ "$heard" = "$before" ] && exit "$code"',
            "done",
        ]
    )


def submit(path: Path) -> str:
    """Submits a script.

    Args:
        path: the script.

    Returns:
        What `sbatch` said.

    Raises:
        ConfigError: there is no `sbatch`.
        UserError: it refused the script; with its words.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            f"{option('engine')} slurm needs sbatch, which is not on the PATH. Submit from a login node of the "
            f"cluster, or write the script alone with {option('emit')} FILE."
        )
    found = subprocess.run(["sbatch", str(path)], capture_output=True, text=True, check=False)
    if found.returncode:
        raise UserError(f"sbatch refused {path}: {(found.stderr or found.stdout).strip()}")
    return found.stdout.strip()


def this_command() -> list[str]:
    """How this package is called on a node: by this Python, wherever it is."""
    return [sys.executable, "-m", "deepobs_func"]
