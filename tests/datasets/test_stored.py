"""What is held of a data set: types, finite numbers, class ids."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func import datasets, random
from deepobs_func.datasets.loading import load
from deepobs_func.datasets.stored import as_stored, extreme_rows
from deepobs_func.errors import DataError

X = np.random.default_rng(0).normal(size=(8, 3))


@pytest.mark.parametrize("given", [np.float16, np.float32, np.float64, np.dtype(">f8"), np.longdouble])
def test_floats_are_float32_in_the_check_and_in_the_run(given: Any) -> None:
    x, y = X.astype(given), X[:, 0].astype(given)
    spec = datasets.from_arrays("mine", (x, y), (x, y))
    loaded, fake = load(spec, "/nowhere"), spec.function("fake")(spec, random.key(0), 4, torch.float32)
    for tensor in (*loaded.train, *loaded.test, *fake):
        assert tensor.dtype == torch.float32
    torch.testing.assert_close(loaded.train.x, torch.from_numpy(x.astype(np.float32)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("given", "inputs", "targets"),
    [
        (np.uint8, "uint8", "int64"),
        (np.int32, "int32", "int64"),
        (np.uint16, "int64", "int64"),
        (np.bool_, "bool", "int64"),
        (np.complex128, "complex64", "complex64"),
    ],
)
def test_other_numbers(given: Any, inputs: str, targets: str) -> None:
    values = np.ones((2, 2), given)
    assert as_stored("mine", "x", values).dtype == inputs
    assert as_stored("mine", "y", values, targets=True).dtype == targets


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, 3, dtype=torch.bfloat16),
        torch.ones(2, 3, requires_grad=True),
        [[1.0, 1.0, 1.0]] * 2,
        np.ones((2, 6))[:, ::-2],
    ],
)
def test_whatever_numpy_takes(value: Any) -> None:
    stored = as_stored("mine", "x", value)
    assert torch.equal(torch.from_numpy(stored), torch.ones(2, 3))


def test_arrays_that_must_not_be_written_are_copied() -> None:
    frozen = np.ones((2, 3), np.float32)
    frozen.flags.writeable = False
    torch.from_numpy(as_stored("mine", "x", frozen)).zero_()
    assert frozen.all()


@pytest.mark.parametrize("value", [np.array(["a", "b"]), np.array(3.0), [[1.0], [1.0, 2.0]], np.array([None])])
def test_what_holds_no_numbers_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match=r"mine: expected an array .*as the inputs"):
        as_stored("mine", "the inputs of train", value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("part", ["inputs", "targets"])
def test_numbers_that_are_not_finite_are_counted(bad: float, split: str, part: str) -> None:
    arrays = {
        (s, p): (X if p == "inputs" else X[:, :1]).copy() for s in ("train", "test") for p in ("inputs", "targets")
    }
    arrays[split, part][[2, 5], 0] = bad
    pairs = [(arrays[s, "inputs"], arrays[s, "targets"]) for s in ("train", "test")]
    size = arrays[split, part].size
    with pytest.raises(DataError, match=f"finite numbers in {split}, found 2 of {size} .* {part} .* 2 examples, .* 2"):
        datasets.from_arrays("mine", *pairs)


def test_splits_must_have_one_type_and_one_shape_of_targets() -> None:
    ids = np.arange(8) % 2
    with pytest.raises(DataError, match="differ in type: int64 and float32, the targets"):
        datasets.from_arrays("mine", (X, ids), (X, ids.astype(float)))
    with pytest.raises(DataError, match=r"differ in shape: \(\) and \(1,\), one example of the targets"):
        datasets.from_arrays("mine", (X, ids), (X, ids[:, None]))


@pytest.mark.parametrize("bad", [-1, 4])
@pytest.mark.parametrize("split", ["train", "test"])
def test_class_ids_of_any_reader_are_checked_when_data_are_loaded(bad: int, split: str) -> None:
    x, y = X.astype(np.float32), np.arange(8) % 4
    spec = datasets.from_arrays("mine", (x, y), (x, y))

    def read(spec: datasets.DatasetSpec, folder: object, asked: str) -> tuple[np.ndarray, np.ndarray]:
        return x, np.where(np.arange(8) == 3, bad, y) if asked == split else y

    with pytest.raises(DataError, match=f"expected class ids from 0 to 3 in {split}, found .*{bad}"):
        load(replace(spec, reader=read), "/nowhere")


def test_extremes_are_examples_of_both_splits() -> None:
    ids, y = np.array([[3, 1], [0, 2], [1, 1]]), np.array([1, 0, 1])
    spec = datasets.from_arrays("mine", (ids, y), (ids + np.array([0, 9]), y + 2))
    x, labels = spec.function("extremes")(spec, torch.float32)
    assert (x.min(), x.max(), labels.min(), labels.max()) == (0, 11, 0, 3)
    rows = {(*row, label) for row, label in zip(x.tolist(), labels.tolist(), strict=True)}
    known = {(*row, label) for row, label in zip(ids.tolist(), y.tolist(), strict=True)}
    known |= {(row[0], row[1] + 9, label + 2) for row, label in zip(ids.tolist(), y.tolist(), strict=True)}
    assert rows <= known


def test_extremes_of_images_and_of_floats_are_not_looked_for() -> None:
    assert (
        len(extreme_rows(np.zeros((5, 4), np.uint8)))
        == len(extreme_rows(X))
        == len(extreme_rows(np.zeros((5, 0), int)))
        == 0
    )
    assert len(extreme_rows(np.random.default_rng(0).integers(0, 100, (50, 1000)))) <= 18
