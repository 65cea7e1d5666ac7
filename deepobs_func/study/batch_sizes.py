"""Batch sizes as an axis of a study: each on as many examples, so that they are compared on equal data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepobs_func import datasets, problems
from deepobs_func.runner.config import is_path
from deepobs_func.study.axes import Fields, is_whole
from deepobs_func.study.places import SpecError, Where

MOST_APART = 0.05
"""How far the examples of an epoch may be apart: whole batches leave out the rest of the training set."""


def batch_axis(value: Any, where: Where = ("batch_sizes",)) -> tuple[int, ...]:
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
        SpecError: a setting says a batch size too, or the examples of an epoch differ by more than `MOST_APART`.
    """
    if not sizes:
        return tuple(schedules)
    if "batch_size" in settings:
        where = places.get("batch_size", ("batch_size",))
        raise SpecError(where, f"{settings['batch_size']}: there are batch_sizes too; add it to them, or leave it out.")
    _check_examples(problem, sizes, settings)
    places["batch_size"] = ("batch_sizes",)
    every = schedules or ({},)
    at = {f"schedules.{n}": places[f"schedules.{n}"] for n in range(len(schedules)) if f"schedules.{n}" in places}
    places |= {
        f"schedules.{len(sizes) * n + m}": at[f"schedules.{n}"]
        for n in range(len(every))
        for m in range(len(sizes))
        if f"schedules.{n}" in at
    }
    return tuple({**each, "batch_size": size} for each in every for size in sizes)


def _check_examples(problem: str, sizes: Sequence[int], settings: Fields) -> None:
    if is_path(problem):
        return  # whose data are not known before it is imported
    spec = datasets.spec(problems.spec_of(problem).dataset)
    valid = settings.get("valid") or 0
    left = spec.train_size - (spec.test_size if valid is True else int(valid))
    seen = {size: spec.batches(left, size) * size for size in sizes}
    least, most = min(seen.values()), max(seen.values())
    if least < (1 - MOST_APART) * most:
        shown = ", ".join(f"{count} with {size}" for size, count in seen.items())
        raise SpecError(
            ("batch_sizes",),
            f"on {problem} an epoch has {shown}, since its last partial batch is left out. To compare batch sizes on "
            f"as many examples, take some that leave out at most {MOST_APART:.0%}, such as divisors of {left}.",
        )
