"""Runs that are left at a random moment, saved, and continued in another process, beside the undisturbed run.

    python -m tests.runner.moments --count 100 [--seed 0] [NAME ...]

A moment is an event, or a step at which a signal may end the run. One new process continues all checkpoints of a case.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

import deepobs_func
from deepobs_func import datasets, problems
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, Training, TrainState, checkpoint, make_plan, signals
from deepobs_func.runner.callbacks import answered
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.tracking import Tracker
from tests.problems.small_nets import narrow_resnet
from tests.runner import streamed
from tests.runner.small import config, small_problem

ROOT = Path(deepobs_func.__file__).parents[1]
BATCH = 4
IMAGES = {"train_size": 3 * BATCH, "test_size": 2 * BATCH}
TEXT = {"train_size": 3 * BATCH * 50 + 1, "test_size": BATCH * 50 + 1, "train_eval_size": BATCH * 50 + 1}
DEEPOBS = "deepobs-1.1.2"


class Case(NamedTuple):
    """A run: its configuration, its problem, how it is executed."""

    config: RunConfig
    problem: Problem
    execution: Execution = Execution()


def _cut(problem: Problem, **sizes: int) -> Problem:
    return replace(problem, dataset=replace(problem.dataset, **sizes))


def _named(name: str, optimizer: str = "momentum", **changes: Any) -> RunConfig:
    values = {"epochs": 2, "batch_size": BATCH, "data": "synthetic", "output_dir": None, "train_log_interval": 1}
    return RunConfig(name, optimizer, 1e-2, **(values | changes))


def _pictures(workers: int) -> Case:
    folder = Path(tempfile.gettempdir(), f"deepobs_func-pictures-{os.getuid()}")
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as draft:
            made = streamed.write_pictures(Path(draft, "made"))
            made.rename(folder)
    return Case(streamed.config(folder, workers=workers, optimizer="adam", lr=1e-3), streamed.pictures())


def _compiled(steps: int) -> Execution:
    return Execution(compile=True, compile_batch=True, steps_per_call=steps)


TRACKED = {"track": ("grad_norm", "alpha", "norm_test", "distance"), "track_every": 2}

CASES: dict[str, Callable[[], Case]] = {
    "adam": lambda: Case(config(optimizer="adam", train_log_interval=2), small_problem()),
    "momentum, DeepOBS": lambda: Case(config(optimizer="momentum", protocol=DEEPOBS), small_problem()),
    "tracked": lambda: Case(config(optimizer="sgd", **TRACKED), small_problem()),
    "tracked, torch": lambda: Case(config(optimizer="torch.optim.AdamW", protocol=DEEPOBS, **TRACKED), small_problem()),
    "schedule": lambda: Case(
        config(optimizer="nesterov", schedule="cosine", warm_up=0.5, clip_norm=0.5), small_problem()
    ),
    "reports": lambda: Case(config(optimizer="sgd_cabs", train_log_interval=1), small_problem()),
    "adahessian": lambda: Case(config(optimizer="adahessian"), small_problem()),
    "kfac": lambda: Case(
        _named("digits_mlp", "kfac", hyperparams={"update_every": 2}), _cut(problems.get("digits_mlp"), **IMAGES)
    ),
    "ekfac": lambda: Case(
        _named("digits_mlp", "ekfac", hyperparams={"update_every": 2}), _cut(problems.get("digits_mlp"), **IMAGES)
    ),
    "torch.optim.Adam": lambda: Case(config(optimizer="torch.optim.Adam", train_log_interval=2), small_problem()),
    "torch.optim.SGD": lambda: Case(
        config(optimizer="torch.optim.SGD", hyperparams={"momentum": 0.9}, protocol=DEEPOBS), small_problem()
    ),
    "torch.optim.LBFGS": lambda: Case(config(optimizer="torch.optim.LBFGS", lr=0.5), small_problem()),
    "drawing": lambda: Case(config(optimizer="tests.optimizers.classes.Noisy"), small_problem()),
    "dropout": lambda: Case(_named("cifar100_allcnnc"), _cut(problems.get("cifar100_allcnnc"), **IMAGES)),
    "diverging": lambda: Case(config(lr=1e30, train_log_interval=1), small_problem()),
    "diverging, DeepOBS": lambda: Case(config(lr=1e30, protocol=DEEPOBS), small_problem()),
    "read": lambda: Case(config(optimizer="adam"), streamed.as_stream(small_problem())),
    "pictures": lambda: _pictures(0),
    "pictures, workers": lambda: _pictures(2),
    "recurrent": lambda: Case(_named("tolstoi_char_rnn", "adam"), _cut(problems.get("tolstoi_char_rnn"), **TEXT)),
    "recurrent, DeepOBS": lambda: Case(
        _named("tolstoi_char_rnn", "torch.optim.SGD", protocol=DEEPOBS),
        _cut(problems.get("tolstoi_char_rnn"), **TEXT),
    ),
    "batch norm": lambda: Case(
        _named("svhn_wrn164", **TRACKED | {"track_bn": "frozen"}),
        replace(narrow_resnet(10), dataset=replace(datasets.spec("svhn"), **IMAGES)),
        Execution(channels_last=True),
    ),
    "noise": lambda: Case(_named("mnist_vae", "adam"), _cut(problems.get("mnist_vae"), **IMAGES)),
    "noise, torch": lambda: Case(
        _named("mnist_vae", "torch.optim.Adam", protocol=DEEPOBS), _cut(problems.get("mnist_vae"), **IMAGES)
    ),
    "compiled": lambda: Case(config(optimizer="adam", train_log_interval=1), small_problem(), _compiled(3)),
    "compiled, noise": lambda: Case(
        _named("mnist_vae", "adam"), _cut(problems.get("mnist_vae"), **IMAGES), _compiled(1)
    ),
    "compiled, torch": lambda: Case(config(optimizer="torch.optim.Adam"), small_problem(), _compiled(1)),
}
CHEAP = ("tracked", "recurrent")


def content(record: RunRecord) -> dict[str, str]:
    """All of a record but what time and machine put there, as text: NaN is NaN."""
    extra = {name: value for name, value in record.extra.items() if name not in ("timings", "environment")}
    return {name: repr(value) for name, value in (record.to_json() | {"deepobs_func": extra}).items()}


class Moment(NamedTuple):
    """The `number`-th `"event"` or `"step"`."""

    kind: str
    number: int


def training_of(case: Case) -> tuple[Training, list[Tracker]]:
    """The training of a case, and its callbacks."""
    plan = make_plan(case.config, case.problem)
    trackers = [Tracker(plan)] if plan.config.track else []
    watch = trackers[0].watches if trackers else None
    return Training(plan, case.execution, watch=watch), trackers


def whole(training: Training, trackers: list[Tracker]) -> tuple[RunRecord, list[Moment]]:
    """The undisturbed run, and the moments at which it can be left."""
    events, steps = 0, 0

    def counted() -> None:
        nonlocal steps
        steps += 1

    with mock.patch.object(signals.SHIELD, "check", counted):
        for event in training(training.start()):
            answered(event, trackers)
            events += 1
    moments = [Moment("event", number) for number in range(events)]
    return event.record, [*moments, *(Moment("step", number) for number in range(steps))]


def left(training: Training, trackers: list[Tracker], moment: Moment) -> TrainState:
    """The state of a run that is left at a moment."""
    iteration, checks = training(training.start()), -1

    def check() -> None:
        nonlocal checks
        checks += 1
        if moment == Moment("step", checks):
            raise signals.Signalled(15, whole=True)

    with mock.patch.object(signals.SHIELD, "check", check):
        try:
            for number, event in enumerate(iteration):
                answered(event, trackers)
                if moment == Moment("event", number):
                    iteration.close()
                    return event.state
        except signals.Signalled:
            return iteration.state()
    raise AssertionError(f"there is no {moment}")


def continued(name: str, paths: list[Path]) -> list[dict[str, str]]:
    """The records of runs that go on from checkpoints, each by a training of its own."""
    found = []
    for path in paths:
        training, trackers = training_of(CASES[name]())
        for event in training(checkpoint.read(path).state(training)):
            answered(event, trackers)
        found.append(content(event.record))
    return found


def agreeing(names: list[str], count: int, seed: int) -> dict[str, tuple[int, list[str]]]:
    """For each case, at how many random moments the continued run has the record of the whole one; and the others.

    Args:
        names: of the cases.
        count: of the moments of all cases together.
        seed: of the choice of moments.
    """
    chosen, saved, records = random.Random(seed), dict[str, list[str]](), dict[str, tuple[list[Moment], Any]]()
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(names):
            training, trackers = training_of(CASES[name]())
            record, moments = whole(training, trackers)
            taken = [chosen.choice(moments) for _ in range(index, count, len(names))]
            saved[name], records[name] = [], (taken, content(record))
            for number, moment in enumerate(taken):
                path = Path(folder, f"{index}-{number}.safetensors")
                checkpoint.save(path, training, left(training, trackers, moment))
                saved[name].append(str(path))
        command = [sys.executable, "-m", "tests.runner.moments", "--continue"]
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(torch.get_num_threads())}
        done = subprocess.run(
            command, input=json.dumps(saved), capture_output=True, text=True, check=False, env=os.environ | variables
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    again, found = json.loads(done.stdout.splitlines()[-1]), {}
    for name, (taken, expected) in records.items():
        others = []
        for moment, got in zip(taken, again[name], strict=True):
            if got != expected:
                others.append(f"{moment}: {[key for key in expected if got.get(key) != expected[key]]}")
        found[name] = (len(taken) - len(others), others)
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"{', '.join(CASES)}; default: all")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--continue", dest="go_on", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.go_on:
        saved = json.load(sys.stdin)
        print(json.dumps({name: continued(name, list(map(Path, paths))) for name, paths in saved.items()}))
        return
    names = options.names or list(CASES)
    agreed = 0
    for index, name in enumerate(names):  # a new process for each case
        count = len(range(index, options.count, len(names)))
        ((good, others),) = agreeing([name], count, options.seed + index).values()
        print(f"{name:22} {good} of {count} {others or ''}", flush=True)
        agreed += good
    print(f"{agreed} of {options.count} agree")
    sys.exit(0 if agreed == options.count else 1)


if __name__ == "__main__":
    main()
