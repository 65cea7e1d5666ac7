"""An optimizer that raises in its third step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Failing(torch.optim.SGD):
    steps = 0

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        self.steps += 1
        if self.steps == 3:
            raise RuntimeError("no more steps")
        return super().step(closure)


def make(named_parameters: Any, lr: float) -> Failing:
    return Failing([parameter for _, parameter in named_parameters], lr=lr)
