"""Equality with the reference: figures that the model code of DeepOBS 1.1.2 computed, computed again here.

The golden files hold, for each problem, per-example losses, the regularizer, gradients and updated moving statistics at
weights, states and inputs that follow from a NumPy recipe, bit for bit. Here they are computed in float64 on the same
float32 weights, so that what is left is the rounding of the reference's own float32 figures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from deepobs_func import problems
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.compat import tf_weights
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.problems.problem import Problem

f32 = np.float32
LOSS_TOLERANCE = 1e-5
NORM_TOLERANCE = 1e-3  # of a gradient's deviation over the norm of the whole gradient, for every problem
GRADIENT_TOLERANCE = 1e-4  # relative, a variable
# Float32 rounding flips kinks of deep nets (ReLU signs, near-ties of max pools), so their own figures are less exact.
KINKS = {
    **dict.fromkeys((f"{data}_vgg{depth}" for data in ("cifar10", "cifar100", "imagenet") for depth in (16, 19)), 4e-3),
    "cifar100_wrn404": 1e-3,
    "imagenet_inception_v3": 1e-3,
}
AUXILIARY_KINKS = 5e-2  # Inception in training: its auxiliary head normalises over as many values as there are examples


class Figure(NamedTuple):
    """The worst relative deviation of one kind of figure, and what is allowed."""

    name: str
    deviation: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the deviation is within the tolerance; a NaN is not."""
        return self.deviation <= self.tolerance


class Case(NamedTuple):
    """A problem with the weights and the batch of its golden file."""

    problem: Problem
    golden: dict[str, Any]
    params: Params
    batch: Batch


def read_golden(name: str, folder: Path | None = None) -> dict[str, Any]:
    """The golden file of a problem, from a folder or from the copy in the package.

    Raises:
        DataError: the folder has no such file.
        ConfigError: without a folder, and the problem is not one of DeepOBS's.
    """
    if folder is None:
        refuse_others([name])
    source = resources.files("deepobs_func.compat").joinpath("golden") if folder is None else folder
    try:
        return json.loads(source.joinpath(f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: no readable golden file {name}.json ({error}).") from error


def refuse_others(names: Sequence[str]) -> None:
    """Refuses the problems of which the package has no golden file.

    Raises:
        ConfigError: one of the names is not one of DeepOBS's.
    """
    allowed = problems.SETS["deepobs"]
    for name in names:
        if name not in allowed:
            raise ConfigError(
                f"Problem {name!r}: the package holds the reference's figures of DeepOBS's {len(allowed)} problems "
                "alone, which `deepobs list --set deepobs` shows. Name one of them, or figures of yours with --golden."
            )


def check(name: str, folder: Path | None = None) -> list[Figure]:
    """Computes every figure of a problem's golden file again and compares.

    Args:
        name: of the problem.
        folder: where the golden files lie; by default the copy in the package.

    Raises:
        DataError, ConfigError: see `read_golden`.
    """
    case = _case(name, read_golden(name, folder))
    golden = case.golden
    figures = [
        Figure("eval", _worst(_losses(case), golden["eval"]["losses"]), LOSS_TOLERANCE),
        Figure("penalty", _scalar(case.problem.penalty(case.params), golden["eval"]["regularizer"]), LOSS_TOLERANCE),
    ]
    for gain in (2, 4):
        if f"eval_gain{gain}" in golden:
            scaled = _scaled(case, gain)
            figures.append(
                Figure(f"gain {gain}", _worst(_losses(scaled), golden[f"eval_gain{gain}"]["losses"]), LOSS_TOLERANCE)
            )
            if f"grad_gain{gain}" in golden:
                figures += _gradients(scaled, f"grad_gain{gain}", train=False)
    figures += _training(case)
    figures += _gradients(case, "grad", train=False)
    if "grad_train_nodropout" in golden:
        figures += _gradients(case, "grad_train_nodropout", train=True)
    if "second_batch_carried_state" in golden["eval"]:
        figures += _second_batch(case)
    return figures


def _case(name: str, golden: dict[str, Any]) -> Case:
    problem = problems.get(name)
    variables = [_variable(entry) for entry in golden["variables"]]
    moving = [_moving(entry) for entry in golden["state_variables"] if "role" in entry and "moving" in entry["role"]]
    params, state = tf_weights.load(problem, variables, moving, dtype=torch.float64)
    x, y, noise = _inputs(golden)
    tensors = {key: torch.from_numpy(value).double() for key, value in noise.items()}
    batch = Batch.of(_as_input(x), None if y is None else _as_input(y), tensors, state)
    return Case(problem, golden, params, batch)


def _variable(entry: dict[str, Any]) -> np.ndarray:
    index, shape = entry["index"], tuple(entry["shape"])
    if not shape:
        return np.asarray(f32(0.5 + index))
    drawn = np.random.RandomState(1000 + index).standard_normal(shape).astype(f32)
    if len(shape) >= 2:
        return drawn * f32(1 / np.sqrt(np.prod(shape[:-1])))
    return f32(1) + f32(0.1) * drawn if entry["role"] == "gamma" else f32(0.1) * drawn


def _moving(entry: dict[str, Any]) -> np.ndarray:
    shape, index = tuple(entry["shape"]), entry["bn_index"]
    if entry["role"] == "moving_mean":
        return f32(0.1) * np.random.RandomState(5000 + index).standard_normal(shape).astype(f32)
    return f32(1) + f32(0.1) * np.abs(np.random.RandomState(6000 + index).standard_normal(shape).astype(f32))


Inputs = tuple[np.ndarray, np.ndarray | None, dict[str, np.ndarray]]


def _inputs(golden: dict[str, Any]) -> Inputs:
    """The golden batch: inputs (NCHW), targets or None, noise."""
    dataset, size = golden["dataset"], golden["batch"]["batch_size"]
    if dataset == "tolstoi":
        return (*_text(9, size), {})
    if dataset == "quadratic":
        return np.random.RandomState(10).normal(0, 0.6, (size, 100)).astype(f32), None, {}
    if dataset == "two_d":
        u, v = (np.random.RandomState(seed).normal(size=size).astype(f32) for seed in (11, 12))
        return u, v, {}
    shape, r = golden["batch"]["x_shape"], np.random.RandomState(7)
    x = r.uniform(0, 1, shape) if dataset in ("mnist", "fmnist") else r.standard_normal(shape)
    y = np.random.RandomState(8).randint(0, golden["batch"]["num_classes"], size)
    epsilon = {"epsilon": np.random.RandomState(13).standard_normal((size, 8)).astype(f32)}
    noise = epsilon if "epsilon" in golden["batch"] else {}
    return np.ascontiguousarray(x.astype(f32).transpose(0, 3, 1, 2)), y, noise


def _text(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    r = np.random.RandomState(seed)
    return r.randint(0, 83, (size, 50)), r.randint(0, 83, (size, 50))


def _as_input(array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    return tensor.double() if tensor.is_floating_point() else tensor


def _losses(case: Case) -> Tensor:
    return case.problem.evaluate(case.params, case.batch).losses


def _worst(ours: Tensor, golden: Sequence[float]) -> float:
    """The largest relative deviation of losses."""
    theirs = torch.tensor(golden, dtype=torch.float64)
    return float(((ours.detach().double() - theirs).abs() / theirs.abs()).max())


def _scalar(ours: Tensor, golden: float) -> float:
    return float(abs(float(ours) - golden)) / (abs(golden) or 1.0)


def _scaled(case: Case, gain: int) -> Case:
    """Every variable that has rank 2 or more in TensorFlow times the golden factor."""
    factor = float(f32(math.sqrt(2))) if gain == 2 else 4.0
    shapes = [entry["shape"] for entry in case.golden["variables"]]
    pairs = zip(case.params.items(), shapes, strict=True)
    # the product is rounded to float32, as the reference's variables are
    scaled = {name: ((p * factor).float().double() if len(shape) >= 2 else p) for (name, p), shape in pairs}
    return case._replace(params=scaled)


def _training(case: Case) -> list[Figure]:
    """The training phase without dropout: losses, and moving statistics after it."""
    golden = case.golden["train_nodropout"]
    losses, state = case.problem.loss_and_state(case.params, case.batch)
    figures = [Figure("train", _worst(losses, golden["losses"]), LOSS_TOLERANCE)]
    if golden.get("updated_state"):
        norms = [float(np.linalg.norm(array)) for array in tf_weights.save(case.problem, case.params, state)[1]]
        expected = [entry["l2"] for entry in golden["updated_state"]]
        figures.append(Figure("moments", _worst(torch.tensor(norms, dtype=torch.float64), expected), LOSS_TOLERANCE))
    return figures


def _gradients(case: Case, kind: str, *, train: bool) -> list[Figure]:
    """The norm of each variable's gradient: relative to itself, and, with its sum, to the whole gradient."""

    def mean_loss(params: Params) -> Tensor:
        if train:
            return case.problem.loss(params, case.batch).mean()
        return case.problem.evaluate(params, case.batch).losses.mean()

    grads = torch.func.grad(mean_loss)(case.params)
    entries = case.golden[kind]
    total = math.sqrt(sum(entry["l2"] ** 2 for entry in entries))
    relative = absolute = 0.0
    for grad, entry in zip(grads.values(), entries, strict=True):
        deviation = abs(float(grad.norm()) - entry["l2"])
        relative = max(relative, deviation / (entry["l2"] or total))
        in_sum = abs(float(grad.sum()) - entry["sum"]) / math.sqrt(max(grad.numel(), 1))
        absolute = max(absolute, deviation / total, in_sum / total)
    name = case.problem.name
    allowed = AUXILIARY_KINKS if train and name == "imagenet_inception_v3" else KINKS.get(name, GRADIENT_TOLERANCE)
    return [Figure(kind, relative, allowed), Figure(f"{kind}/norm", absolute, NORM_TOLERANCE)]


def _second_batch(case: Case) -> list[Figure]:
    """The batch after the first: with the state that the first one left, and with a zero state."""
    golden = case.golden["eval"]
    _, state = case.problem.evaluate_and_state(case.params, case.batch)
    norms = torch.stack([value.norm() for value in state.carry.values()])
    x, y = (torch.from_numpy(array) for array in _text(14, len(case.batch.x)))
    figures = [
        Figure("state", _worst(norms, [entry["l2"] for entry in golden["state_l2_after_batch1"]]), LOSS_TOLERANCE)
    ]
    for name, carry in (("second_batch_carried_state", state.carry), ("second_batch_zero_state", {})):
        batch = Batch.of(x, y, {}, ModelState({}, carry))
        losses = case.problem.evaluate(case.params, batch).losses
        figures.append(Figure(name, _worst(losses, golden[name]["losses"]), LOSS_TOLERANCE))
    return figures
