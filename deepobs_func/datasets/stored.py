"""What is held of a data set: arrays of few types, whole and finite, with class ids that are classes."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from deepobs_func.base import Inputs, inputs_by_name
from deepobs_func.errors import ConfigError, DataError

Arrays = tuple[Any, np.ndarray]
"""Inputs, one array or several in a tuple or a dict, and targets."""

SLACK = 1e-5  # of a range of targets: sums of probabilities are rounded
_COLUMNS = 8  # of many whole numbers an example, in which extremes are looked for


def as_stored(name: str, what: str, value: Any, *, targets: bool = False, own: bool = False) -> np.ndarray:
    """An array or a tensor of the user's in the type that a run computes with.

    Floating-point numbers become float32, complex ones complex64. Whole numbers stay whole; in targets they and
    truth values become int64.

    Args:
        name: of the data set.
        what: which array, e.g. `"the inputs of train"`.
        value: anything that NumPy takes.
        targets: whether it holds targets.
        own: whether the result may share no memory with the value, which the user may change.

    Returns:
        A contiguous array with a leading axis of examples.

    Raises:
        DataError: it holds anything but numbers, or has no axis.
    """
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        value = value.float() if value.is_floating_point() else value  # NumPy has no bfloat16
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise DataError(f"{name}: expected an array as {what}, found: {error}. Give all examples one shape.") from error
    if array.ndim == 0 or array.dtype.kind not in "fciub":
        raise DataError(
            f"{name}: expected an array of numbers with a leading axis of examples as {what}, found the shape "
            f"{array.shape} and the type {array.dtype}. Convert it, e.g. with np.asarray(..., np.float32)."
        )
    kind, wide = array.dtype.kind, array.dtype.itemsize > 1
    dtype = array.dtype
    if kind in "fc":
        dtype = np.dtype(np.float32 if kind == "f" else np.complex64)
    elif targets or (kind == "u" and wide):  # torch stores wide unsigned numbers, but gathers and compares none
        dtype = np.dtype(np.int64)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, which `check` reports
        found = np.require(array, dtype.newbyteorder("="), ["C", "W"])
    return found.copy() if own and np.may_share_memory(found, array) else found


def are_several(value: Any) -> bool:
    """Whether a value is several inputs: a dict, or a tuple of arrays; a tuple of numbers or rows is one array."""
    return isinstance(value, dict) or (
        isinstance(value, tuple) and len(value) > 0 and all(hasattr(each, "shape") for each in value)
    )


TARGETS = "the targets"


def by_name(arrays: Arrays) -> dict[str, np.ndarray]:
    """Inputs and targets by name, as `inputs_by_name` has the inputs; the targets come last."""
    x, y = arrays
    return {**inputs_by_name(x), TARGETS: y}


def inputs_as_stored(name: str, split: str, value: Any, *, own: bool = False) -> Inputs:
    """One input or several, each by `as_stored`.

    Raises:
        DataError: as in `as_stored`; or there are none, or they differ in length.
    """
    what = f"the inputs of {split}"
    if not are_several(value):
        return as_stored(name, what, value, own=own)
    named = {
        place: as_stored(name, f"{what}, {place!r},", each, own=own) for place, each in inputs_by_name(value).items()
    }
    if not named:
        raise DataError(f"{name}: expected arrays as {what}, found an empty dict.")
    if len({len(each) for each in named.values()}) > 1:
        lengths = {place: len(each) for place, each in named.items()}
        raise DataError(f"{name}: expected as many examples in each of {what}, found {lengths}.")
    return named if isinstance(value, dict) else tuple(named.values())


def check(
    name: str,
    split: str,
    x: Inputs,
    y: np.ndarray,
    num_classes: int | None = None,
    ignore_index: int | None = None,
    rows: Sequence[int] | None = None,
) -> None:
    """Looks at one split, in one pass over what can be wrong.

    Args:
        name: of the data set.
        split: `"train"` or `"test"`.
        x, y: inputs and targets, as `as_stored` returns them.
        num_classes: whole numbers in `y` are ids below it; None where there are no classes.
        ignore_index: a whole number in `y` that is no class id, and allowed.
        rows: the numbers of the examples, for messages; by default they count from 0.

    Raises:
        DataError: `x` and `y` differ in length, a number is not finite, or a class id is none.
    """
    inputs = {f"inputs {place!r}" if place else "inputs": each for place, each in inputs_by_name(x).items()}
    length = len(next(iter(inputs.values())))
    if length != len(y):
        raise DataError(f"{name}: expected as many inputs as targets in {split}, found {length} and {len(y)}.")
    for what, array in {**inputs, "targets": y}.items():
        # A sum in double precision is finite where all float32 numbers are, and needs no array of truth values.
        if array.dtype.kind in "fc" and not np.isfinite(array.sum(dtype=np.result_type(array.dtype, np.float64))):
            wrong = ~np.isfinite(array)
            count = int(wrong.sum())
            examples = np.flatnonzero(wrong.reshape(len(array), -1).any(1))
            first = examples[0] if rows is None else rows[examples[0]]
            raise DataError(
                f"{name}: expected finite numbers in {split}, found {count} of {array.size} numbers of the {what} to "
                f"be NaN or infinite in float32, in {len(examples)} examples, the first of them number {first}. "
                "Leave these examples out, or fill in a finite value."
            )
    if y.dtype.kind != "i":
        return
    y = y if ignore_index is None else y[y != ignore_index]
    if y.size == 0 or (num_classes is None and y.min() >= 0):
        return
    if y.min() < 0 or (num_classes is not None and y.max() >= num_classes):
        allowed = "from 0" if num_classes is None else f"from 0 to {num_classes - 1}"
        raise DataError(
            f"{name}: expected class ids {allowed} in {split}, found {y.min()} to {y.max()}. Whole numbers are class "
            "ids; give what is no class id as floating-point numbers, and name an id that does not count, such as that "
            "of padding, by ignore_index=."
        )


def whole_ids(classes: Any, ignore_index: Any) -> tuple[int | None, int | None]:
    """What a user says of class ids, as Python's numbers.

    Raises:
        ConfigError: `classes` is no whole number of at least 1, or `ignore_index` is no whole number.
    """
    if classes is not None and (not _is_whole(classes) or classes < 1):
        raise ConfigError(f"classes= is a whole number of at least 1, not {classes!r}.")
    if ignore_index is not None and not _is_whole(ignore_index):
        raise ConfigError(f"ignore_index= is a whole number, or None where all ids count, not {ignore_index!r}.")
    return None if classes is None else int(classes), None if ignore_index is None else int(ignore_index)


def _is_whole(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def outside(targets: np.ndarray, allowed: tuple[float, float]) -> str:
    """What is wrong with targets outside of a measure's range, as the end of a sentence; empty where nothing is."""
    low, high = allowed
    least, most = (float(end) for end in (targets.min(), targets.max()))
    if low - SLACK <= least and most <= high + SLACK:
        return ""
    return (
        f"go from {least:g} to {most:g}; the measure takes probabilities, numbers from {low:g} to {high:g}. For labels "
        "-1 and 1 give 0 and 1, (y + 1) / 2; for scores take measures.square."
    )


def extreme_rows(array: np.ndarray) -> np.ndarray:
    """The examples that hold the smallest and the largest whole numbers; none of other arrays, nor of images in bytes.

    Returns:
        Their rows, `(n,)` int64: those of the whole array, and of some columns where an example has many numbers.
    """
    if array.dtype.kind not in "iu" or array.dtype.itemsize == 1 or array.size == 0:
        return np.empty(0, np.int64)
    columns = array.reshape(len(array), -1)
    step = -(-columns.shape[1] // _COLUMNS)
    some = columns[:, ::step]
    ends = np.array([columns.argmin(), columns.argmax()]) // columns.shape[1]
    return np.unique(np.concatenate([some.argmin(0), some.argmax(0), ends]))
