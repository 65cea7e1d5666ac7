"""Pooling in an evaluation computes what torch's own does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.backend.kernels import using
from deepobs_func.nets import images
from deepobs_func.nets.images import max_pool


def drawn(size: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=dtype)


@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_pooling_in_an_evaluation_has_torch_s_values(
    height: int, width: int, kernel: int, stride: int, dtype: torch.dtype
) -> None:
    x = drawn((2, 3, height, width), dtype)
    if height > 2:
        x[0, 1, 2, 0], x[1, 1, 1, 0] = float("nan"), float("-inf")
    expected = max_pool(x, kernel, stride)
    with using(fused=True):
        torch.testing.assert_close(max_pool(x, kernel, stride), expected, rtol=0, atol=0, equal_nan=True)


def test_slices_are_for_evaluations_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    slices = images._max_of_slices
    monkeypatch.setattr(images, "_max_of_slices", lambda *args: calls.append(args) or slices(*args))
    x = drawn((2, 3, 8, 8))
    pooled = lambda x: max_pool(x, 2, 2).sum()
    with using(fused=True):
        torch.func.grad(pooled)(x)
        torch.func.vmap(pooled)(x.unsqueeze(0))
        pooled(x.clone().requires_grad_()).backward()
        pooled(x.contiguous(memory_format=torch.channels_last))
        assert not calls
        pooled(x)
    assert len(calls) == 2
