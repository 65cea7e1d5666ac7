"""Comparisons of tensors of a hundred million numbers, block by block, so that nothing of their size is made."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 1 << 18


def assert_close(actual: Tensor, expected: Tensor, *, rtol: float, atol: float) -> None:
    """`torch.testing.assert_close` of every block."""
    assert actual.shape == expected.shape
    blocks = zip(actual.reshape(-1).split(_BLOCK), expected.reshape(-1).split(_BLOCK), strict=True)
    for a, b in blocks:
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)
