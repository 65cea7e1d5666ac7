"""The items of a data set of the user's: an input and a target each, read by number, of one shape throughout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.backend.generators import generators, kept, seed
from deepobs_func.base import Inputs, inputs_by_name
from deepobs_func.datasets.stored import TARGETS, Arrays, are_several, as_stored, by_name, check, inputs_as_stored
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.imports import cause

Columns = tuple[Any, str]
"""The entries of input and target in an item that is a mapping; of several inputs a list of names, or
`{keyword: name}`."""


BLOCK = 1024  # items that are read at a time, where all are read
KEY = 0  # of what items draw, where they are drawn once


class Pairs:
    """Inputs and targets in arrays, as items; arrays on disk (`np.memmap`) are not read before they are asked for.

    Args:
        name, split: for messages.
        x, y: as `datasets.from_arrays` takes them.

    Raises:
        DataError: there are no targets, or inputs and targets differ in length.
    """

    def __init__(self, name: str, split: str, x: Any, y: Any) -> None:
        if y is None:
            raise DataError(
                f"{name}: the targets of {split} are None, which arrays in memory may be and streamed ones not. Give "
                "zeros, one for each example, or leave stream= out."
            )
        if isinstance(x, tuple) and len(x) == len(y):
            x = list(x)  # of examples, as zip(*pairs) gives them, and not of inputs
        self.x: Any = x
        self.y: Any = y
        several = x.values() if isinstance(x, Mapping) else x if are_several(x) else [x]
        lengths = {len(each) for each in (*several, y)}
        if len(lengths) > 1:
            found = f"{[len(each) for each in several]} and {len(y)}"
            raise DataError(f"{name}: expected as many inputs as targets in {split}, found {found}.")

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        x = self.x
        if isinstance(x, Mapping):
            return {name: each[index] for name, each in x.items()}, self.y[index]
        return tuple(each[index] for each in x) if are_several(x) else x[index], self.y[index]


@dataclass(frozen=True, eq=False)
class Items:
    """A split.

    Attributes:
        name: of the data set.
        split: `"train"` or `"test"`.
        given: with a length and items.
        columns: where items are mappings.
        ignore_index: an id in the targets that is no class.
        draws: whether items may draw random numbers.

    Raises:
        ConfigError: `columns` are not the entries of x and the entry of y.
    """

    name: str
    split: str
    given: Any
    columns: Columns | None
    ignore_index: int | None
    draws: bool = field(default=True, metadata={"in_digest": False})  # what is read is the same, or refused

    def __post_init__(self) -> None:
        columns: Any = self.columns
        is_pair = isinstance(columns, tuple | list) and len(columns) == 2 and isinstance(columns[1], str)
        if columns is not None and not (is_pair and _are_names(columns[0])):
            raise ConfigError(
                f"columns={columns!r}: two entries, that of x and that of y, such as ('image', 'label'). Several "
                "inputs are a list of names, (['ids', 'mask'], 'label'), or {keyword of the module: name}."
            )

    def __len__(self) -> int:
        return len(self.given)

    def read(self, rows: Sequence[int], key: random.Key | None = None, classes: int | None = None) -> Arrays:
        """Some items as arrays, checked.

        Args:
            rows: their numbers.
            key: from which the global generators are seeded before each item, by its number, so that what an item
                draws follows from key and number alone; None for `KEY`, and for a block of items at once where none
                of them draws.
            classes: class ids are below it.

        Raises:
            DataError: reading an item raised, it is no pair, the items have several shapes, or hold what cannot be
                stored.
        """
        if key is None:
            with kept():
                items = self._block(rows)
        else:
            items = self._drawn(rows, key)
        pairs = [self._pair(row, item) for row, item in zip(rows, items, strict=True)]
        inputs, targets = zip(*pairs, strict=True)
        x = self._inputs(rows, inputs)
        y = as_stored(self.name, f"the targets of {self.split}", self._stacked(rows, "targets", targets), targets=True)
        check(self.name, self.split, x, y, classes, self.ignore_index, rows)
        return x, y

    def whole(self, classes: int | None = None) -> Arrays:
        """All items, in blocks; what they draw is drawn once, whatever the state of the global generators.

        Raises:
            DataError: as in `read`.
            ConfigError: items draw, where they may not.
        """
        size = len(self)
        blocks = [self.read(range(at, min(at + BLOCK, size)), None, classes) for at in range(0, size, BLOCK)]
        parts = list(map(by_name, blocks))
        for at, part in enumerate(parts):
            self._check_block(parts[0], part, at * BLOCK)
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        y, x = joined.pop(TARGETS), blocks[0][0]
        if isinstance(x, dict):
            return joined, y
        return (tuple(joined.values()) if isinstance(x, tuple) else joined[""]), y

    def _check_block(self, first: dict[str, np.ndarray], part: dict[str, np.ndarray], row: int) -> None:
        """Refuses a block of other shapes or inputs than the first one."""
        if part.keys() != first.keys():
            names, found = ([name for name in each if name != TARGETS] for each in (first, part))
            raise self._of_other_inputs(names, 0, found, row)
        for name, array in part.items():
            if array.shape[1:] != first[name].shape[1:]:
                what = "targets" if name == TARGETS else f"inputs {name!r}" if name else "inputs"
                shapes = f"{first[name].shape[1:]} at item 0 and {array.shape[1:]} at item {row}"
                raise self._of_several_shapes(what, shapes)

    def _drawn(self, rows: Sequence[int], key: random.Key) -> list[Any]:
        """Items, each under generators that are seeded from the key and its number.

        Raises:
            ConfigError: an item draws, where it may not.
        """
        words = random.fold_in(key.cpu(), torch.tensor(list(rows))).tolist()
        items = []
        with kept():
            for row, own in zip(rows, words, strict=True):
                seed(own)
                before = None if self.draws else generators()
                items += self._items([row])
                if before is not None and generators() != before:
                    raise ConfigError(self.random_items(row))
        return items

    def _block(self, rows: Sequence[int]) -> list[Any]:
        """Items at once; one by one, each under seeded generators, where one of them draws."""
        key = random.key(KEY)
        seed(random.fold_in(key, torch.tensor(rows[0])).tolist())
        before = generators()
        items = self._items(rows)
        return items if generators() == before else self._drawn(rows, key)

    def random_items(self, row: int) -> str:
        """What is said of items that draw without leave."""
        return (
            f"{self.name}: items of {self.split} are random. Say by stream= what is wanted: True draws them anew in "
            f"each epoch, from the run's key; False draws them once. Item {row} drew from a global generator."
        )

    def _items(self, rows: Sequence[int]) -> list[Any]:
        several = getattr(self.given, "__getitems__", None)  # of torch's subsets and of Hugging Face's data sets
        row = None
        try:
            if several is not None:
                return list(several(list(rows)))
            items = []
            for row in rows:
                items.append(self.given[row])
            return items
        except Exception as error:  # whatever a user's data set raises
            which = f"item {row}" if row is not None else f"items {list(rows)[:3]}"
            raise DataError(f"{self.name}: reading {which} of {self.split} raised {cause(error)}.") from error

    def _pair(self, row: int, item: Any) -> tuple[Any, Any]:
        name, split, columns = self.name, self.split, self.columns
        if isinstance(item, Mapping):
            wanted = [] if columns is None else [*_named(columns[0]).values(), columns[1]]
            if columns is None or any(column not in item for column in wanted):
                raise DataError(
                    f"{name}: item {row} of {split} is a mapping with the entries {sorted(map(str, item))}; name those "
                    f"of x and y by columns=, e.g. columns=('image', 'label'), or (['ids', 'mask'], 'label') for "
                    f"several inputs; it is {columns!r}."
                )
            if isinstance(columns[0], str):
                return item[columns[0]], item[columns[1]]
            return {key: item[column] for key, column in _named(columns[0]).items()}, item[columns[1]]
        if not isinstance(item, Sequence) or isinstance(item, str) or len(item) != 2:
            raise DataError(f"{name}: expected items (x, y) in {split}, found {type(item).__name__} at {row}.")
        x, y = item
        return (dict(x) if isinstance(x, Mapping) else x), y  # such as the `BatchEncoding` of a tokenizer

    def _inputs(self, rows: Sequence[int], parts: Sequence[Any]) -> Inputs:
        """One input or several; an item's `x` that is a mapping, or a tuple of arrays, is several."""
        first = parts[0]
        if not are_several(first):
            return inputs_as_stored(self.name, self.split, self._stacked(rows, "inputs", parts))
        names = list(inputs_by_name(first))
        for row, part in zip(rows, parts, strict=True):
            found = list(inputs_by_name(part))
            if sorted(found) != sorted(names):
                raise self._of_other_inputs(names, rows[0], found, row)
        columns = {
            name: self._stacked(rows, f"inputs {name!r}", [inputs_by_name(part)[name] for part in parts])
            for name in names
        }
        return inputs_as_stored(self.name, self.split, columns if isinstance(first, dict) else tuple(columns.values()))

    def _stacked(self, rows: Sequence[int], what: str, parts: Sequence[Any]) -> np.ndarray:
        """All parts as one array.

        Raises:
            DataError: their shapes differ, or a part has none.
        """
        arrays = []
        for row, part in zip(rows, parts, strict=True):
            try:
                arrays.append(_as_array(part))
            except ValueError as error:
                raise self._of_several_shapes(what, f"a ragged {type(part).__name__} at item {row}") from error
            if arrays[-1].shape != arrays[0].shape:
                found = f"{arrays[0].shape} at item {rows[0]} and {arrays[-1].shape} at item {row}"
                raise self._of_several_shapes(what, found)
        return np.stack(arrays)

    def _of_other_inputs(self, names: list[str], row: int, found: list[str], other: int) -> DataError:
        return DataError(
            f"{self.name}: expected the same inputs in every item of {self.split}, found {names} at item {row} and "
            f"{found} at item {other}."
        )

    def _of_several_shapes(self, what: str, found: str) -> DataError:
        return DataError(
            f"{self.name}: expected {what} of one shape in {self.split}, found {found}. Crop or pad them to one "
            "length, and tell the module of the padding by a mask, a second input, or by the padding's value."
        )


def _as_array(part: Any) -> np.ndarray:
    if not isinstance(part, Tensor):
        return np.asarray(part)
    part = part.detach().cpu()
    return (part.float() if part.is_floating_point() else part).numpy()  # NumPy has no bfloat16


def _are_names(columns: Any) -> bool:
    if isinstance(columns, str):
        return True
    names = columns.values() if isinstance(columns, Mapping) else columns if isinstance(columns, list | tuple) else ()
    return len(names) > 0 and all(isinstance(name, str) for name in names)


def _named(columns: Any) -> dict[str, str]:
    """The keyword of each input, and the entry that it comes from."""
    if isinstance(columns, Mapping):
        return dict(columns)
    return {columns: columns} if isinstance(columns, str) else {name: name for name in columns}
