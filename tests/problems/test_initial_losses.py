"""The objective before training beside the published runs', on the stand-in, which changes it little.

At its start a net says next to nothing about the labels: the loss is `log C`, a little more from the spread of its
outputs, and the penalty, which follows from the initial distributions.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from deepobs_func import problems
from deepobs_func.base import Batch
from deepobs_func.datasets.loading import SYNTHETIC, load

PUBLISHED = {  # mean and standard deviation of the test loss before training over the 10 published seeds
    "cifar10_3c3d": (3.5921, 0.0188),
    "cifar100_allcnnc": (4.9274, 0.0029),
    "svhn_wrn164": (2.7900, 0.0166),
}


@pytest.mark.parametrize(
    "name", [name if name == "cifar10_3c3d" else pytest.param(name, marks=pytest.mark.large) for name in PUBLISHED]
)
def test_cross_entropy_and_penalty_before_training(name: str) -> None:
    """Within three standard deviations of a difference of two seeds; the stand-in adds ours."""
    problem = problems.get(name)
    test = load(replace(problem.dataset, train_size=48, test_size=48, file_sizes=()), SYNTHETIC).test
    x, y = problem.dataset.function("prepare")(test.x, torch.float32), test.y
    objectives = []
    for seed in range(4):
        params, state = problem.init(seed)
        with torch.no_grad():
            losses = problem.evaluate(params, Batch(x, y, {}, state)).losses
        objectives.append(losses.mean() + problem.penalty(params))
    ours = torch.stack(objectives)
    mean, deviation = PUBLISHED[name]
    assert abs(ours.mean() - mean) < 3 * math.hypot(deviation, float(ours.std()))
    assert float(ours.std()) < 0.05
