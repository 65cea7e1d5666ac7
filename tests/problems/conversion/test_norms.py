"""Batch norm that is called twice, or does not track: what `bn=` means, and the masks beside it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepobs_func import probes
from deepobs_func.backend.kernels import using
from deepobs_func.errors import ConfigError
from tests.problems.conversion.stock import assert_training_phase, at_float64, close, data, make


def test_a_batch_norm_that_is_called_twice_takes_bn_coupled_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.head = nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
            nn.init.zeros_(self.norm.weight)  # so that no value shows which moments it takes

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.norm(self.first(x))) + self.head(self.norm(self.first(2 * x + 1)))

    problem = make(Twice(), data("vector"))
    assert not problem.normalizes
    params, batch = at_float64(problem)
    with pytest.raises(ConfigError, match="that it calls once each"):
        probes.per_example_sq_norms(problem, params, batch, bn="frozen")
    assert_training_phase(problem)


def test_frozen_statistics_of_a_norm_that_does_not_track() -> None:
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    net[1].track_running_stats = False
    problem = make(net, data("vector"))
    params, batch = at_float64(problem, 8)
    frozen = batch._replace(state=problem.batch_moments(params, batch))
    close(problem.loss_by_moments(params, frozen), problem.loss(params, batch))


@pytest.mark.parametrize("fused", [False, True])
def test_cumulative_averages_are_those_of_double_precision(fused: bool) -> None:
    problem = make(nn.Sequential(nn.BatchNorm1d(6, momentum=None), nn.Linear(6, 3)), data("vector"))
    with using(fused=fused):
        assert_training_phase(problem)


def test_masks_beside_batch_norm_that_are_not_of_their_examples_are_refused() -> None:
    class StepsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.head, self.norm = nn.Dropout(0.5), nn.Linear(6, 3), nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            steps = self.drop(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, len(x)))
            return self.norm(self.head(steps.mean(0)))

    with pytest.raises(ConfigError, match=r"The masks that the layers \['drop'\] draw"):
        make(StepsFirst(), data("signal"))


def test_a_batch_norm_centres_before_it_scales() -> None:
    problem = make(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), data("vector"))
    params, state = problem.init()
    batch = problem.fake_batch(8)._replace(state=state)
    batch = batch._replace(x=(4 * batch.x).round() + 1024)  # of which the mean is exact
    right = problem.to_module(params, state).double()(batch.x.double())
    torch.testing.assert_close(problem.outputs(params, batch).double(), right, rtol=1e-6, atol=1e-6)
