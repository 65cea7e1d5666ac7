"""Whatever ends a run, at any moment of it: `deepobs run` in a process of its own that meets its end there.

    python -m tests.ends            # the table of all ends and moments

A process is a fork of this one, in which torch is imported already; the moments before that are those of a new one.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import deepobs_func
from deepobs_func import records

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: a fork of a process with a pool of threads hangs in it
SIGNALS = ("SIGHUP", "SIGTERM", "SIGINT")
ENDS = (*SIGNALS, "sys.exit", "broken pipe", "full stdout", "full disk")
MOMENTS = (
    *("importing", "planning", "loading", "measuring", "warming up", "evaluation 0", "training", "between epochs"),
    *("evaluation 2", "writing"),
)
EXITS = ("init 2", "init 3", "init 4", "trial 1", "step 1", "step 3", "step 7", "step 8", "step 20", "step 21")
"""Calls of the optimizer's constructor and of its `step`, before the first evaluation and after it, at which it ends
the process; an epoch has 7 steps."""

EPOCHS, EXIT_CODE = 3, 7
ROOT = Path(deepobs_func.__file__).parents[1]
_EVALUATION = re.compile(r"epoch (\d+)/\d+ +train (\S+) +test (\S+)")


class Ended(NamedTuple):
    """How a process ended: its exit code, what it said, and its folder."""

    code: int
    out: str
    err: str
    folder: Path

    @property
    def printed(self) -> list[tuple[str, str]]:
        """The losses of the evaluations that were printed."""
        return [(train, test) for _, train, test in _EVALUATION.findall(self.out)]

    @property
    def files(self) -> list[Path]:
        """The records, wherever they are."""
        return [path for path in self.folder.rglob("random_seed__*.json*") if path.is_file()]


def run(end: str, moment: str, folder: Path) -> Ended:
    """Runs the command in a process that ends so, there."""
    out, err = folder / "out.txt", folder / "err.txt"
    if moment == "importing" and end != "sys.exit":
        command = [sys.executable, "-m", "tests.ends", end, moment]
        variables = {"PYTHONPATH": str(ROOT), "DEEPOBS_CACHE": str(folder / "cache"), "TMPDIR": str(_temporary(folder))}
        with out.open("w") as stdout, err.open("w") as stderr:
            done = subprocess.run(
                command, cwd=folder, env=os.environ | variables, stdout=stdout, stderr=stderr, check=False
            )
        return Ended(done.returncode, out.read_text(), err.read_text(), folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which sleep: those of pytest-xdist
        child = os.fork()
    if child == 0:
        _in_child(end, moment, folder, out, err)
    return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), out.read_text(), err.read_text(), folder)


def failures(end: str, moment: str, ended: Ended) -> list[str]:
    """What is not as it should be."""
    found = []
    if not ended.files:
        return [f"no record; {ended}"]
    kept = [records.read(path) for path in ended.files]
    shown = [[(f"{a:.4f}", f"{b:.4f}") for a, b in zip(r.train_losses, r.test_losses, strict=True)] for r in kept]
    if len(kept) > 1 or shown[0][: len(ended.printed)] != ended.printed:
        found.append(f"printed {ended.printed}, kept {shown}")
    if str(ended.files[0].relative_to(ended.folder)) not in ended.out + ended.err:
        found.append(f"{ended.files[0]} is not named: {ended.out} {ended.err}")
    if end == "sys.exit":
        expected = ("failed", EXIT_CODE)
    elif end in SIGNALS and moment != "writing":
        expected = ("interrupted", 130)
    else:
        expected = ("finished", 0)
    if (kept[0].status, ended.code) != expected:
        found.append(f"status and exit code are {(kept[0].status, ended.code)}, not {expected}; {ended.err}")
    return [*found, *(["a traceback: " + ended.err] if "Traceback" in ended.err else [])]


def _temporary(folder: Path) -> Path:
    (folder / "tmp").mkdir(exist_ok=True)
    return folder / "tmp"


def _in_child(end: str, moment: str, folder: Path, out: Path, err: Path) -> None:
    """The fork: it never comes back."""
    code = 99
    try:
        for number in (1, 2):
            os.dup2(os.open((out, err)[number - 1], os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = open(1, "w"), open(2, "w")  # noqa: SIM115  # instead of pytest's
        os.chdir(folder)
        os.environ["DEEPOBS_CACHE"] = str(folder / "cache")
        tempfile.tempdir = str(_temporary(folder))
        code = _main(end, moment)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                code = 120  # as of the interpreter
        os._exit(code)


def _main(end: str, moment: str) -> int:
    """The command, with its end arranged; its exit code."""
    for name in SIGNALS:
        signal.signal(getattr(signal, name), signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
    optimizer = ["torch.optim.SGD"]
    if end == "sys.exit":
        sys.modules["tests.ends"] = sys.modules[__name__]
        __getattr__("Exits").at, optimizer = moment, ["tests.ends.Exits"]
    else:
        at = "planning" if (moment, end) == ("importing", "full disk") else moment  # nothing is written before
        _arrange(at, functools.partial(_BRINGS.get(end, _signal), end))
    sys.argv = ["deepobs", "run", "quadratic_deep", "--optimizer", *optimizer, "--lr", "1e-2", "--epochs", str(EPOCHS)]
    if moment != "measuring":
        Path("execution.json").write_text("{}")
        sys.argv += ["--execution", "execution.json"]
    from deepobs_func import cli

    try:
        cli.main()
    except SystemExit as error:
        return int(error.code or 0)
    return 98


# Moments


def _arrange(moment: str, bring: Callable[[], None]) -> None:
    """Brings the end when the moment has come, once."""
    if moment == "importing":
        sys.meta_path.insert(0, _Importing(bring))
        return
    from deepobs_func import records
    from deepobs_func.runner import evaluation, log, loop, training

    owner, name, number = {
        "planning": (loop, "make_plan", 1),
        "loading": (training, "make_batches", 1),
        "measuring": (training, "timing", 1),
        "warming up": (evaluation.Evaluator, "warm_up", 1),
        "evaluation 0": (evaluation.Evaluator, "__call__", 1),
        "training": (training.Iteration, "_event", 4),  # evaluated, logged, evaluated, and in the second epoch
        "between epochs": (log.Log, "end_epoch", 2),
        "evaluation 2": (evaluation.Evaluator, "__call__", 3),
        "writing": (records, "write_anywhere", 1),
    }[moment]
    calls, original = [0], getattr(owner, name)

    @functools.wraps(original)
    def hooked(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == number:
            bring()
        return original(*args, **kwargs)

    setattr(owner, name, hooked)


class _Importing:
    """Sees that torch is imported."""

    def __init__(self, bring: Callable[[], None]) -> None:
        self._bring = bring

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "torch":
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            self._bring()


# Ends


def _signal(end: str) -> None:
    os.kill(os.getpid(), getattr(signal, end))


def _broken_pipe(end: str) -> None:
    read, write = os.pipe()
    os.close(read)
    sys.stdout.flush()
    os.dup2(write, 1)


def _full_stdout(end: str) -> None:
    sys.stdout.flush()
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def _full_disk(end: str) -> None:
    """Nothing can be written into the results tree and its state folder any more."""
    from deepobs_func import files
    from deepobs_func.records import writing
    from deepobs_func.runner import checkpoint

    def full(function: Callable[..., Any], position: int) -> Callable[..., Any]:
        def on_a_full_disk(*args: Any, **kwargs: Any) -> Any:
            if "results" in str(args[position]):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return function(*args, **kwargs)

        return on_a_full_disk

    writing.write_new = files.write_new = full(files.write_new, 0)
    writing.publish = files.publish = full(files.publish, 1)
    checkpoint.save_file = full(checkpoint.save_file, 1)


_BRINGS = {"broken pipe": _broken_pipe, "full stdout": _full_stdout, "full disk": _full_disk}


def __getattr__(name: str) -> Any:
    """`Exits`, an optimizer that ends the process; torch is imported with it."""
    if name != "Exits":
        raise AttributeError(name)
    import torch

    from deepobs_func.runner.evaluation import Evaluator

    evaluated, evaluate = list[int](), Evaluator.__call__

    def noted(self: Evaluator, epoch: int, carry: Any) -> Any:
        evaluated.append(epoch)
        return evaluate(self, epoch, carry)

    Evaluator.__call__ = noted  # type: ignore[method-assign]

    class Exits(torch.optim.SGD):
        at, calls = "", {"init": 0, "trial": 0, "step": 0}

        def __init__(self, params: Iterable[Any], lr: float) -> None:
            self._count("init")
            super().__init__(params, lr)

        def step(self, closure: Any = None) -> Any:
            self._count("step" if evaluated else "trial")
            return super().step(closure)

        def _count(self, what: str) -> None:
            self.calls[what] += 1
            if self.at == f"{what} {self.calls[what]}":
                sys.exit(EXIT_CODE)

    Exits.__qualname__ = "Exits"
    globals()["Exits"] = Exits
    return Exits


def table(ends: Iterable[str] = ENDS) -> bool:
    """Prints what became of each end at each moment; whether all is as it should be."""
    good = True
    for end in ends:
        for moment in EXITS if end == "sys.exit" else MOMENTS:
            with tempfile.TemporaryDirectory() as folder:
                ended = run(end, moment, Path(folder))
                wrong = failures(end, moment, ended)
                kept = records.read(ended.files[0]) if ended.files else None
                what = "nothing" if kept is None else f"{kept.status}, {len(kept.test_losses)} evaluations"
                print(f"{end:12} {moment:15} {what:28} printed {len(ended.printed)} {wrong or 'ok'}")
                good = good and not wrong
    return good


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(_main(*sys.argv[1:]))
    from deepobs_func.runner import RunConfig
    from deepobs_func.runner import run as run_once

    run_once(RunConfig("quadratic_deep", "torch.optim.SGD", 1e-2, epochs=1, output_dir=None))  # imports, for all forks
    sys.exit(0 if table() else 1)
