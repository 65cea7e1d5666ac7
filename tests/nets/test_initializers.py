"""Initial distributions. Keys are fixed; `RATE` is the chance that a correct one fails for a key chosen at random."""

import math

import pytest
import torch
from scipy import stats

from deepobs_func import random
from deepobs_func.nets.initializers import constant, glorot_uniform, he_normal, normal, truncated_normal

RATE = 1e-4
SHAPES = [(200, 300), (40, 20, 5, 5)]
DTYPES = [torch.float32, torch.float64]


def sample(initializer, shape, dtype, seed=0):
    values = initializer(random.key(seed), shape, dtype)
    assert (values.shape, values.dtype) == (shape, dtype)
    return values.double().flatten().numpy()


def assert_distribution(values, distribution):
    mean, variance, kurtosis = (float(moment) for moment in distribution.stats("mvk"))
    bound, size = stats.norm.isf(RATE / 2), len(values)
    assert stats.kstest(values, distribution.cdf).pvalue > RATE
    assert abs(values.mean() - mean) < bound * math.sqrt(variance / size)
    assert abs(values.var() - variance) < bound * variance * math.sqrt((kurtosis + 2) / size)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 0.05, -1.5])
def test_constant_is_everywhere_its_value(dtype, value):
    values = constant(value)(random.key(0), (2, 3), dtype)
    assert torch.equal(values, torch.full((2, 3), value, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("std", [0.03, 1.0])
def test_truncated_normal_is_a_normal_cut_at_two_deviations(dtype, shape, std):
    values = sample(truncated_normal(std), shape, dtype)
    assert_distribution(values, stats.truncnorm(-2.0, 2.0, scale=std))
    assert abs(values).max() <= 2 * std * (1 + torch.finfo(dtype).eps)
    assert abs(values).max() > 1.95 * std  # a cut at less would show


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "fans"), [(SHAPES[0], 200 + 300), (SHAPES[1], (40 + 20) * 25)])
def test_glorot_uniform_has_the_bound_of_its_fans(dtype, shape, fans):
    values, bound = sample(glorot_uniform(), shape, dtype), math.sqrt(6.0 / fans)
    assert_distribution(values, stats.uniform(-bound, 2 * bound))
    assert abs(values).max() <= bound * (1 + torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("fan", ["in", "out"])
def test_he_normal_has_the_variance_of_its_fan(shape, fan):
    connections = {("in", 2): 300, ("in", 4): 20 * 25, ("out", 2): 200, ("out", 4): 40 * 25}[fan, len(shape)]
    values = sample(he_normal(fan), shape, torch.float32)
    assert_distribution(values, stats.norm(0.0, math.sqrt(2.0 / connections)))


def test_normal_has_its_deviation():
    assert_distribution(sample(normal(0.02), SHAPES[0], torch.float64), stats.norm(0.0, 0.02))


@pytest.mark.parametrize("initializer", [truncated_normal(0.1), glorot_uniform(), normal(0.1), he_normal()])
def test_draws_follow_from_the_key(initializer):
    first, again, other = (sample(initializer, SHAPES[0], torch.float32, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).mean() > 0.99


def test_draws_of_every_channel_differ():
    values = glorot_uniform()(random.key(0), (8, 8, 3, 3), torch.float32)
    assert len(values.unique()) == values.numel()
