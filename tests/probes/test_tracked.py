"""Each tracked quantity has one definition, whatever is tracked beside it and whatever batch norm does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func import random, tree
from deepobs_func.probes import per_example_grads
from deepobs_func.probes.catalog import QUANTITIES
from deepobs_func.probes.quantities import LineSample
from deepobs_func.probes.tracked import TrackedStep, track
from tests.probes import toys

MODES = [(True, "coupled"), (True, "frozen"), (True, "eval"), (False, None)]
IDS = ["coupled", "frozen", "eval", "separable"]


def step_of(norm: bool, bn: str | None, names: tuple[str, ...] = tuple(QUANTITIES)) -> TrackedStep:
    """A step along the gradient, away from where the run started, in float64."""
    problem = toys.conv_problem(norm=norm)
    before, batch = toys.instance(problem)
    moments = {name: leaf + 0.3 for name, leaf in batch.state.moments.items()}  # not those of this batch
    batch = batch._replace(state=batch.state._replace(moments=moments))
    grads = torch.func.grad(lambda p: problem.loss(p, batch).mean())(before)
    after = tree.sub(before, tree.scale(0.05, grads))
    start = problem.init(0, dtype=torch.float64)[0]
    return TrackedStep(problem, batch, before, after, start, 0.05, random.key(1), names, bn)


@pytest.mark.parametrize(("norm", "bn"), MODES, ids=IDS)
def test_each_quantity_alone_equals_each_among_all(norm: bool, bn: str | None) -> None:
    step = step_of(norm, bn)
    together = track(step)
    assert list(together) == list(QUANTITIES)
    for name in QUANTITIES:
        np.testing.assert_allclose(track(replace(step, names=(name,)))[name], together[name], rtol=1e-9, err_msg=name)


def test_the_mode_of_batch_norm_decides_on_what_is_of_single_examples_alone() -> None:
    coupled, frozen, eval_ = (track(step_of(True, bn)) for bn in ("coupled", "frozen", "eval"))
    for name, row in QUANTITIES.items():
        if row.per_example:
            assert coupled[name] != frozen[name], name
            assert frozen[name] != eval_[name], name
        else:
            assert coupled[name] == frozen[name] == eval_[name], name


@pytest.mark.parametrize(("norm", "bn"), MODES, ids=IDS)
def test_the_gradient_is_that_of_the_coupled_mean_loss(norm: bool, bn: str | None) -> None:
    step = step_of(norm, bn, ("grad_norm",))
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in step.before.items()}
    step.problem.loss(leaves, step.batch).mean().backward()
    expected = sum(float(leaf.grad.square().sum()) for leaf in leaves.values()) ** 0.5
    assert track(step)["grad_norm"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("norm", "bn"), MODES, ids=IDS)
def test_the_slopes_of_alpha_are_those_of_its_losses(norm: bool, bn: str | None) -> None:
    """By central differences of the losses, at both ends: one function along the line."""
    step = step_of(norm, bn)
    direction, width = tree.sub(step.after, step.before), 1e-4

    def moved(params: dict[str, torch.Tensor], by: float) -> LineSample:
        return step.sample(tree.add(params, tree.scale(by, direction)), direction)

    for end in (step.before, step.after):
        found: Any = step.sample(end, direction)
        differences = (moved(end, width).losses - moved(end, -width).losses) / (2 * width)
        torch.testing.assert_close(found.slopes, differences, rtol=1e-4, atol=1e-6)


def test_slopes_are_those_of_the_per_example_gradients() -> None:
    for norm, bn in MODES:
        step = step_of(norm, bn)
        direction = tree.sub(step.after, step.before)
        grads = per_example_grads(step.problem, step.before, step.batch, bn=bn)
        expected = sum((grads[name] * direction[name]).flatten(1).sum(1) for name in direction)
        torch.testing.assert_close(step.sample(step.before, direction).slopes, expected)
