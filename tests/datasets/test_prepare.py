"""Stored values to model inputs, and random inputs of the right shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import datasets, random
from deepobs_func.datasets import prepare

FLOATS = [torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", FLOATS)
def test_unit_interval_divides_by_255(dtype: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
    x = prepare.unit_interval(pixels, dtype)
    assert (x.shape, x.dtype) == ((4, 1, 8, 8), dtype)
    expected = torch.tensor([value / 255 for value in range(256)], dtype=torch.float64)
    torch.testing.assert_close(x.flatten().double(), expected, rtol=1e-7, atol=0)
    assert (x.min(), x.max()) == (0, 1)


@pytest.mark.parametrize("dtype", FLOATS)
def test_as_it_is(dtype: torch.dtype) -> None:
    stored = torch.tensor([-1.5, 0.0, 3.25])
    x = prepare.as_it_is(stored, dtype)
    assert x.dtype == dtype
    assert x.tolist() == [-1.5, 0.0, 3.25]


@pytest.mark.parametrize("name", datasets.names())
@settings(deadline=None, max_examples=10)
@given(batch_size=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), dtype=st.sampled_from(FLOATS))
def test_fake_inputs_look_like_prepared_ones(name: str, batch_size: int, seed: int, dtype: torch.dtype) -> None:
    spec = datasets.spec(name)
    x, y = spec.function("fake")(spec, random.key(seed), batch_size, dtype)
    assert (x.shape, x.dtype) == ((batch_size, *spec.shape), torch.int64 if spec.sequence_length else dtype)
    assert len(y) == batch_size
    again, _ = spec.function("fake")(spec, random.key(seed), batch_size, dtype)
    assert torch.equal(x, again)


def test_fake_images_are_pixels_and_class_ids() -> None:
    x, y = prepare.fake_images(datasets.spec("mnist"), random.key(0), 500, torch.float32)
    assert 0 <= x.min() < 0.01 < 0.99 < x.max() < 1
    assert y.dtype == torch.int64
    assert set(y.tolist()) == set(range(10))


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100), ("svhn", 10)])
def test_fake_standardized_images(name: str, classes: int) -> None:
    x, y = prepare.fake_standardized(datasets.spec(name), random.key(0), 1_000, torch.float32)
    assert abs(x.mean()) < 0.01
    assert abs(x.std() - 1) < 0.01
    assert y.dtype == torch.int64
    assert set(y.tolist()) == set(range(classes))


def test_fake_text_is_shifted_by_one_symbol() -> None:
    x, y = prepare.fake_text(datasets.spec("tolstoi"), random.key(0), 100, torch.float64)
    assert x.shape == y.shape == (100, 50)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert set(x.flatten().tolist()) == set(range(83))


@pytest.mark.parametrize("dtype", FLOATS)
def test_symbols_stay_ids(dtype: torch.dtype) -> None:
    assert torch.equal(prepare.symbols(torch.tensor([[3, 82]]), dtype), torch.tensor([[3, 82]]))


def test_fake_quadratic_has_the_spread_of_the_data() -> None:
    x, y = prepare.fake_quadratic(datasets.spec("quadratic"), random.key(0), 500, torch.float64)
    assert y.shape == (500, 0)
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 0.6) < 0.02


def test_fake_two_d_has_two_independent_noises() -> None:
    x, y = prepare.fake_two_d(datasets.spec("two_d"), random.key(0), 5_000, torch.float64)
    assert x.shape == y.shape == (5_000,)
    assert abs(torch.corrcoef(torch.stack((x, y)))[0, 1]) < 0.06
    assert abs(x.std() - 1) < 0.06
    assert abs(y.std() - 1) < 0.06
