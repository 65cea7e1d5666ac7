"""A user's own arrays as a data set."""

from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func import datasets, random
from deepobs_func.datasets.loading import load
from deepobs_func.errors import ConfigError, DataError


def arrays(size: int, shape: tuple[int, ...] = (3,), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(size, *shape)).astype(np.float32), np.arange(size) % 4


def test_spec_follows_from_the_arrays() -> None:
    spec = datasets.from_arrays("mine", arrays(8, (3, 5)), arrays(6, (3, 5)))
    assert (spec.name, spec.train_size, spec.test_size) == ("mine", 8, 6)
    assert (spec.shape, spec.num_classes, spec.generated) == ((3, 5), 4, True)


def test_a_class_that_only_the_test_set_has_is_counted() -> None:
    x, y = arrays(8)
    assert datasets.from_arrays("mine", (x, y % 2), (x, y)).num_classes == 4


def test_regression_has_no_classes() -> None:
    x, _ = arrays(8)
    assert datasets.from_arrays("mine", (x, x[:, :1]), (x, x[:, :1])).num_classes is None


def test_loaded_tensors_hold_the_arrays() -> None:
    train, test = arrays(8, seed=1), arrays(6, seed=2)
    loaded = load(datasets.from_arrays("mine", train, test), "/nowhere")
    assert not loaded.synthetic
    for split, (x, y) in ((loaded.train, train), (loaded.test, test)):
        assert torch.equal(split.x, torch.from_numpy(x))
        assert torch.equal(split.y, torch.from_numpy(y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fake_inputs_are_training_examples(dtype: torch.dtype) -> None:
    x, y = arrays(8)
    spec = datasets.from_arrays("mine", (x, y), arrays(6))
    fake_x, fake_y = spec.function("fake")(spec, random.key(0), 5, dtype)
    assert (fake_x.dtype, fake_y.dtype) == (dtype, torch.int64)
    pairs = {(row.tobytes(), int(label)) for row, label in zip(x, y, strict=True)}
    drawn = zip(fake_x.float().numpy(), fake_y, strict=True)
    assert all((row.tobytes(), int(label)) in pairs for row, label in drawn)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(("inputs", "targets"), [(8, 7), (7, 8)])
def test_inputs_and_targets_must_match(split: str, inputs: int, targets: int) -> None:
    bad = (arrays(inputs)[0], arrays(targets)[1])
    sets = (bad, arrays(6)) if split == "train" else (arrays(6), bad)
    with pytest.raises(DataError, match=f"mine: expected .* in {split}, found {inputs} and {targets}"):
        datasets.from_arrays("mine", *sets)


def test_splits_must_have_one_shape() -> None:
    with pytest.raises(DataError, match=r"mine: train and test differ in shape: \(3,\) and \(4,\)"):
        datasets.from_arrays("mine", arrays(8, (3,)), arrays(6, (4,)))


def test_class_ids_count_from_zero() -> None:
    x, y = arrays(8)
    with pytest.raises(DataError, match="-1"):
        datasets.from_arrays("mine", (x, y - 1), (x, y))


def test_there_must_be_examples() -> None:
    with pytest.raises(DataError, match="mine: there are no examples in test"):
        datasets.from_arrays("mine", arrays(6), arrays(0))


def test_an_id_that_does_not_count_is_no_class() -> None:
    x, y = np.zeros((4, 3), np.float32), np.array([0, 1, 2, 255])
    spec = datasets.from_arrays("mine", (x, y), (x, y), ignore_index=255)
    assert spec.num_classes == 3
    assert set(spec.function("extremes")(spec, torch.float32)[1].tolist()) == {0, 2, 255}
    assert datasets.from_arrays("mine", (x, y * 0 - 100), (x, y * 0 - 100), ignore_index=-100).num_classes is None
    with pytest.raises(DataError, match="class ids from 0 to 1 in train"):
        datasets.from_arrays("mine", (x, y), (x, y), ignore_index=255, classes=2)


def test_a_later_change_of_the_arrays_changes_nothing() -> None:
    x, y, mask = np.zeros((6, 3), np.float32), torch.zeros(6, dtype=torch.int64), torch.zeros(6, 3)
    loaded = load(datasets.from_arrays("mine", ({"x": x, "mask": mask}, y), ({"x": x, "mask": mask}, y)), "/nowhere")
    x[:], mask[:], y[:] = np.nan, 1.0, 7
    inputs, targets = loaded.train.x, loaded.train.y
    assert not any(part.any() for part in (*inputs.values(), targets))


@pytest.mark.parametrize("options", [{"classes": 2.0}, {"classes": 0}, {"classes": True}, {"ignore_index": 1.5}])
def test_counts_and_ids_are_whole_numbers(options: dict[str, Any]) -> None:
    x, y = np.zeros((6, 3), np.float32), np.zeros(6, np.float32)
    with pytest.raises(ConfigError, match="is a whole number"):
        datasets.from_arrays("mine", (x, y), (x, y), **options)


def test_numbers_of_numpy_are_numbers() -> None:
    y = np.array([0, 1, 4, 1])
    split = np.zeros((4, 2), np.float32), y
    found = datasets.from_arrays("counted", split, split, classes=y.max() + 1, ignore_index=np.int32(1))
    assert (found.num_classes, found.ignore_index) == (5, 1)
    assert type(found.num_classes) is type(found.ignore_index) is int
