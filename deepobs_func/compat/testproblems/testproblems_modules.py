"""The networks by the names that DeepOBS 1.2 gives them: `net_mlp(num_outputs=10)`, `net_vgg(10, variant=16)`.

Each is the model of one of the test problems, as in `architectures`; sizes that none of them has are refused.
"""

from __future__ import annotations

from collections.abc import Mapping

from deepobs_func.compat.testproblems import architectures
from deepobs_func.compat.testproblems.architectures import Architecture
from deepobs_func.errors import ConfigError

net_mnist_logreg = architectures.LogisticRegression
net_mlp = architectures.MLP
net_mnist_2c2d = architectures.TwoC2D
net_cifar10_3c3d = architectures.ThreeC3D
net_vae = architectures.VAE

_VGG: Mapping[int, type[Architecture]] = {16: architectures.VGG16, 19: architectures.VGG19}
_WRN: Mapping[tuple[int, int], type[Architecture]] = {(2, 4): architectures.WRN164, (6, 4): architectures.WRN404}


def net_cifar100_allcnnc() -> Architecture:
    """All-CNN-C with 100 outputs. Torch's generator draws its initial values."""
    return architectures.AllCNNC(100)


def net_vgg(num_outputs: int, variant: int) -> Architecture:
    """VGG-16 or VGG-19. Torch's generator draws its initial values.

    Args:
        num_outputs: 10, 100 or 1001.
        variant: 16 or 19.

    Returns:
        The network.

    Raises:
        ConfigError: there is no such variant, or no test problem of it has so many outputs.
    """
    if variant not in _VGG:
        raise ConfigError(f"variant {variant!r}: a VGG has 16 or 19 layers.")
    return _VGG[variant](num_outputs)


def net_wrn(num_residual_blocks: int, widening_factor: int, num_outputs: int) -> Architecture:
    """The wide residual network 16-4 or 40-4. Torch's generator draws its initial values.

    Args:
        num_residual_blocks: of each of the three groups: 2 for 16 layers, 6 for 40.
        widening_factor: 4.
        num_outputs: 10 of the smaller one, 100 of the larger one.

    Returns:
        The network.

    Raises:
        ConfigError: no test problem has such a network.
    """
    size = (num_residual_blocks, widening_factor)
    if size not in _WRN:
        raise ConfigError(
            f"num_residual_blocks {num_residual_blocks}, widening_factor {widening_factor}: the test problems have "
            "2 and 4 (svhn_wrn164), and 6 and 4 (cifar100_wrn404)."
        )
    return _WRN[size](num_outputs)


__all__ = [
    "net_cifar10_3c3d",
    "net_cifar100_allcnnc",
    "net_mlp",
    "net_mnist_2c2d",
    "net_mnist_logreg",
    "net_vae",
    "net_vgg",
    "net_wrn",
]
