"""Sentences of several lengths with a mask of their padding, for nets with several inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from deepobs_func import datasets, problems
from deepobs_func.problems import measures
from deepobs_func.problems.problem import Problem

WORDS, LONGEST, CLASSES, TRAIN, TEST = 9, 5, 3, 24, 8


class Classifier(nn.Module):
    """The mean over words of an `nn.TransformerEncoder`, which sees no padding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 4)
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, ids: Tensor, padding: Tensor) -> Tensor:
        y = self.encoder(self.embedding(ids), src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(-1).to(y.dtype)
        return self.head((y * kept).sum(1) / kept.sum(1))


def sentences(size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, whether a word is padding, and the class of the first word."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, WORDS, (size, LONGEST), generator=generator)
    padding = torch.arange(LONGEST) >= torch.randint(1, LONGEST + 1, (size, 1), generator=generator)
    return ids, padding, ids[:, 0] % CLASSES


class Items(Dataset[Any]):
    """The sentences one by one, inputs in a dict or in a tuple."""

    def __init__(self, size: int, keywords: bool = True) -> None:
        self.data, self.keywords = sentences(size), keywords

    def __len__(self) -> int:
        return len(self.data[0])

    def __getitem__(self, index: int) -> tuple[Any, Tensor]:
        ids, padding, y = (column[index] for column in self.data)
        return ({"ids": ids, "padding": padding} if self.keywords else (ids, padding)), y


def padded(*, keywords: bool = True, stream: bool = False, dropout: float = 0.0, **options: Any) -> Problem:
    data = datasets.from_torch(
        "padded", Items(TRAIN, keywords), Items(TEST, keywords), classes=CLASSES, stream=stream or None
    )
    torch.manual_seed(0)
    net = Classifier(dropout)
    return problems.from_module(net, measures.cross_entropy, data, batch_size=8, epochs=2, name="padded", **options)


class Product(nn.Module):
    """A layer for each of two inputs, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.left(left) * self.right(right)


def product() -> Problem:
    generator = torch.Generator().manual_seed(0)
    split = ((torch.randn(24, 3, generator=generator), torch.randn(24, 2, generator=generator)), torch.arange(24) % 4)
    data = datasets.from_arrays("product", split, split)
    torch.manual_seed(0)
    return problems.from_module(Product(), measures.cross_entropy, data, batch_size=8, epochs=2, name="padded")
