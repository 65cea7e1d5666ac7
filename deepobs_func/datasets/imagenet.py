"""ImageNet (ILSVRC 2012), streamed from JPEG files or tar files of them: decoded by workers, drawn from keys.

Source of the preprocessing: DeepOBS 1.1.2, `datasets/imagenet.py`.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from deepobs_func import random
from deepobs_func.datasets import shards
from deepobs_func.datasets.augment import standardize
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.workers import read_ahead
from deepobs_func.errors import DataError

SMALLER_SIDE, SIDE = 256, 224
_FOLDERS = {"train": "train", "test": "val"}
_CROP, _FLIP = range(2)  # what an epoch's key is folded with
_UNREADABLE = (OSError, SyntaxError, ValueError)  # what PIL raises on broken files

Batch = tuple[Float[Tensor, "B 3 224 224"], Int[Tensor, " B"]]


class Listing(NamedTuple):
    """All images of a split, in the order of their rows.

    Attributes:
        paths: as bytes in one array: a list of a million strings would be copied into every worker, page by page, as
            reading it moves their reference counts.
        labels: class ids.
        files: of images in tar files, which of the paths each of them is in.
        spans: likewise, where its bytes begin and how many they are.
    """

    paths: np.ndarray
    labels: np.ndarray
    files: np.ndarray | None = None
    spans: np.ndarray | None = None

    def place(self, row: int) -> tuple[str, tuple[int, int] | None]:
        """The file of an image, and where it is in there, if it is not all of it."""
        if self.files is None or self.spans is None:
            return os.fsdecode(self.paths[row]), None
        offset, size = self.spans[row].tolist()
        return os.fsdecode(self.paths[self.files[row]]), (offset, size)


def stream(
    spec: DatasetSpec,
    folder: Path,
    split: str,
    rows: Int[Tensor, "steps B"],
    key: random.Key,
    *,
    augment: bool,
    workers: int = 0,
) -> Iterator[Batch]:
    """Yields batches of model inputs, in the order of `rows`.

    Augmented, as in training: the smaller side to 256, the central 256 x 256, a random 224-crop of it, mirrored in half
    of the cases. Else: the smaller side to 256, the central 224 x 224. Both: values in [0, 1], then standardized per
    image. An image's crop follows from the key and its row alone, so neither the number of workers nor where in an
    epoch one starts changes anything; each epoch should have a key of its own.

    Args:
        spec: the data set, whose sizes the folder must have.
        folder: holds `train/<wnid>/*.JPEG` and `val/<wnid>/*.JPEG`, or `train/*.tar` and `val/*.tar` (see `shards`).
        split: `"train"` or `"test"`.
        rows: which images each batch has, numbered by sorted WordNet id, then by file name; in tar files by class, then
            by name. Orders are of all images, whichever file they are in.
        key: read for augmentation only.
        augment: whether images are cropped and mirrored at random.
        workers: processes that decode; 0 decodes in this one.

    Yields:
        `x`, `(B, 3, 224, 224)` float32, and `y`, `(B,)` int64, class ids 1..1000 (0 is background), on the CPU.

    Raises:
        DataError: the folder has other than 1000 classes or another number of images, or a file is not a complete
            image; the message names it.
    """
    listing = list_images(spec, folder, split)
    rows = rows.cpu()
    draws = draw(key.cpu(), rows) if augment else None
    yield from read_ahead(_Batches(listing, rows, draws), len(rows), workers)


@functools.lru_cache(maxsize=4)  # listing 1.3 million files takes long, and every epoch asks
def list_images(spec: DatasetSpec, folder: Path, split: str) -> Listing:
    """Lists a split; images that are added later are not seen.

    Raises:
        DataError: see `stream`.
    """
    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    assert spec.num_classes is not None
    root, size = folder / _FOLDERS[split], spec.train_size if split == "train" else spec.test_size
    tars = shards.shards_in(root)
    if tars:
        return _list_shards(root, tars, size, spec.num_classes - 1)
    classes = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    if len(classes) != spec.num_classes - 1:
        raise DataError(
            f"{root}: expected {spec.num_classes - 1} folders, one for each WordNet id, found {len(classes)}. "
            f"Put the images of each class into {root}/<wnid>/*.JPEG, or all into {root}/*.tar."
        )
    try:
        samples = torchvision_datasets().ImageFolder(str(root)).samples
    except OSError as error:
        raise DataError(f"{root}: expected images in every folder, found: {error}") from error
    if len(samples) != size:
        raise DataError(f"{root}: expected {size} images, found {len(samples)}. Some are missing, or not ImageNet's.")
    labels = np.array([label + 1 for _, label in samples], np.int64)
    return Listing(np.array([os.fsencode(path) for path, _ in samples]), labels)


def _list_shards(root: Path, tars: list[Path], size: int, classes: int) -> Listing:
    """Images in tar files, whose classes are numbered from 0 in the order of their WordNet ids."""
    found = shards.index(tars, classes)
    if len(found.labels) != size:
        raise DataError(
            f"{root}: expected {size} images in {len(tars)} tar files, found {len(found.labels)}. A file is missing, "
            "or of another data set."
        )
    return Listing(found.paths, found.labels.astype(np.int64) + 1, found.files, found.spans)


def draw(key: random.Key, rows: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape 3"]:
    """The random numbers of each row: `top`, `left`, both in `0 .. 32`, and whether it is mirrored, 0 or 1."""
    corners = random.fold_in(random.fold_in(key, _CROP), rows) * (SMALLER_SIDE - SIDE + 1) >> 32
    flips = random.fold_in(random.fold_in(key, _FLIP), rows)[..., :1] >> 31
    return torch.cat((corners, flips), dim=-1)


class _Batches:
    """Decodes the batch of a step; lives in the workers."""

    def __init__(self, listing: Listing, rows: Tensor, draws: Tensor | None) -> None:
        self.listing, self.rows, self.draws = listing, rows, draws

    def __call__(self, step: int) -> Batch:
        rows = self.rows[step].tolist()
        draws = [None] * len(rows) if self.draws is None else self.draws[step].tolist()
        images = [_image(*self.listing.place(row), numbers) for row, numbers in zip(rows, draws, strict=True)]
        return torch.stack(images), torch.from_numpy(self.listing.labels[rows])


def _image(path: str, span: tuple[int, int] | None, draws: list[int] | None) -> Float[Tensor, "3 224 224"]:
    image = resize(_decode(path, span))
    if draws is None:
        image = centre(image, SIDE)
    else:
        top, left, flip = draws
        image = centre(image, SMALLER_SIDE)[top : top + SIDE, left : left + SIDE]
        image = image[:, ::-1] if flip else image
    x = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return standardize(x[None] / 255)[0]


def _decode(path: str, span: tuple[int, int] | None = None) -> np.ndarray:
    """Pixels `(H, W, 3)` uint8, of a file or of some bytes of it."""
    from PIL import Image

    from deepobs_func.datasets.torchvision_parts import torchvision_datasets

    try:
        if span is not None:
            with Image.open(io.BytesIO(shards.read(path, span))) as image:
                return np.asarray(image.convert("RGB"))
        return np.asarray(torchvision_datasets().folder.pil_loader(path))
    except (*_UNREADABLE, Image.DecompressionBombError) as error:
        place = f"{path}, byte {span[0]}" if span else path
        raise DataError(f"{place}: expected a whole JPEG image, found: {error}. Get the file again.") from error


def resize(image: np.ndarray) -> np.ndarray:
    """Bilinear interpolation `(H, W, C)` to a smaller side of 256, float32, in TensorFlow 1's way.

    Target pixel i lies at `i H / H'` of the source (no half-pixel centres, no smoothing before shrinking); the larger
    side is `round(256 H / W)`.
    """
    smaller = min(image.shape[:2])
    if smaller == SMALLER_SIDE:
        return image.astype(np.float32)
    for axis in (0, 1):
        old = image.shape[axis]
        new = round(SMALLER_SIDE * old / smaller)
        position = np.arange(new) * (old / new)
        low = position.astype(np.int64)
        high = np.minimum(low + 1, old - 1)
        weight = (position - low).astype(np.float32).reshape(-1, *(1,) * (2 - axis))
        first, second = (image.take(rows, axis).astype(np.float32) for rows in (low, high))
        image = first + (second - first) * weight
    return image


def centre(image: np.ndarray, side: int) -> np.ndarray:
    """The central `(side, side, C)`."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
