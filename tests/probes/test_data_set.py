"""Quantities over a data set do not depend on how it is cut into batches, or are refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deepobs_func import random
from deepobs_func.errors import ConfigError
from deepobs_func.probes.data_set import DataSetPoint
from tests.problems.user_functions import problem_of


class Centred(nn.Module):
    """Couples examples by their mean, which no moments stand for."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).tanh()
        return self.last(h - h.mean(0))


def test_examples_coupled_by_other_means_have_no_data_set() -> None:
    problem = problem_of(Centred())
    with pytest.raises(ConfigError, match="couples its examples by other means"):
        DataSetPoint(problem, problem.init()[0], [problem.fake_batch(4)], random.key(0), "eval")


def test_batch_norm_by_moments_has_one() -> None:
    torch.manual_seed(0)
    problem = problem_of(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)))
    assert DataSetPoint(problem, problem.init()[0], [problem.fake_batch(4)], random.key(0), "eval").bn == "eval"
