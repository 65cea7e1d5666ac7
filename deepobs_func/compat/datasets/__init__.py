"""DeepOBS's data sets with their loaders, `datasets.MNIST(batch_size=128).train_loader`, and the base of one's own.

The lower-case names are those of DeepOBS 1.1.2 and 1.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepobs_func.compat.datasets.dataset import DataSet as DataSet
from deepobs_func.compat.datasets.dataset import RegisteredDataSet as RegisteredDataSet
from deepobs_func.compat.datasets.loaders import Loader as Loader
from deepobs_func.compat.datasets.loaders import Pair


class MNIST(RegisteredDataSet):
    """Digits: `(B, 1, 28, 28)` in [0, 1], class ids `(B,)`."""

    name = "mnist"


class FashionMNIST(RegisteredDataSet):
    """Clothes: `(B, 1, 28, 28)` in [0, 1], class ids `(B,)`."""

    name = "fmnist"


class CIFAR10(RegisteredDataSet):
    """Colour images: `(B, 3, 32, 32)`, standardized one by one, class ids `(B,)`."""

    name = "cifar10"


class CIFAR100(RegisteredDataSet):
    """Colour images of 100 classes: `(B, 3, 32, 32)`, standardized one by one, class ids `(B,)`."""

    name = "cifar100"


class SVHN(RegisteredDataSet):
    """House numbers: `(B, 3, 32, 32)`, standardized one by one, class ids `(B,)`."""

    name = "svhn"


class ImageNet(RegisteredDataSet):
    """Photographs, read while they are visited: `(B, 3, 224, 224)`, class ids `(B,)` from 1."""

    name = "imagenet"


class Tolstoi(RegisteredDataSet):
    """War and Peace: ids of characters `(B, 50)` and of those after them `(B, 50)`, in stored order."""

    name = "tolstoi"


class Quadratic(RegisteredDataSet):
    """Normal numbers: `(B, 100)`, which are the targets, too."""

    name = "quadratic"

    def shown(self, x: Tensor, y: Tensor) -> Pair:
        """The inputs x stand for the targets, instead of y, which is empty."""
        return x, x

    def for_core(self, inputs: Tensor, targets: Tensor) -> Pair:
        """The inputs, without targets."""
        return inputs, inputs.new_empty((len(inputs), 0))


class TwoD(RegisteredDataSet):
    """The noise of the two-dimensional functions: pairs `(B, 2)`, which are the targets, too; zeros in the test set."""

    name = "two_d"

    def shown(self, x: Tensor, y: Tensor) -> Pair:
        """The two numbers x and y of each example side by side, as inputs and as targets."""
        pairs = torch.stack((x, y), dim=-1)
        return pairs, pairs

    def for_core(self, inputs: Tensor, targets: Tensor) -> Pair:
        """The two numbers apart, from the inputs; the targets are the same."""
        return inputs[:, 0], inputs[:, 1]


mnist = MNIST
fmnist = FashionMNIST
cifar10 = CIFAR10
cifar100 = CIFAR100
svhn = SVHN
imagenet = ImageNet
tolstoi = Tolstoi
quadratic = Quadratic
two_d = TwoD
BY_NAME: dict[str, type[RegisteredDataSet]] = {
    each.name: each for each in (MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN, ImageNet, Tolstoi, Quadratic, TwoD)
}
"""From the core's name of a data set."""
