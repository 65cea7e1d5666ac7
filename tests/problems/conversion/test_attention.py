"""Attention: which masks it takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deepobs_func.errors import ConfigError
from tests.problems.user_functions import data, problem_of

SEQUENCES = torch.randn(12, 5, 6, generator=torch.Generator().manual_seed(0))


class Attending(nn.Module):
    def __init__(self, dtype: torch.dtype | None, name: str) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 3)
        self.dtype, self.name = dtype, name

    def forward(self, x: Tensor) -> Tensor:
        hidden = x[:, :, 0] > 1.2 if self.name == "key_padding_mask" else torch.ones(5, 5).triu(1) > 0
        options: dict[str, Any] = {self.name: hidden if self.dtype is None else hidden.to(self.dtype)}
        return self.last(self.attention(x, x, x, **options)[0].mean(1))


@pytest.mark.parametrize("name", ["key_padding_mask", "attn_mask"])
def test_masks_of_whole_numbers_are_refused(name: str) -> None:
    dataset = data(SEQUENCES, torch.arange(12) % 3)
    with pytest.raises(ConfigError, match=f"only bool and floating types of {name}"):
        problem_of(Attending(torch.int64, name), dataset=dataset)
    assert problem_of(Attending(None, name), dataset=dataset).separable
