"""Images for the plain loops: batches of tensors distorted at once, and PIL images distorted one by one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from deepobs_func.datasets.loading import Split
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.datasets.torchvision_parts import torchvision_datasets

BRIGHTNESS, SATURATION, CONTRAST = 63 / 255, (0.5, 1.5), (0.2, 1.8)
MARGIN = 2
LUMA = (0.299, 0.587, 0.114)


def flips(spec: DatasetSpec) -> bool:
    """Whether images are mirrored; digits are not."""
    return spec.name != "svhn"


def prepared(x: Tensor) -> Tensor:
    """What a net sees: grey images in [0, 1], colour images standardised one by one, everything else as it is."""
    if x.dtype != torch.uint8:
        return x
    return x.float() / 255 if x.shape[1] == 1 else standardised(x.float())


def standardised(x: Tensor) -> Tensor:
    """To mean 0 and standard deviation 1 per image."""
    std, mean = torch.std_mean(x, dim=(1, 2, 3), keepdim=True)
    return (x - mean) / std


def augmented(x: Tensor, *, flip: bool) -> Tensor:
    """A batch of colour images, cropped, mirrored, with other colours, standardised; torchvision's formulas."""
    count, channels, height, width = x.shape
    size = (count, 1, 1, 1)
    top, left = (torch.randint(0, 2 * MARGIN + 1, size, device=x.device) for _ in range(2))
    rows = top + torch.arange(height, device=x.device).view(-1, 1)
    columns = left + torch.arange(width, device=x.device)
    if flip:
        columns = torch.where(torch.rand(size, device=x.device) < 0.5, columns.flip(3), columns)
    images = torch.arange(count, device=x.device).view(size)
    x = F.pad(x, (MARGIN,) * 4)[images, torch.arange(channels, device=x.device).view(-1, 1, 1), rows, columns].float()
    x = x * torch.empty(size, device=x.device).uniform_(1 - BRIGHTNESS, 1 + BRIGHTNESS)
    grey = (x * x.new_tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    x = torch.lerp(grey, x, torch.empty(size, device=x.device).uniform_(*SATURATION))
    mean = x.mean((1, 2, 3), keepdim=True)
    x = torch.lerp(mean, x, torch.empty(size, device=x.device).uniform_(*CONTRAST))
    return standardised(x)


def transforms(spec: DatasetSpec, *, augment: bool) -> Any:
    """The transforms of torchvision for one PIL image, as ports of DeepOBS have them."""
    torchvision_datasets()  # so that torchvision can be imported
    from torchvision import transforms as tv

    if spec.shape[0] == 1:
        return tv.ToTensor()
    distortions = [tv.RandomCrop(spec.shape[1], padding=MARGIN)]
    distortions += [tv.RandomHorizontalFlip()] if flips(spec) else []
    distortions.append(tv.ColorJitter(brightness=BRIGHTNESS, saturation=SATURATION, contrast=CONTRAST))
    means, stds = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    return tv.Compose([*(distortions if augment else []), tv.ToTensor(), tv.Normalize(means, stds)])


class Images(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's `MNIST` and `CIFAR10` hold them: each becomes a PIL image when it is asked for.

    Args:
        split: bytes `(N, C, H, W)` and class ids.
        transform: of a PIL image.
    """

    def __init__(self, split: Split, transform: Any) -> None:
        images, targets = split.x.cpu(), split.y.cpu()
        self.transform = transform
        self.images: Any = images[:, 0] if images.shape[1] == 1 else images.permute(0, 2, 3, 1).contiguous().numpy()
        self.targets: Any = targets if images.shape[1] == 1 else targets.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        array = self.images[index]
        image = Image.fromarray(array.numpy() if isinstance(array, Tensor) else array)
        return self.transform(image), int(self.targets[index])
