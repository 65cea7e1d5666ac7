"""A member of a population beside its own run in another process: every family, optimizer, way and precision.

    python -m tests.runner.members
    python -m tests.runner.members --families vae wrn --digits float64

After 10 steps in float32 and after 100 in float64, eager and compiled: the largest relative difference of a loss, or of
the parameters, between a member and its own run, which is eager and in a process of its own. float64 is no precision of
a configuration, so that the problem itself computes in it here.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import operator
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deepobs_func import problems
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.nets.noise import Dropout
from deepobs_func.nets.rnn import HIDDEN, CharRNN
from deepobs_func.nets.wrn import WideResNet
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner import Execution, RunConfig, run, run_population

BATCH, STEPS, CHARACTERS = 2, 10, 5  # of an epoch; of a text
EPOCHS = {"float32": 1, "float64": 10}
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}
WAYS = {"vmap": Execution(way="vmap", members=99), "loop": Execution(way="loop", members=2), "alone": Execution()}
RATES = {
    "sgd": 1e-2,
    "momentum": 1e-3,
    "nesterov": 1e-3,
    "adam": 1e-3,
    "adamw": 1e-3,
    "rmsprop": 1e-4,
}
CURVES = ("train_losses", "test_losses", "minibatch_train_losses")
Results = dict[str, tuple[dict[str, list[float]], dict[str, Tensor]]]
"""By run id, which is the same in every process: curves and parameters."""


class ShortText(CharRNN):
    """The character-level LSTM on fewer characters, which compiles in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.into1, self.out1, self.into2, self.out2 = (Dropout(0.2, (CHARACTERS, HIDDEN)) for _ in range(4))


def short_windows(x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Batches of windows, each going on where the last one ended."""

    def cut(ids: Tensor) -> Tensor:
        return (
            ids[: len(ids) // (batch_size * CHARACTERS) * batch_size * CHARACTERS]
            .view(batch_size, -1, CHARACTERS)
            .transpose(0, 1)
            .flatten(0, 1)
        )

    return cut(x), cut(y)


def _cut(name: str, **changes: Any) -> Problem:
    """A problem of the registry with data for some steps an epoch and two batches of test data."""
    problem = problems.get(name)
    if problem.dataset.generated:
        data: dict[str, Any] = {}
    elif problem.dataset.sequence_length:
        sizes = {split: steps * BATCH * CHARACTERS + 1 for split, steps in (("train_size", STEPS), ("test_size", 2))}
        data = {**sizes, "train_eval_size": sizes["test_size"], "sequence_length": CHARACTERS, "shape": (CHARACTERS,)}
        data["arrange"] = short_windows
    else:
        data = {"train_size": STEPS * BATCH, "test_size": 2 * BATCH, "file_sizes": ()}
    changes = {"description": None, **changes} if "make_net" in changes or "shape" in data else changes
    return replace(problem, dataset=replace(problem.dataset, **data), **changes)


FAMILIES: dict[str, Callable[[], Problem]] = {
    "quadratic": partial(_cut, "quadratic_deep"),
    "two_d": partial(_cut, "two_d_rosenbrock"),
    "logreg": partial(_cut, "mnist_logreg"),
    "mlp": partial(_cut, "mnist_mlp"),
    "2c2d": partial(_cut, "fmnist_2c2d"),
    "3c3d": partial(_cut, "cifar10_3c3d"),  # augmentation
    "allcnnc": partial(_cut, "cifar100_allcnnc"),  # dropout
    "wrn": partial(_cut, "svhn_wrn164", make_net=partial(WideResNet, 10, 1, 10)),  # batch norm
    "char_rnn": partial(_cut, "tolstoi_char_rnn", make_net=ShortText),  # a recurrent state, dropout
    "vae": partial(_cut, "mnist_vae"),  # dropout and the noise of its code
}
LARGE = ("mlp", "2c2d", "vae", "3c3d", "allcnnc")  # two members of one seed; the others have two of each of two seeds
SCALES = {"two_d": 1e-4, "quadratic": 0.1}  # of the learning rates


class Double(Problem):
    """A problem that computes in float64: parameters, moments, recurrent states, inputs and targets."""

    def zero_carry(self, batch_size: int, **options: Any) -> Tensors:
        return super().zero_carry(batch_size, **{**options, "dtype": torch.float64})

    def _losses_and_state(self, params: Params, batch: Batch, *, train: bool) -> tuple[Tensor, Any, ModelState]:
        y = batch.y.double() if batch.y.is_floating_point() else batch.y
        return super()._losses_and_state(params, batch._replace(y=y), train=train)


def in_float64(function: Callable[..., Any], *arguments: Any) -> Any:
    """A function of which the last argument is the type of the result."""
    return function(*arguments[:-1], torch.float64)


def problem_of(family: str, digits: str) -> Problem:
    made = FAMILIES[family]()
    if digits == "float32":
        return made
    data = made.dataset
    wrapped = {name: partial(in_float64, data.function(name)) for name in ("prepare", "draw") if getattr(data, name)}
    values = {each.name: getattr(made, each.name) for each in dataclasses.fields(Problem) if each.init}
    own = {"dataset": replace(data, **wrapped), "draw": partial(in_float64, made.draw), "description": None}
    return Double(**(values | own))


def configs(family: str, optimizer: str, digits: str) -> dict[str, Any]:
    """A configuration, and the axes of the population."""
    problem, rate = problem_of(family, digits), RATES[optimizer] * SCALES.get(family, 1.0)
    size = 100 if problem.dataset.name == "quadratic" else 1000 if problem.dataset.generated else BATCH
    made = RunConfig(
        problem.name,
        optimizer,
        rate,
        epochs=EPOCHS[digits],
        batch_size=size,
        data="synthetic",
        train_log_interval=1,
        output_dir=None,
        device="cpu",
    )
    seeds = [1] if family in LARGE else [1, 2]
    return {"config": made, "problem": problem, "seeds": seeds, "lrs": [rate, rate / 2]}


def results(ended: Any, params: dict[str, Tensor]) -> Results:
    curves = {name: list(getattr(ended.record, name) or []) for name in CURVES}
    assert ended.record.status == "finished"
    return {ended.record.extra["run_id"]: (curves, params)}


def own_runs(family: str, optimizers: Sequence[str], digits: str) -> Results:
    """Each run by itself, eager."""
    found: Results = {}
    for optimizer in optimizers:
        given = configs(family, optimizer, digits)
        for seed in given["seeds"]:
            for lr in given["lrs"]:
                ended = run(replace(given["config"], seed=seed, lr=lr), given["problem"], execution=Execution())
                found |= results(ended, dict(ended.params))
    return found


def in_another_process(family: str, optimizers: Sequence[str], digits: str) -> Results:
    with tempfile.NamedTemporaryFile(suffix=".pt") as file:
        given = ["--families", family, "--digits", digits, "--optimizers", *optimizers, "--own", file.name]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        code = "from tests.runner.members import main; main()"  # a class of `__main__` is another one to a run's id
        subprocess.run([sys.executable, "-c", code, *given], check=True, env=environment)
        loaded: Results = torch.load(file.name)
    return loaded


def members(family: str, optimizer: str, digits: str, execution: Execution) -> Results:
    given = configs(family, optimizer, digits)
    found: Results = {}
    for member in run_population(given.pop("config"), execution=execution, **given).members:
        assert member.params is not None, member.error
        found |= results(member, dict(member.params))
    return found


def apart(found: Results, expected: Results) -> float:
    """The largest relative difference of a loss, or of all parameters together."""
    far = 0.0
    for name, (curves, params) in found.items():
        own_curves, own = expected[name]
        for curve in CURVES:
            pairs = list(zip(curves[curve], own_curves[curve], strict=True))
            assert pairs
            far = max(far, *(_relative(abs(a - b), abs(b)) for a, b in pairs))
        far = max(far, _relative(_norm(_differences(params, own)), _norm(own.values())))
    return far


def _relative(difference: float, size: float) -> float:
    """The difference in units of a size, which may be zero if there is none."""
    assert math.isfinite(difference), "a member or its run is not finite"  # max() would drop NaN
    return difference and (difference / size if size else math.inf)


def _norm(leaves: Iterable[Tensor]) -> float:
    return float(torch.cat([leaf.flatten() for leaf in leaves]).norm())


def _differences(params: dict[str, Tensor], own: dict[str, Tensor]) -> list[Tensor]:
    assert params.keys() == own.keys()
    assert all(params[name].dtype == leaf.dtype for name, leaf in own.items())
    return [params[name] - leaf for name, leaf in own.items()]


def worst(
    family: str, optimizers: Sequence[str], ways: Sequence[str], digits: str, codes: Sequence[str]
) -> Iterator[tuple[str, str, str, float]]:
    """By optimizer, way and code, how far members are from their own runs."""
    expected = in_another_process(family, optimizers, digits)
    for code in codes:
        for optimizer in optimizers:
            for way in ways:
                execution = replace(WAYS[way], compile=code == "compiled")
                yield optimizer, way, code, apart(members(family, optimizer, digits, execution), expected)
    torch.compiler.reset()


def main() -> None:
    """Measures and shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--optimizers", nargs="*", default=list(RATES), choices=list(RATES))
    parser.add_argument("--ways", nargs="*", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--digits", nargs="*", default=list(EPOCHS), choices=list(EPOCHS))
    parser.add_argument("--code", nargs="*", default=["eager", "compiled"], choices=["eager", "compiled"])
    parser.add_argument("--own", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.own:
        torch.save(own_runs(given.families[0], given.optimizers, given.digits[0]), given.own)
        return
    print("family     numbers   code     " + "".join(f"{way:>10}" for way in given.ways) + "  seconds", flush=True)
    for family in given.families:
        for digits in given.digits:
            _show(family, digits, worst(family, given.optimizers, given.ways, digits, given.code))


def _show(family: str, digits: str, found: Iterator[tuple[str, str, str, float]]) -> None:
    """A line for each code, as soon as all of its figures are there, and one for each figure that is too large."""
    start = time.perf_counter()
    for code, own in itertools.groupby(found, key=operator.itemgetter(2)):
        far: dict[str, float] = {}
        for optimizer, way, _, each in own:
            far[way] = max(far.get(way, 0.0), each)
            if each > TOLERANCE[digits]:
                print(f"TOO FAR: {family} {digits} {code} {optimizer} {way}: {each:.1e}", flush=True)
        figures = "".join(f"{each:10.1e}" for each in far.values())
        print(f"{family:9}  {digits:8}  {code:8} {figures}  {time.perf_counter() - start:7.0f}", flush=True)


if __name__ == "__main__":
    from tests.runner.members import main as main_of_module

    main_of_module()
