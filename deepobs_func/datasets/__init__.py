"""Data sets: what they are (`spec`, torch-free) and how they come onto the device (`load`)."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError, unknown

if TYPE_CHECKING:
    from deepobs_func.datasets.arrays import from_arrays as from_arrays
    from deepobs_func.datasets.loading import Dataset as Dataset
    from deepobs_func.datasets.loading import Split as Split
    from deepobs_func.datasets.loading import load as load

__all__ = ["Dataset", "DatasetSpec", "Split", "from_arrays", "load", "names", "spec"]

_IDX_FILES = tuple(
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def _mnist_like(name: str, title: str, torchvision_folder: str) -> DatasetSpec:
    return DatasetSpec(
        name=name,
        title=title,
        train_size=60_000,
        test_size=10_000,
        shape=(1, 28, 28),
        num_classes=10,
        folders=(name, torchvision_folder + "/raw"),
        files=_IDX_FILES,
        reader="deepobs_func.datasets.idx:read",
        download="deepobs_func.datasets.download:idx",
        stand_in="deepobs_func.datasets.stand_in:images",
        prepare="deepobs_func.datasets.prepare:unit_interval",
        fake="deepobs_func.datasets.prepare:fake_images",
    )


_SPECS = {
    spec.name: spec
    for spec in (
        _mnist_like("mnist", "MNIST", "MNIST"),
        _mnist_like("fmnist", "Fashion-MNIST", "FashionMNIST"),
        DatasetSpec(
            name="quadratic",
            title="quadratic (generated)",
            train_size=1_000,
            test_size=1_000,
            shape=(100,),
            num_classes=None,
            reader="deepobs_func.datasets.generated:quadratic",
            prepare="deepobs_func.datasets.prepare:as_it_is",
            fake="deepobs_func.datasets.prepare:fake_quadratic",
            train_eval_size=1_000,
        ),
        DatasetSpec(
            name="two_d",
            title="two_d (generated)",
            train_size=10_000,
            test_size=10_000,
            shape=(),
            num_classes=None,
            reader="deepobs_func.datasets.generated:two_d",
            prepare="deepobs_func.datasets.prepare:as_it_is",
            fake="deepobs_func.datasets.prepare:fake_two_d",
            train_eval_size=10_000,
        ),
    )
}
_LAZY = {
    "Dataset": "deepobs_func.datasets.loading:Dataset",
    "Split": "deepobs_func.datasets.loading:Split",
    "from_arrays": "deepobs_func.datasets.arrays:from_arrays",
    "load": "deepobs_func.datasets.loading:load",
}


def names() -> list[str]:
    """The names of all data sets."""
    return list(_SPECS)


def spec(name: str) -> DatasetSpec:
    """What a data set looks like.

    Raises:
        ConfigError: there is no such data set; the message has the nearest name.
    """
    if name not in _SPECS:
        raise ConfigError(unknown("data set", name, _SPECS))
    return _SPECS[name]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return pkgutil.resolve_name(_LAZY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
