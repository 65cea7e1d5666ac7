"""The networks by the names that a PyTorch port of DeepOBS gives them: `MLP(num_outputs=10)`.

Each is the model of one of the test problems; another number of outputs than theirs is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from deepobs_func import problems
from deepobs_func.base import ModelState, Params
from deepobs_func.compat import config
from deepobs_func.compat.datasets.loaders import pass_key
from deepobs_func.compat.model import Model
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Pass
from deepobs_func.nets.vae import LATENT
from deepobs_func.problems.problem import Problem


class Architecture(Model):
    """A network that is made without its test problem. Torch's generator draws its initial values.

    Args:
        num_outputs: as many as one of its test problems has.
        device: where it lives.

    Raises:
        ConfigError: none of its test problems has so many outputs.
    """

    of: ClassVar[Mapping[int, str]] = {}
    counted: ClassVar[str] = "num_outputs"
    also_called: ClassVar[Mapping[str, str]] = {}

    def __init__(self, num_outputs: int, device: Any = None) -> None:
        if num_outputs not in self.of:
            known = ", ".join(f"{number} ({name})" for number, name in self.of.items())
            raise ConfigError(f"{self.counted} {num_outputs}: {type(self).__name__} has {known}.")
        problem = problems.get(self.of[num_outputs])
        key = pass_key(torch.device(device or config.get_default_device()))
        super().__init__(problem, *problem.init(key, dtype=config.get_dtype()))

    @classmethod
    def at(cls, problem: Problem, params: Params, state: ModelState) -> Architecture:
        """The model of a test problem at these values of the core's parameters `params` and `state`."""
        made = cls.__new__(cls)
        Model.__init__(made, problem, params, state)
        return made

    def __getattr__(self, name: str) -> Any:
        """A layer, by the port's name, too."""
        if name in type(self).also_called:
            return self.get_submodule(type(self).also_called[name])
        return super().__getattr__(name)


class LogisticRegression(Architecture):
    """Logistic regression; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "mnist_logreg"}
    also_called: ClassVar[Mapping[str, str]] = {"fc": "dense.0"}


class MLP(Architecture):
    """The perceptron of four layers; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "mnist_mlp"}
    also_called: ClassVar[Mapping[str, str]] = {f"fc{index + 1}": f"dense.{index}" for index in range(4)}


class TwoC2D(Architecture):
    """Two convolutions, two dense layers; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "mnist_2c2d"}
    also_called: ClassVar[Mapping[str, str]] = {"fc1": "dense1", "fc2": "dense2"}


class ThreeC3D(Architecture):
    """Three convolutions, three dense layers; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "cifar10_3c3d", 100: "cifar100_3c3d"}
    also_called: ClassVar[Mapping[str, str]] = {f"fc{index}": f"dense{index}" for index in range(1, 4)}


class AllCNNC(Architecture):
    """All-CNN-C; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {100: "cifar100_allcnnc"}


class VGG16(Architecture):
    """VGG-16; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "cifar10_vgg16", 100: "cifar100_vgg16", 1001: "imagenet_vgg16"}


class VGG19(Architecture):
    """VGG-19; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "cifar10_vgg19", 100: "cifar100_vgg19", 1001: "imagenet_vgg19"}


class WRN164(Architecture):
    """The wide residual network 16-4; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {10: "svhn_wrn164"}


class WRN404(Architecture):
    """The wide residual network 40-4; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {100: "cifar100_wrn404"}


class InceptionV3(Architecture):
    """Inception v3; see `Architecture` for `num_outputs` and `device`."""

    of: ClassVar[Mapping[int, str]] = {1001: "imagenet_inception_v3"}


class VAE(Architecture):
    """The variational auto-encoder, `(B, 1, 28, 28) -> (image (B, 784), mean (B, 8), log_std (B, 8))`.

    Args:
        n_latent: the number of latent variables, 8.
        device: where it lives.
    """

    of: ClassVar[Mapping[int, str]] = {LATENT: "mnist_vae"}
    counted: ClassVar[str] = "n_latent"

    def __init__(self, n_latent: int = LATENT, device: Any = None) -> None:
        super().__init__(n_latent, device)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One sample of the latent variables of images.

        Args:
            x: images `(B, 1, 28, 28)`.

        Returns:
            `(z, mean, log_std)`, each `(B, 8)`; `z = mean + epsilon exp(log_std)`.
        """
        p = Pass(self.training, {}, {})
        mean, log_std = self.encoder(x, p)
        return mean + self.epsilon(mean, p) * torch.exp(log_std), mean, log_std

    def decode(self, z: Tensor) -> Tensor:
        """The images of latent variables.

        Args:
            z: `(B, 8)`.

        Returns:
            Pixels in (0, 1), `(B, 1, 28, 28)`, as in DeepOBS 1.2.
        """
        image: Tensor = self.decoder(z, Pass(self.training, {}, {}))
        return image.unflatten(1, (1, 28, 28))


vgg16 = VGG16
vgg19 = VGG19
wrn_16_4 = WRN164
wrn_40_4 = WRN404
inception_v3 = InceptionV3
vae = VAE
BY_KIND: Mapping[str, type[Architecture]] = {
    "logreg": LogisticRegression,
    "mlp": MLP,
    "2c2d": TwoC2D,
    "3c3d": ThreeC3D,
    "allcnnc": AllCNNC,
    "vgg16": VGG16,
    "vgg19": VGG19,
    "wrn164": WRN164,
    "wrn404": WRN404,
    "inception_v3": InceptionV3,
    "vae": VAE,
}
"""By what follows the data set in the name of one of DeepOBS's test problems."""


def of_problem(name: str) -> type[Architecture] | None:
    """The network of a test problem.

    Args:
        name: of the problem. Those that are not DeepOBS's have none, whatever their names end in.

    Returns:
        The class, or None where the port has no network of its own for it.

    >>> of_problem("mnist_mlp").__name__, of_problem("digits_mlp")
    ('MLP', None)
    """
    return BY_KIND.get(name.partition("_")[2]) if name in problems.SETS["deepobs"] else None
