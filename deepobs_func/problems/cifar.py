"""The problems on CIFAR-10, CIFAR-100 and SVHN."""

from __future__ import annotations

from deepobs_func.problems.spec import (
    AUGMENTED_TRAIN_EVAL,
    FIVE_FILES,
    FIXED_ORDER,
    LAST_RELU,
    LEGACY_RESIZE,
    SHORT_SVHN,
    WEAK_BRIGHTNESS,
    Deviation,
    ProblemSpec,
)

Quirks = tuple[Deviation, ...]

CROSS_ENTROPY = "deepobs_func.problems.measures:cross_entropy"
CONVOLUTIONS = "deepobs_func.problems.problem:convolutions"

_QUIRKS = (AUGMENTED_TRAIN_EVAL, WEAK_BRIGHTNESS)
_CIFAR10, _CIFAR100 = (FIVE_FILES, *_QUIRKS), (FIXED_ORDER, *_QUIRKS)
_SVHN = (FIVE_FILES, *_QUIRKS, SHORT_SVHN)


def _3c3d(dataset: str, classes: int, parameters: int, quirks: Quirks, *, chosen: bool) -> ProblemSpec:
    return ProblemSpec(
        f"{dataset}_3c3d",
        dataset,
        "deepobs_func.nets.cnn:Net3c3d",
        CROSS_ENTROPY,
        parameters,
        100,
        128,
        net_args={"classes": classes},
        weight_decay=0.002,
        defaults_chosen_here=chosen,
        deviations=quirks,
    )


def vgg(dataset: str, depth: int, classes: int, parameters: int, epochs: int, quirks: Quirks) -> ProblemSpec:
    """VGG on one of the image sets; nothing is published for it, so its defaults are chosen here."""
    return ProblemSpec(
        f"{dataset}_vgg{depth}",
        dataset,
        "deepobs_func.nets.vgg:VGG",
        CROSS_ENTROPY,
        parameters,
        epochs,
        128,
        net_args={"depth": depth, "classes": classes},
        weight_decay=5e-4,
        regularize=CONVOLUTIONS,
        defaults_chosen_here=True,
        deviations=quirks,
    )


SPECS = (
    _3c3d("cifar10", 10, 895_210, _CIFAR10, chosen=False),
    vgg("cifar10", 16, 10, 134_301_514, 100, (*_CIFAR10, LEGACY_RESIZE)),
    vgg("cifar10", 19, 10, 139_611_210, 100, (*_CIFAR10, LEGACY_RESIZE)),
    _3c3d("cifar100", 100, 918_340, _CIFAR100, chosen=True),
    ProblemSpec(
        "cifar100_allcnnc",
        "cifar100",
        "deepobs_func.nets.cnn:AllCNNC",
        CROSS_ENTROPY,
        1_387_108,
        350,
        256,
        weight_decay=5e-4,
        schedule=((200, 0.1), (250, 0.01), (300, 0.001)),
        deviations=(*_CIFAR100, LAST_RELU),
    ),
    vgg("cifar100", 16, 100, 134_670_244, 100, (*_CIFAR100, LEGACY_RESIZE)),
    vgg("cifar100", 19, 100, 139_979_940, 100, (*_CIFAR100, LEGACY_RESIZE)),
    ProblemSpec(
        "cifar100_wrn404",
        "cifar100",
        "deepobs_func.nets.wrn:WideResNet",
        CROSS_ENTROPY,
        8_972_340,
        200,
        128,
        net_args={"depth": 40, "widening": 4, "classes": 100},
        weight_decay=5e-4,
        schedule=((60, 0.2), (120, 0.04), (160, 0.008)),
        separable=False,
        deviations=_CIFAR100,
    ),
    _3c3d("svhn", 10, 895_210, _SVHN, chosen=True),
    ProblemSpec(
        "svhn_wrn164",
        "svhn",
        "deepobs_func.nets.wrn:WideResNet",
        CROSS_ENTROPY,
        2_748_890,
        160,
        128,
        net_args={"depth": 16, "widening": 4, "classes": 10},
        weight_decay=5e-4,
        schedule=((80, 0.1), (120, 0.01)),
        separable=False,
        deviations=_SVHN,
    ),
)
