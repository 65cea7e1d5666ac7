"""The problems on ImageNet."""

from __future__ import annotations

from deepobs_func.problems.cifar import CONVOLUTIONS, vgg
from deepobs_func.problems.spec import AUGMENTED_TRAIN_EVAL, LEGACY_RESIZE, NO_DROPOUT, ProblemSpec

_EVERY_TWO_EPOCHS = tuple((epoch, 0.94 ** (epoch // 2)) for epoch in range(2, 100, 2))

SPECS = (
    vgg("imagenet", 16, 1001, 138_361_641, 90, (AUGMENTED_TRAIN_EVAL, LEGACY_RESIZE)),
    vgg("imagenet", 19, 1001, 143_671_337, 90, (AUGMENTED_TRAIN_EVAL, LEGACY_RESIZE)),
    ProblemSpec(
        "imagenet_inception_v3",
        "imagenet",
        "deepobs_func.nets.inception:InceptionV3",
        "deepobs_func.problems.measures:inception",
        27_164_082,
        100,
        32,
        weight_decay=5e-4,
        regularize=CONVOLUTIONS,
        schedule=_EVERY_TWO_EPOCHS,
        separable=False,
        deviations=(AUGMENTED_TRAIN_EVAL, LEGACY_RESIZE, NO_DROPOUT),
    ),
)
