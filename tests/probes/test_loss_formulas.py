"""Criteria written out: torch's own values, and derivatives in every mode."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vjp

from deepobs_func.probes.formulas import exactly

D = torch.float64
LABELS = torch.tensor([1, 2, 0, 4, 3])
CRITERIA: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "huber": lambda x, y: F.huber_loss(x, y, reduction="none"),
    "huber, delta": lambda x, y: F.huber_loss(x, y, reduction="none", delta=0.3),
    "huber, mean": lambda x, y: F.huber_loss(x, y),
    "soft margin": lambda x, y: F.soft_margin_loss(x, y.sign(), reduction="none"),
    "multi margin": lambda x, y: F.multi_margin_loss(x, LABELS, reduction="none"),
    "multi margin, squared and weighted": lambda x, y: F.multi_margin_loss(
        x, LABELS, p=2, margin=0.7, weight=torch.arange(1.0, 6.0, dtype=D), reduction="sum"
    ),
}


@pytest.mark.parametrize("name", CRITERIA)
def test_values_are_torch_s_and_every_mode_is_the_difference_of_gradients(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, y, v = (2 * torch.randn(5, 5, dtype=D, generator=generator) for _ in range(3))
    loss = lambda z: CRITERIA[name](z, y).sum()
    plain = CRITERIA[name](x, y)
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(CRITERIA[name](leaf, y).sum(), leaf)
    with exactly():
        torch.testing.assert_close(CRITERIA[name](x, y), plain)
        torch.testing.assert_close(grad(loss)(x), gradient)
        difference = (grad(loss)(x + 1e-6 * v) - grad(loss)(x - 1e-6 * v)) / 2e-6
        modes = (
            grad(lambda z: jvp(loss, (z,), (v,))[1])(x),
            vjp(grad(loss), x)[1](v)[0],
            jvp(grad(loss), (x,), (v,))[1],
        )
    for found in modes:
        torch.testing.assert_close(found, difference, rtol=1e-6, atol=1e-8)
