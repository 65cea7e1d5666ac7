"""Batch sizes as an axis of a study: each on as many examples, so that they are compared on equal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepobs_func import datasets, problems
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.runner.config import is_path
from deepobs_func.study.axes import Fields, is_whole
from deepobs_func.study.places import SpecError, Where

AXIS: Where = ("batch_sizes",)
"""The place of the axis."""
MOST_APART = 0.05
"""How far the examples of an epoch, or of an evaluation, may be apart: whole batches leave out the rest of a split."""


def batch_axis(value: Any, where: Where = AXIS) -> tuple[int, ...]:
    """The batch sizes of a study.

    Args:
        value: a list of whole numbers from 1.
        where: its place.

    Raises:
        SpecError: it is no list of them, is empty, or has one twice.

    >>> batch_axis([32, 64])
    (32, 64)
    """
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence) or not value:
        raise SpecError(where, f"{value!r}: it must be a list of batch sizes, such as [32, 64, 128].")
    for index, size in enumerate(value):
        if not is_whole(size) or size < 1:
            raise SpecError((*where, index), f"{size!r}: a batch size is a whole number from 1.")
        if size in value[:index]:
            raise SpecError((*where, index), f"{size} is there already; leave one out.")
    return tuple(int(size) for size in value)


def with_batch_sizes(
    schedules: Sequence[Fields], sizes: Sequence[int], settings: Fields, places: dict[str, Where], problem: str
) -> tuple[Fields, ...]:
    """The schedules of a cell, each with every batch size; epochs, and so the number of examples, stay.

    A schedule changes with the epochs, so it goes by the examples too.

    Args:
        schedules: of the learning rate, as fields of a `RunConfig`.
        sizes: of the study; empty where it has no such axis.
        settings: other fields of the `RunConfig`.
        places: of the cell, to which those of the axis are added.
        problem: its name or import path.

    Raises:
        SpecError: a setting says a batch size too, or see `check_examples`.
    """
    if not sizes:
        return tuple(schedules)
    if "batch_size" in settings:
        where = places.get("batch_size", ("batch_size",))
        raise SpecError(where, f"{settings['batch_size']}: there are batch_sizes too; add it to them, or leave it out.")
    if not is_path(problem):  # whose data are not known before it is imported: `Cell.check_made`
        check_examples(problem, datasets.spec(problems.spec_of(problem).dataset), sizes, settings)
    places["batch_size"] = AXIS
    every = schedules or ({},)
    at = {f"schedules.{n}": places[f"schedules.{n}"] for n in range(len(schedules)) if f"schedules.{n}" in places}
    places |= {
        f"schedules.{len(sizes) * n + m}": at[f"schedules.{n}"]
        for n in range(len(every))
        for m in range(len(sizes))
        if f"schedules.{n}" in at
    }
    return tuple({**each, "batch_size": size} for each in every for size in sizes)


def check_examples(problem: str, spec: DatasetSpec, sizes: Sequence[int], settings: Fields) -> None:
    """Checks that batches of each size leave about as many examples of every split.

    Args:
        problem: its name, for the message.
        spec: its data set.
        sizes: of the batches.
        settings: of the runs; `valid` decides what is set aside.

    Raises:
        SpecError: the examples that are trained on, or those that are evaluated, differ by more than `MOST_APART`.
    """
    given = settings.get("valid") or 0
    valid = spec.test_size if given is True else int(given)
    splits = {
        "an epoch": spec.train_size - valid,
        "the evaluation of the training set": min(spec.train_eval_size or spec.test_size, spec.train_size - valid),
        "the validation": valid,
        "the test": spec.test_size,
    }
    for what, examples in splits.items():
        seen = {size: spec.batches(examples, size) * size for size in sizes} if examples > 0 else {}
        if seen and min(seen.values()) < (1 - MOST_APART) * max(seen.values()):
            shown = ", ".join(f"{count} with {size}" for size, count in seen.items())
            raise SpecError(
                AXIS,
                f"on {problem} {what} has {shown}, since its last partial batch is left out. To compare batch sizes on "
                f"as many examples, take some that leave out at most {MOST_APART:.0%}, such as divisors of {examples}.",
            )
