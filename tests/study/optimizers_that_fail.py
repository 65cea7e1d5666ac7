"""Optimizers that go wrong, each in its own way, by import path."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import torch

from deepobs_func import tree
from deepobs_func.optimizers.base import Optimizer

AT = 50  # the step


class _Counting(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.01) -> None:
        super().__init__(params, lr=lr)
        self.made = 0

    def step(self, closure: Any = None) -> Any:
        self.made += 1
        if self.made == AT:
            self.go_wrong()
        return super().step(closure)

    def go_wrong(self) -> None:
        raise NotImplementedError


class Raises(_Counting):
    def go_wrong(self) -> None:
        raise RuntimeError("no more of this")


class Diverges(_Counting):
    def go_wrong(self) -> None:
        for group in self.param_groups:
            for leaf in group["params"]:
                leaf.data.fill_(float("nan"))


class Reshapes(_Counting):
    def go_wrong(self) -> None:
        for group in self.param_groups:
            for leaf in group["params"]:
                leaf.data = leaf.data[:1]


class IsKilled(_Counting):
    def go_wrong(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Exits(_Counting):
    def go_wrong(self) -> None:
        sys.exit(3)


def frail(lr: float) -> Optimizer:
    """A functional one, which breaks at large rates."""

    def update(oracle: Any, opt_state: Any, params: Any) -> Any:
        if lr >= 1:
            raise RuntimeError("too fast")
        return tree.sub(params, tree.scale(lr, oracle.grad())), opt_state

    return Optimizer(init=lambda params, key: {}, update=update)
