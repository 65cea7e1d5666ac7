"""The gradient by torch's engine."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func.backend.gradients import gradients


@given(st.integers(1, 4), st.integers(0, 3), st.sampled_from([torch.float32, torch.float64]))
def test_the_gradient_is_that_of_torch_autograd_bit_for_bit(size: int, unused: int, dtype: torch.dtype) -> None:
    def leaves() -> list[torch.Tensor]:
        start = torch.linspace(-1, 1, 3 * size, dtype=dtype)
        used = [start.detach().clone().requires_grad_(), (start[:1].detach() + 2).requires_grad_()]
        return used + [torch.ones(2, dtype=dtype, requires_grad=True) for _ in range(unused)]

    def value(of: list[torch.Tensor]) -> torch.Tensor:
        return (of[0].sin() * of[1] ** 2).mean() + of[1].sum()

    def parts(of: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return [value(of), of[0].exp()], [torch.ones((), dtype=dtype), torch.linspace(1, 2, 3 * size, dtype=dtype)]

    expected, given_leaves = leaves(), leaves()
    values, seeds = parts(expected)
    wanted = torch.autograd.grad(values, expected, seeds, allow_unused=True, materialize_grads=True)
    found = gradients(*parts(given_leaves), given_leaves)
    assert len(found) == len(wanted)
    for ours, torchs in zip(found, wanted, strict=True):
        assert ours.dtype == torchs.dtype
        assert torch.equal(ours, torchs)
    assert all(leaf.grad is None for leaf in given_leaves)


def test_a_value_that_depends_on_no_leaf_is_refused_as_by_torch_autograd() -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        gradients([torch.ones(())], [torch.ones(())], [torch.ones(2, requires_grad=True)])


def test_a_gradient_can_be_changed_in_place() -> None:
    leaf = torch.ones((), requires_grad=True)
    (first,) = gradients([leaf + 0], [torch.ones(())], [leaf])
    first.zero_()
    (second,) = gradients([leaf + 0], [torch.ones(())], [leaf])
    assert second.item() == 1
