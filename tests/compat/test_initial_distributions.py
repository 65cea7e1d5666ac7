"""Initial distributions: each variable's draw beside the reference's own draw, by tests of a stated error rate.

The golden files hold mean, standard deviation, least and greatest value of one draw of the reference's initializers.
Keys are fixed, so the tests are deterministic; were the distributions equal, all tests of a problem together would fail
for one key in 1 / RATE.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import pytest
import torch

from deepobs_func import problems
from deepobs_func.compat import parity
from tests.problems.test_registry import table

RATE = 0.01
CASES = table(problems.SETS["deepobs"])


def bounds(size: int, tests: int) -> tuple[float, float, float]:
    """How far two samples' means and deviations, in deviations, and extremes, relative, may lie apart.

    The distributions are uniform, or normals cut at two deviations. Their kurtosis is at most 2.4, so a sample's
    deviation has a standard error below `sqrt(1.4 / (4 n))`. Near the edge at b the density is at least `0.11 / b`, so
    the greatest of n values misses b by more than x b with probability at most `exp(-0.11 n x)`.
    """
    rate = RATE / (4 * tests)
    z = NormalDist().inv_cdf(1 - rate / 2)
    return z * math.sqrt(2 / size), z * math.sqrt(2 * 1.4 / (4 * size)), math.log(2 / rate) / (0.11 * size)


@pytest.mark.parametrize("name", CASES)
def test_draws_are_those_of_the_reference_in_distribution(name: str) -> None:
    golden = parity.read_golden(name)["init"]
    params, _ = problems.get(name).init(0)
    for (variable, drawn), theirs in zip(params.items(), golden, strict=True):
        values = drawn.double()
        if theirs["std"] == 0.0:
            torch.testing.assert_close(values, torch.full_like(values, theirs["mean"]), msg=variable)
            continue
        in_mean, in_deviation, in_extremes = bounds(values.numel(), len(golden))
        assert abs(float(values.mean()) - theirs["mean"]) < in_mean * theirs["std"], variable
        assert abs(float(values.std()) / theirs["std"] - 1) < in_deviation, variable
        assert abs(float(values.max()) / theirs["max"] - 1) < in_extremes, variable
        assert abs(float(values.min()) / theirs["min"] - 1) < in_extremes, variable
