"""Half precision: every small problem computes with it, near the full one, and hands nothing of it on."""

from __future__ import annotations

import pytest
import torch

from deepobs_func import problems
from deepobs_func.backend.kernels import using
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from tests.problems.small_nets import narrow_resnet
from tests.problems.test_registry import NAMES, table


@pytest.mark.parametrize("name", table(NAMES, "cifar100_allcnnc"))
def test_half_precision_is_near_and_stays_inside(name: str) -> None:
    full = narrow_resnet(10) if name == "svhn_wrn164" else problems.get(name)
    params, batch = full.init(0)[0], full.fake_batch(2)
    expected = make_value_and_grad(full)(params, batch)
    for make in (make_value_and_grad, make_plain_value_and_grad):
        with using(autocast=torch.bfloat16):
            found = make(full)(params, batch)
        torch.testing.assert_close(found.objective, expected.objective, rtol=0.05, atol=0.05)
        leaves = torch.utils._pytree.tree_leaves(found)
        assert all(leaf.dtype in (torch.float32, torch.int64) for leaf in leaves)
        assert all(leaf.isfinite().all() for leaf in leaves)
    with using(autocast=torch.bfloat16):
        losses, _ = full.evaluate(params, batch)
    assert losses.dtype == torch.float32


def test_it_is_another_problem_only_where_there_are_products() -> None:
    params, batch = problems.get("mnist_mlp").init(0)[0], problems.get("mnist_mlp").fake_batch(4)
    full = problems.get("mnist_mlp")
    with using(autocast=torch.bfloat16):
        half = full.loss(params, batch)
    assert not torch.equal(full.loss(params, batch), half)
