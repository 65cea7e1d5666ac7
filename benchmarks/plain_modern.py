"""Plain modules of the modern set: a residual net, a vision transformer, and a GPT, of torch's own layers."""

from __future__ import annotations

from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.plain import Classifier, Plain, Sums


def _norm(kind: Literal["batch", "group"], channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.GroupNorm(32, channels)


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: Literal["batch", "group"]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = _norm(norm, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = _norm(norm, outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), _norm(norm, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


def resnet18(classes: int, norm: Literal["batch", "group"]) -> Plain:
    """For 32 x 32 images."""
    parts: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), _norm(norm, 64), nn.ReLU()]
    inputs = 64
    for stage, outputs in enumerate((64, 128, 256, 512)):
        parts += [BasicBlock(inputs, outputs, 2 if stage else 1, norm), BasicBlock(outputs, outputs, 1, norm)]
        inputs = outputs
    return Classifier(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))


class Block(nn.Module):
    """Attention and a multilayer perceptron, each normalised before and added."""

    def __init__(self, width: int, heads: int, *, causal: bool, rate: float, epsilon: float) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.norm1 = nn.LayerNorm(width, epsilon)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, epsilon)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(rate)

    def forward(self, x: Tensor) -> Tensor:
        size, length, width = x.shape
        q, k, v = (
            part.view(size, length, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.dropout(self.out(y.transpose(1, 2).reshape(size, length, width)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class _Patches(nn.Conv2d):
    """Patches of 4 x 4 as tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).flatten(2).transpose(1, 2)


class _Token(nn.Module):
    """A learned token before the others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.weight.expand(len(x), 1, -1), x), 1)


class _Positions(nn.Module):
    """What is learned of each position."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


class _First(nn.Module):
    """The first token."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0]


def vit(blocks: int, classes: int) -> Plain:
    """For 32 x 32 images."""
    embedded = (_Patches(3, 192, 4, 4), _Token(192), _Positions(65, 192))
    parts = [Block(192, 3, causal=False, rate=0.0, epsilon=1e-6) for _ in range(blocks)]
    return Classifier(*embedded, *parts, _First(), nn.LayerNorm(192, 1e-6), nn.Linear(192, classes))


class GPT(Plain):
    """Logits of the next character at each position."""

    def __init__(self, vocabulary: int, length: int, blocks: int, width: int, heads: int, rate: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = _Positions(length, width)
        self.dropout = nn.Dropout(rate)
        block = partial(Block, width, heads, causal=True, rate=rate, epsilon=1e-5)
        self.blocks = nn.Sequential(*(block() for _ in range(blocks)))
        self.norm = nn.LayerNorm(width)
        self.dense = nn.Linear(width, vocabulary)

    def forward(self, x: Tensor) -> Tensor:  # (B, T) -> (B, T, vocabulary)
        x = self.dropout(self.positions(self.embedding(x)))
        return self.dense(self.norm(self.blocks(x)))

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(self(x).flatten(0, 1), y.flatten())

    def sums(self, x: Tensor, y: Tensor) -> Sums:
        logits = self(x)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        return Sums(loss * len(x), (logits.argmax(2) == y).float().mean(1).sum())
