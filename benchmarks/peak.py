"""Floating-point operations: how many a function takes, and how many a second the device does at most."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from deepobs_func.backend import onednn
from deepobs_func.problems.oracle import make_value_and_grad
from deepobs_func.problems.problem import Problem

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square matrices whose product is the measure


def operations(problem: Problem, batch_size: int, device: torch.device) -> int:
    """The multiplications and additions of the products and convolutions of one gradient.

    It is taken through no fused kernel, of which torch would not know them.
    """
    params, state = problem.init(seed=0, device=device)
    batch = problem.fake_batch(batch_size, device=device)
    batch = batch._replace(state=state._replace(carry=problem.zero_carry(batch_size, device=device)))
    with FlopCounterMode(display=False) as counter:
        make_value_and_grad(problem)(params, batch)
    return counter.get_total_flops()


class Peak:
    """A product of float32 matrices that is large enough to keep the device busy, by oneDNN where that is faster.

    Attributes:
        operations: of a call.
    """

    def __init__(self, device: torch.device, side: int | None = None) -> None:
        side = side or SIDE[device.type]
        self._matrix = torch.ones(side, side, device=device)
        self._product = onednn.product if onednn.is_faster(device) else torch.mm
        self.operations = 2 * side**3

    def __call__(self) -> None:
        self._product(self._matrix, self._matrix)
