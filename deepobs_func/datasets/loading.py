"""Data sets onto the device: found, read, checked, or downloaded on first use, or stood in for."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Inputs, map_inputs
from deepobs_func.datasets.at_hand import locate
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.stored import as_stored, check, inputs_as_stored
from deepobs_func.errors import ConfigError, DataError, option
from deepobs_func.files import publish

SYNTHETIC = "synthetic"


class Split(NamedTuple):
    """One split as it is stored on the device: `x`, `y` with a leading axis of examples, raw (images as uint8).

    Several inputs are a tuple or a dict.
    """

    x: Inputs
    y: Tensor


MOST_KEPT = 2  # data sets: those of two problems by turns
_kept: dict[Any, Dataset] = {}
_is_keeping = False


@dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Attributes:
        spec: what it is.
        train, test: the splits, on one device.
        synthetic: whether it is a stand-in, from which no result may be claimed.
        source: where it came from, for the record: `"files"`, `"synthetic"`, or what `spec.source` says.
    """

    spec: DatasetSpec
    train: Split
    test: Split
    synthetic: bool
    source: str

    def arranged(self, batch_size: int) -> Dataset:
        """The same data, laid out so that rows `k B : (k + 1) B` are batch k, where the set asks for it.

        Raises:
            ConfigError: the data are too few for one batch of that size.
        """
        if not self.spec.arrange:
            return self
        arrange = self.spec.function("arrange")
        train, test = (Split(*arrange(split.x, split.y, batch_size)) for split in (self.train, self.test))
        return replace(self, train=train, test=test)


def load(spec: DatasetSpec, data: str | Path, device: torch.device | str | None = None) -> Dataset:
    """Loads a data set onto a device.

    Args:
        spec: which one.
        data: a folder, or `"synthetic"` for the stand-in. Under a folder, `<data>/<set>/` as DeepOBS lays it out,
            torchvision's layout, and `<data>` itself are searched in this order; if none of them has a file of the
            set, it is downloaded into `<data>/<set>/`.
        device: where the tensors go.

    Returns:
        Both splits, as stored, on the device.

    Raises:
        ConfigError: the data set is too large to hold; `stream` yields its batches.
        DataError: a file is missing, truncated or of another kind, the data hold NaN or an id of no class, or the
            download failed. No file of the user's is ever removed or overwritten.

    >>> from deepobs_func import datasets
    >>> data = load(datasets.spec("quadratic"), "data_deepobs")  # a generated one, which needs no files
    >>> data.train.x.shape, data.source
    (torch.Size([1000, 100]), 'generated')
    """
    if spec.streamed:
        raise ConfigError(
            f"{spec.title} is too large to hold on a device; `datasets.loading.stream` yields its batches."
        )
    key = (spec, str(data), torch.device(device or "cpu"))
    found = _kept.get(key) or _loaded(spec, data, device)
    if _is_keeping:
        _kept.pop(key, None)
        _kept[key] = found
        for oldest in list(_kept)[:-MOST_KEPT]:
            del _kept[oldest]
    return found


@contextmanager
def kept_in_memory() -> Generator[None]:
    """Within it the data sets that were loaded last stay in memory, for the next run of a worker.

    Yields:
        Nothing; afterwards nothing is kept.
    """
    global _is_keeping
    before, _is_keeping = _is_keeping, True
    try:
        yield
    finally:
        _is_keeping = before
        _kept.clear()


def _loaded(spec: DatasetSpec, data: str | Path, device: torch.device | str | None) -> Dataset:
    folder, synthetic = _folder(spec, data), _is_stand_in(spec, data)
    if synthetic:
        read = functools.partial(spec.function("stand_in"), spec)
    else:
        read = functools.partial(spec.function("reader"), spec, folder)
    source = SYNTHETIC if synthetic else "files" if folder else spec.source

    def on_device(split: str) -> Split:
        x, y = read(split)
        x = inputs_as_stored(spec.title, split, x)
        y = as_stored(spec.title, f"the targets of {split}", y, targets=True)
        check(spec.title, split, x, y, spec.num_classes, spec.ignore_index)
        placed = lambda array: torch.from_numpy(array).to(device)
        return Split(map_inputs(placed, x), placed(y))

    return Dataset(spec, on_device("train"), on_device("test"), synthetic, source)


def stream(
    spec: DatasetSpec,
    data: str | Path,
    split: str,
    rows: Tensor,
    key: random.Key,
    *,
    augment: bool,
    workers: int = 0,
) -> Generator[tuple[Inputs, Tensor]]:
    """Yields the batches of a streamed data set, on the CPU. Closing the generator ends its workers.

    Args:
        spec: which one.
        data: as for `load`.
        split: `"train"` or `"test"`.
        rows: which examples each batch has, `(steps, B)` int64.
        key: from which the augmentation is drawn.
        augment: whether the inputs are those of training; else they are those of the test phase, in both splits.
        workers: processes that read; 0 reads in this one. The batches do not depend on it.

    Raises:
        DataError: as for `load`, also in the middle of the stream.
    """
    folder = _folder(spec, data)
    read = spec.function("stand_in" if _is_stand_in(spec, data) else "reader")
    return _closable(read(spec, folder, split, rows, key, augment=augment, workers=workers))


def _closable(batches: Iterable[tuple[Inputs, Tensor]]) -> Generator[tuple[Inputs, Tensor]]:
    yield from batches


def check_stream(spec: DatasetSpec, data: str | Path) -> None:
    """Checks that the files of a streamed data set are there, by asking for no batch of either split.

    Raises:
        DataError: as for `load`.
    """
    rows = torch.empty(0, 1, dtype=torch.int64)
    for split in ("train", "test"):
        for _ in stream(spec, data, split, rows, random.key(0), augment=False):
            raise AssertionError("no rows are no batches")


def _is_stand_in(spec: DatasetSpec, data: str | Path) -> bool:
    return str(data) == SYNTHETIC and not spec.generated


def _folder(spec: DatasetSpec, data: str | Path) -> Path | None:
    """Where the files are, downloaded on first use; None where none are needed."""
    if spec.generated or _is_stand_in(spec, data):
        return None
    folder = _named_folder(data)
    return locate(spec, folder) or fetch(spec, folder)


def is_missing(spec: DatasetSpec, data: str | Path) -> bool:
    """Whether files are needed and none of them is there, so that whoever loads the set downloads it first.

    Args:
        spec: of the data set.
        data: as for `load`.

    Raises:
        DataError: `data` is no folder.
    """
    if spec.generated or _is_stand_in(spec, data):
        return False
    return locate(spec, _named_folder(data)) is None


def _named_folder(data: str | Path) -> Path:
    if not str(data):
        raise DataError(f"The data folder is empty. Name a folder with {option('data')}, or 'synthetic'.")
    return Path(data).expanduser()


def fetch(spec: DatasetSpec, data: Path) -> Path:
    """Downloads into a folder of its own and moves each file into place when all are whole.

    Args:
        spec: the data set, one with files.
        data: the data folder.

    Returns:
        The folder of the set.

    Raises:
        DataError: the download failed, or the set may not be downloaded.
    """
    folder = data / spec.folders[0]
    existing = next(path for path in (data, *data.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=".deepobs-download-", dir=existing) as name:
            spec.function("download")(spec, Path(name))
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(Path(name).iterdir()):
                publish(file, folder / file.name)  # what is there already came from a download at the same time
    except DataError as error:
        raise DataError(f"{spec.title} is not in {data}. {error}") from error
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{spec.title} is not in {data}, and it could not be downloaded there ({error}). Put its files into "
            f"{folder}, name another folder, or take the stand-in: {option('data')} synthetic."
        ) from error
    return folder
