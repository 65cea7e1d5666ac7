"""Problems of this project's own, none of them DeepOBS's: nets as they are trained today.

Their defaults are those of the literature, or were found by a short sweep; each row says which. CIFAR's images are
augmented as DeepOBS's are.
"""

from __future__ import annotations

from typing import Any

from deepobs_func.probes.catalog import HVPMode
from deepobs_func.problems.cifar import CROSS_ENTROPY
from deepobs_func.problems.spec import ProblemSpec, Recipe

# The faster one, 0.9 of the other's CPU time; of the residual nets and the transformers it is not.
_REVERSE: HVPMode = "reverse-over-reverse"

_CUTOUT = Recipe(
    "nesterov",
    0.1,
    "DeVries and Taylor, arXiv:1708.04552: ResNet18 with batch norm on CIFAR-10, batches of 128, 200 epochs, weight "
    "decay 5e-4, a fifth of the rate after 60, 120 and 160 epochs; other augmentation",
    {"momentum": 0.9},
    "published",
)
_VIT_LITE = Recipe(
    "adamw",
    5e-4,
    "Hassani et al., arXiv:2104.05704, the defaults of their script for CIFAR: batches of 128, 200 epochs, weight "
    "decay 3e-2, a cosine after 5 epochs of growth; other augmentation, and no label smoothing here",
    {"weight_decay": 3e-2},
    "cosine",
    5.0,
)


def _resnet18(name: str, norm: str, **options: Any) -> ProblemSpec:
    return ProblemSpec(
        name,
        "cifar10",
        "deepobs_func.nets.resnet:ResNet18",
        CROSS_ENTROPY,
        11_173_962,
        200,
        128,
        net_args={"classes": 10, "norm": norm},
        weight_decay=5e-4,
        schedule=((60, 0.2), (120, 0.04), (160, 0.008)),
        recipe=_CUTOUT,
        **options,
    )


SPECS = (
    _resnet18("cifar10_resnet18", "batch", separable=False),
    _resnet18("cifar10_resnet18_gn", "group"),
    ProblemSpec(
        "cifar100_vit",
        "cifar100",
        "deepobs_func.nets.vit:VisionTransformer",
        CROSS_ENTROPY,
        2_710_948,
        200,
        128,
        net_args={"blocks": 6, "classes": 100},
        recipe=_VIT_LITE,
    ),
    ProblemSpec(
        "tolstoi_gpt",
        "tolstoi",
        "deepobs_func.nets.gpt:GPT",
        "deepobs_func.problems.measures:sequence",
        1_217_619,
        20,
        50,
        net_args={"vocabulary": 83, "length": 50, "blocks": 6, "width": 128, "heads": 4, "rate": 0.1},
        defaults_chosen_here=True,
        recipe=Recipe(
            "adamw",
            1e-3,
            "swept here, cut short: one seed, constant rate, 100 steps of the real text; test loss of 1,000 windows "
            "2.55, 2.44, 2.75, 2.69 at 3e-4, 1e-3, 3e-3, 1e-2. Batch size of tolstoi_char_rnn, weight decay "
            "of Brown et al., NeurIPS 2020; epochs not swept",
            {"weight_decay": 0.1},
        ),
    ),
    ProblemSpec(
        "mnist_convnext",
        "mnist",
        "deepobs_func.nets.convnext:ConvNeXt",
        CROSS_ENTROPY,
        102_378,
        20,
        128,
        net_args={"channels": (32, 64), "units": 2, "classes": 10},
        defaults_chosen_here=True,
        hvp_mode=_REVERSE,
        recipe=Recipe(
            "adamw",
            3e-3,
            "swept here, cut short: seed 42, constant rate, 120 steps; loss of the first 2,560 test images 1.65, 1.50, "
            "1.55 at 1e-3, 3e-3, 1e-2. After an epoch at 3e-3, by eager code: 0.19 and 94.6 % right on the "
            "test set. Batch size and epochs not swept; weight decay of Liu et al., CVPR 2022",
            {"weight_decay": 0.05},
        ),
    ),
    ProblemSpec(
        "digits_mlp",
        "digits",
        "deepobs_func.nets.mlp:digits",
        CROSS_ENTROPY,
        17_226,
        50,
        32,
        defaults_chosen_here=True,
        hvp_mode=_REVERSE,
        recipe=Recipe(
            "adam",
            1e-2,
            "swept here: 50 epochs, constant rate, mean final test accuracy of seeds 42 to 46 91.7, 92.1, 92.7, 92.8 % "
            "at 1e-3, 3e-3, 1e-2, 3e-2, with a test loss of 0.34, 0.39, 0.39, 0.67; 1e-4 and 3e-4 worse at one seed",
        ),
    ),
)
