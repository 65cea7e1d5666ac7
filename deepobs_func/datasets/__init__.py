"""Data sets: what they are (`spec`, torch-free) and how they come onto the device (`load`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepobs_func import lazy
from deepobs_func.datasets.spec import DatasetSpec as DatasetSpec
from deepobs_func.registry import Registry

if TYPE_CHECKING:
    from deepobs_func.datasets.arrays import from_arrays as from_arrays
    from deepobs_func.datasets.loading import Dataset as Dataset
    from deepobs_func.datasets.loading import Split as Split
    from deepobs_func.datasets.loading import load as load
    from deepobs_func.datasets.torch_sets import from_torch as from_torch

_IDX_FILES = tuple(
    f"{part}-{kind}" for part in ("train", "t10k") for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")
)


def _mnist_like(name: str, title: str, torchvision_folder: str, digest: str) -> DatasetSpec:
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
        digest=digest,
    )


def _cifar(
    classes: int, versions: tuple[str, str], batches: tuple[str, ...], file_sizes: tuple[int, ...]
) -> DatasetSpec:
    home = f"cifar-{classes}"
    unpacked = tuple(f"{home}-{version}" for version in versions)
    return DatasetSpec(
        name=f"cifar{classes}",
        title=f"CIFAR-{classes}",
        train_size=50_000,
        test_size=10_000,
        shape=(3, 32, 32),
        num_classes=classes,
        folders=(home, *unpacked, *(f"{home}/{folder}" for folder in unpacked)),
        files=(*batches, *(f"{name}.bin" for name in batches), f"{home}-python.tar.gz", f"{home}-binary.tar.gz"),
        alternatives=True,
        reader="deepobs_func.datasets.cifar:read",
        download="deepobs_func.datasets.download:cifar",
        stand_in="deepobs_func.datasets.stand_in:images",
        prepare="deepobs_func.datasets.prepare:standardized",
        draw="deepobs_func.datasets.augment:draw",
        augment="deepobs_func.datasets.augment:distort",
        fake="deepobs_func.datasets.prepare:fake_standardized",
        file_sizes=file_sizes,
    )


REGISTRY = Registry(
    "data set",
    DatasetSpec,
    (
        _mnist_like("mnist", "MNIST", "MNIST", "4142535bc9e8b9de0dc548fbc810cd4796a9278169c289c0c288ce2ddcbbae3c"),
        _mnist_like(
            "fmnist",
            "Fashion-MNIST",
            "FashionMNIST",
            "47773364131f4e93235c55f9ab55deaff854c0b622e915c757a7b02f66c74919",
        ),
        _cifar(
            10, ("batches-py", "batches-bin"), (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"), (10_000,) * 5
        ),
        _cifar(100, ("python", "binary"), ("train", "test"), ()),
        DatasetSpec(
            name="svhn",
            title="SVHN",
            train_size=64_000,  # of 73,257: the reference reads five files of 12,800
            test_size=26_032,
            shape=(3, 32, 32),
            num_classes=10,
            folders=("svhn",),
            files=("train_32x32.mat", "test_32x32.mat", "data_batch_0.bin"),  # CIFAR-10 has the other names too
            alternatives=True,
            reader="deepobs_func.datasets.svhn:read",
            download="deepobs_func.datasets.download:svhn",
            stand_in="deepobs_func.datasets.stand_in:images",
            prepare="deepobs_func.datasets.prepare:standardized",
            draw="deepobs_func.datasets.augment:draw_unflipped",
            augment="deepobs_func.datasets.augment:distort",
            fake="deepobs_func.datasets.prepare:fake_standardized",
            file_sizes=(12_800,) * 5,
        ),
        DatasetSpec(
            name="imagenet",
            title="ImageNet",
            train_size=1_281_167,
            test_size=50_000,
            shape=(3, 224, 224),
            num_classes=1_001,
            folders=("imagenet",),
            files=("train/", "val/"),
            reader="deepobs_func.datasets.imagenet:stream",
            download="deepobs_func.datasets.download:imagenet",
            stand_in="deepobs_func.datasets.stand_in:image_stream",
            prepare="deepobs_func.datasets.prepare:as_it_is",
            fake="deepobs_func.datasets.prepare:fake_standardized",
            streamed=True,
        ),
        DatasetSpec(
            name="tolstoi",
            title="War and Peace",
            train_size=2_612_948,
            test_size=653_237,
            shape=(50,),
            num_classes=83,
            folders=("tolstoi",),
            files=("input.txt",),
            reader="deepobs_func.datasets.tolstoi:read",
            download="deepobs_func.datasets.download:tolstoi",
            stand_in="deepobs_func.datasets.stand_in:text",
            prepare="deepobs_func.datasets.prepare:symbols",
            fake="deepobs_func.datasets.prepare:fake_text",
            train_eval_size=2_612_948,
            shuffle=False,
            arrange="deepobs_func.datasets.tolstoi:windows",
            sequence_length=50,
            digest="00b5da5fb902ec327aed2ee24c99e53fd63836dfefcf1878cdead5f7a6594c2c",
        ),
        DatasetSpec(
            name="digits",
            title="digits (8 x 8)",
            train_size=1_437,
            test_size=360,
            shape=(1, 8, 8),
            num_classes=10,
            reader="deepobs_func.datasets.digits:read",
            prepare="deepobs_func.datasets.prepare:sixteenths",
            fake="deepobs_func.datasets.prepare:fake_images",
            source="package",
            digest="8ec14fd566a23d41fea73aa191946fe29a6ce39c3252c0ac22cb35eba9640022",
        ),
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
    ),
    group="deepobs_func.datasets",
    listing="deepobs list",
)
_PATHS = {
    "Dataset": "deepobs_func.datasets.loading:Dataset",
    "Split": "deepobs_func.datasets.loading:Split",
    "from_arrays": "deepobs_func.datasets.arrays:from_arrays",
    "from_torch": "deepobs_func.datasets.torch_sets:from_torch",
    "load": "deepobs_func.datasets.loading:load",
}
__getattr__, __dir__, __all__ = lazy.attach(__name__, _PATHS, also=["DatasetSpec", "names", "spec"])


def names() -> list[str]:
    """The names of all data sets."""
    return list(REGISTRY)


def spec(name: str) -> DatasetSpec:
    """The description of a data set.

    Args:
        name: one of `names()`.

    Returns:
        The spec; nothing is loaded.

    Raises:
        ConfigError: there is no such data set; the message has the nearest name.
    """
    return REGISTRY.find(name)
