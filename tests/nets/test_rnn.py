"""What the LSTM hands to cuDNN."""

from __future__ import annotations

import pytest
import torch

from deepobs_func import problems
from deepobs_func.backend.kernels import using
from deepobs_func.errors import ConfigError
from deepobs_func.nets.rnn import in_one_block


def test_parts_lie_one_after_the_other_and_are_the_same() -> None:
    """As cuDNN wants the weights of a layer, without gaps, in their order; gradients reach the parts."""
    whole = torch.arange(20.0).view(4, 5).requires_grad_()
    parts = [whole[:, :3], whole[:, 3:], torch.arange(4.0), torch.zeros(4)]
    block = in_one_block(parts)
    for part, found in zip(parts, block, strict=True):
        assert torch.equal(found, part)
        assert found.is_contiguous()
    starts = [found.storage_offset() for found in block]
    assert starts == [0, 12, 20, 24]
    assert len({found.untyped_storage().data_ptr() for found in block}) == 1
    assert block[0].untyped_storage().nbytes() == 4 * 28
    (grad,) = torch.autograd.grad(block[0].sum() + 2 * block[1].sum(), whole)
    assert torch.equal(grad, torch.tensor([1.0, 1, 1, 2, 2]).expand(4, 5))


def test_a_state_of_another_batch_is_refused() -> None:
    """torch.lstm would end the process."""
    problem = problems.get("tolstoi_char_rnn")
    params, state = problem.init()
    batch = problem.fake_batch(2)._replace(state=state._replace(carry=problem.zero_carry(4)))
    with (
        using(fused=True),
        pytest.raises(ConfigError, match=r"shape \(4, 128\); of a batch of 2 it is \(2, 128\)"),
    ):
        problem.loss(params, batch)
