"""VGG-16 and VGG-19 (Simonyan and Zisserman, ICLR 2015), as `_vgg.py` of DeepOBS 1.1.2 has them."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from deepobs_func.nets.images import flatten, max_pool, resize_bilinear
from deepobs_func.nets.initializers import glorot_normal
from deepobs_func.nets.layers import Conv, Dense, Pass
from deepobs_func.nets.noise import Dropout

_CHANNELS = (64, 128, 256, 512, 512)
_DEPTHS = {16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}


class _Block(nn.ModuleList):
    """Convolutions with ReLU, the last one's after a max pool: the same, on a quarter of the numbers."""

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        *convs, last = self
        for conv in convs:
            x = torch.relu(conv(x, p))
        return torch.relu(max_pool(last(x, p), 2, 2))


class VGG(nn.Module):
    """Images of any size, resized to 224x224 -> classes.

    Args:
        depth: 16 or 19.
        classes: of the last dense layer.
    """

    in_blocks = True

    def __init__(self, depth: int, classes: int) -> None:
        super().__init__()
        blocks, inputs = [], 3
        for convs, channels in zip(_DEPTHS[depth], _CHANNELS, strict=True):
            sizes = [inputs, *[channels] * convs]
            made = (Conv(a, b, 3, weight=glorot_normal()) for a, b in itertools.pairwise(sizes))
            blocks.append(_Block(made))
            inputs = channels
        self.blocks = nn.ModuleList(blocks)
        self.dense1, self.dropout1 = Dense(7 * 7 * 512, 4096), Dropout(0.5, (4096,))
        self.dense2, self.dropout2 = Dense(4096, 4096), Dropout(0.5, (4096,))
        self.dense3 = Dense(4096, classes)

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = resize_bilinear(x, 224, 224)
        for convs in self.blocks:
            x = p.through(convs, x)
        x = self.dropout1(torch.relu(self.dense1(flatten(x), p)), p)
        return self.dense3(self.dropout2(torch.relu(self.dense2(x, p)), p), p)
