"""The stand-ins: right in shape, the same everywhere, and a task that can be learnt but not at once."""

from dataclasses import replace

import numpy as np
import pytest

from deepobs_func import datasets
from deepobs_func.datasets import DatasetSpec, stand_in


def small_spec(name: str = "mnist") -> DatasetSpec:
    return replace(datasets.spec(name), train_size=5_000, test_size=2_000)


@pytest.mark.parametrize(("split", "size"), [("train", 5_000), ("test", 2_000)])
@pytest.mark.parametrize("name", ["mnist", "fmnist"])
def test_shapes_and_classes(name: str, split: str, size: int) -> None:
    x, y = stand_in.images(small_spec(name), split)
    assert (x.shape, x.dtype) == ((size, 1, 28, 28), np.uint8)
    assert (y.shape, y.dtype) == ((size,), np.int64)
    assert np.bincount(y, minlength=10).min() > size / 20
    assert len(np.bincount(y)) == 10


def test_colour_images_of_another_size_and_number_of_classes() -> None:
    spec = replace(small_spec(), shape=(3, 32, 30), num_classes=100)
    x, y = stand_in.images(spec, "train")
    assert x.shape == (5_000, 3, 32, 30)
    assert set(y) == set(range(100))


def test_the_full_size_of_the_real_set() -> None:
    x, y = stand_in.images(datasets.spec("mnist"), "test")
    assert (x.shape, y.shape) == ((10_000, 1, 28, 28), (10_000,))


def test_same_data_each_time() -> None:
    first, second = stand_in.images(small_spec(), "train"), stand_in.images(small_spec(), "train")
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_splits_share_no_example() -> None:
    (train, _), (test, _) = (stand_in.images(small_spec(), split) for split in ("train", "test"))
    assert not {image.tobytes() for image in train} & {image.tobytes() for image in test}


def test_sizes_beyond_one_piece_are_filled() -> None:
    x, _ = stand_in.images(replace(datasets.spec("mnist"), train_size=10_050), "train")
    assert (x[10_000:].reshape(50, -1).std(1) > 10).all()


def test_a_linear_classifier_learns_much_but_not_all() -> None:
    (train_x, train_y), (test_x, test_y) = (stand_in.images(small_spec(), split) for split in ("train", "test"))

    def features(x: np.ndarray) -> np.ndarray:
        return np.concatenate([x.reshape(len(x), -1) / 255.0 - 0.5, np.ones((len(x), 1))], 1)

    a = features(train_x)
    weights = np.linalg.solve(a.T @ a + 10 * np.eye(a.shape[1]), a.T @ np.eye(10)[train_y])
    accuracy = np.mean((features(test_x) @ weights).argmax(1) == test_y)
    assert 0.5 < accuracy < 1.0
