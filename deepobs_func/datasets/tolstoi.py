"""War and Peace, character by character: one plain text, read as DeepOBS 1.1.2 reads it (`datasets/tolstoi.py`)."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepobs_func.datasets.idx import find
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError, DataError

if TYPE_CHECKING:
    from torch import Tensor

LENGTH = 50  # symbols in a window
TRAIN_SHARE = 0.8

# What the reference's text consists of. CR and LF both count: its line ends are CR LF.
SYMBOLS = "\n\r !\"'()*,-./0123456789:;=?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyzàäéê"


def read(
    spec: DatasetSpec, folder: Path, split: str, vocabulary: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Reads one split of the text.

    The first `ceil(0.8 N)` of the `N` characters are for training, the rest for testing. A symbol's id is its place by
    descending count in the whole text, ties by first appearance.

    Args:
        spec: the data set, whose number of symbols and sizes the text must have.
        folder: where `input.txt` or `input.txt.gz` lies, UTF-8.
        split: `"train"` or `"test"`.
        vocabulary: the symbols in the order of their ids; then any text of these symbols and of any length will do.

    Returns:
        The ids of each character but the last, and of its successor, `(n - 1,)` int64 both.

    Raises:
        DataError: the file is missing or no UTF-8 text, or the text has other symbols or another length.
    """
    path = find(folder, "input.txt")
    codes = _codes(path)
    ids = _ids_by_count(codes, path, spec) if vocabulary is None else _ids(codes, path, spec, vocabulary)
    cut = math.ceil(TRAIN_SHARE * len(ids))
    part = ids[:cut] if split == "train" else ids[cut:]
    if len(part) < 2:
        raise DataError(f"{path}: expected at least two characters in {split}, found {len(part)}.")
    return part[:-1], part[1:]


def with_vocabulary(spec: DatasetSpec, vocabulary: Sequence[str]) -> DatasetSpec:
    """The same data set for another text: its classes are the given symbols, in this order.

    Raises:
        ConfigError: a symbol is not a single character, or occurs twice.

    >>> from deepobs_func import datasets
    >>> with_vocabulary(datasets.spec("tolstoi"), "abc ").num_classes
    4
    """
    if len(set(vocabulary)) != len(vocabulary) or any(len(symbol) != 1 for symbol in vocabulary):
        raise ConfigError(f"A vocabulary is a list of different single characters; this one is {vocabulary!r}.")
    return replace(spec, num_classes=len(vocabulary), reader=partial(read, vocabulary=vocabulary))


def windows(x: Tensor, y: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Cuts a text into batches of windows: row b of every batch goes on where row b of the last one ended.

    With `nb = N // (B T)` batches, `T = 50`, the first `nb B T` symbols are laid out as `B` contiguous rows, and these
    are cut along time.

    Args:
        x, y: ids of the symbols and of their successors, `(N,)`.
        batch_size: `B`.

    Returns:
        `(nb B, 50)` both: rows `k B : (k + 1) B` are batch k.

    Raises:
        ConfigError: the text is too short for one window in each row.
    """
    steps = len(x) // (LENGTH * batch_size)
    if steps == 0:
        raise ConfigError(
            f"A batch size of {batch_size} leaves no window of {LENGTH} symbols in a text of {len(x) + 1}; "
            f"{len(x) // LENGTH} is the largest that does."
        )

    def cut(ids: Tensor) -> Tensor:
        rows = ids[: steps * batch_size * LENGTH].reshape(batch_size, steps, LENGTH)
        return rows.swapaxes(0, 1).reshape(steps * batch_size, LENGTH)

    return cut(x), cut(y)


def _codes(path: Path) -> np.ndarray:
    """The code point of every character, `(N,)` uint32; line ends are as they stand in the file."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            text = stream.read().decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a text in UTF-8, found: {error}. Get the file again.") from error
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def _ids_by_count(codes: np.ndarray, path: Path, spec: DatasetSpec) -> np.ndarray:
    symbols, first, inverse, counts = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    if len(symbols) != spec.num_classes:
        found = set(map(chr, symbols.tolist()))
        missing, foreign = (sorted(a - b) for a, b in ((set(SYMBOLS), found), (found, set(SYMBOLS))))
        raise DataError(
            f"{path}: expected {spec.num_classes} symbols, found {len(symbols)}; missing: {_listed(missing)}; not "
            f"among the expected ones: {_listed(foreign)}. Get the reference's text (with CR LF line ends), or go on "
            "with this one by `vocabulary=`, as `datasets.tolstoi.with_vocabulary` does."
        )
    if len(codes) != spec.train_size + spec.test_size:
        raise DataError(
            f"{path}: expected {spec.train_size + spec.test_size} characters, found {len(codes)}. It is cut off or "
            "another edition; get the reference's text, or go on with this one by `vocabulary=`."
        )
    ids = np.empty(len(symbols), np.int64)
    ids[np.lexsort((first, -counts))] = np.arange(len(symbols))
    return ids[inverse]


def _ids(codes: np.ndarray, path: Path, spec: DatasetSpec, vocabulary: Sequence[str]) -> np.ndarray:
    if len(vocabulary) != spec.num_classes:
        raise DataError(f"The vocabulary has {len(vocabulary)} symbols, the data set {spec.num_classes} classes.")
    symbols, inverse = np.unique(codes, return_inverse=True)
    places = {symbol: place for place, symbol in enumerate(vocabulary)}
    foreign = [chr(code) for code in symbols.tolist() if chr(code) not in places]
    if foreign:
        raise DataError(f"{path}: expected the {len(vocabulary)} symbols of the vocabulary, found {_listed(foreign)}.")
    return np.array([places[chr(code)] for code in symbols.tolist()], np.int64)[inverse]


def _listed(symbols: list[str], most: int = 20) -> str:
    more = f" and {len(symbols) - most} more" if len(symbols) > most else ""
    return (", ".join(map(repr, symbols[:most])) or "none") + more
