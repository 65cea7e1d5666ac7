"""The generated data against the recipes of DeepOBS 1.1.2, spelled out here once more."""

import numpy as np
import pytest

from deepobs_func import datasets
from deepobs_func.datasets import generated

# The first standard normals of NumPy's legacy generator, which never change.
FIRST_OF_42 = [0.4967141530112327, -0.13826430117118466, 0.6476885381006925]
FIRST_OF_43 = [0.25739992534469336, -0.9084814327806611, -0.37850310605882326]


def read(name: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    return getattr(generated, name)(datasets.spec(name), None, split)


@pytest.mark.parametrize(("split", "seed", "first"), [("train", 42, FIRST_OF_42), ("test", 43, FIRST_OF_43)])
def test_quadratic(split: str, seed: int, first: list[float]) -> None:
    x, y = read("quadratic", split)
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((1000, 100), np.float32, (1000, 0), np.float32)
    np.testing.assert_allclose(x[0, :3], 0.6 * np.array(first), rtol=1e-6)
    standard = np.random.RandomState(seed).standard_normal(100_000)
    np.testing.assert_array_equal(x.ravel(), (0.6 * standard).astype(np.float32))


def test_two_d_train() -> None:
    x, y = read("two_d", "train")
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((10000,), np.float32, (10000,), np.float32)
    np.testing.assert_allclose(x[:3], FIRST_OF_42, rtol=1e-6)
    stream = np.random.RandomState(42).standard_normal(20_000).astype(np.float32)
    np.testing.assert_array_equal(x, stream[:10_000])
    np.testing.assert_array_equal(y, stream[10_000:])  # v's noise goes on where u's ended


def test_two_d_test_is_without_noise() -> None:
    for values in read("two_d", "test"):
        np.testing.assert_array_equal(values, np.zeros(10_000, np.float32))


@pytest.mark.parametrize("name", ["quadratic", "two_d"])
def test_same_data_each_time_and_the_global_generator_is_left_alone(name: str) -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    first, second = read(name, "train"), read(name, "train")
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before)
