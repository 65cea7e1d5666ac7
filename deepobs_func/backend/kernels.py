"""Which kernels of torch compute what a problem asks for: decided around a computation, never kept on a problem.

A problem is the same function under all of them, rounding aside. `Execution.apply` says what a run computes by, and the
plain gradient and the evaluation say where fused kernels may be used.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any, NamedTuple

import torch

from deepobs_func.backend.ranks import Ranks


class Kernels(NamedTuple):
    """A choice of kernels.

    Attributes:
        fused: whether fused kernels may be used (of the LSTM, of batch norm), which serve the plain gradient and the
            evaluation only: they go through neither `vmap` nor second derivatives nor forward mode.
        onednn: whether, where fused kernels may be used, large products of float32 matrices on a CPU are computed by
            oneDNN (`backend.onednn`).
        autocast: the type in which products and convolutions are computed, by `torch.autocast`; None for that of the
            parameters. Parameters, outputs, losses and the model's state stay as they are.
        recompute: whether, where fused kernels may be used, the backward pass of the plain gradient computes the blocks
            of a net anew, whose inputs alone are kept.
        ranks: the processes of whose shards batch norm takes the statistics; None for this process's alone.
    """

    fused: bool = False
    onednn: bool = False
    autocast: torch.dtype | None = None
    ranks: Ranks | None = None
    recompute: bool = False


class _InForce(threading.local):
    """Each thread has its own: runs in threads go in and out of their contexts in any order."""

    kernels = Kernels()


_in_force = _InForce()


def current() -> Kernels:
    """Those in force in this thread."""
    return _in_force.kernels


@cache
def _changed(kernels: Kernels, changes: tuple[tuple[str, Any], ...]) -> Kernels:
    return kernels._replace(**dict(changes))


class using:  # noqa: N801  # a context manager, named as one reads it
    """Within it some choices are others; afterwards all is as before.

    >>> with using(autocast=torch.bfloat16):
    ...     current().autocast
    torch.bfloat16
    """

    def __init__(self, **changes: bool | torch.dtype | Ranks | None) -> None:
        self._changes = tuple(changes.items())

    def __enter__(self) -> None:
        self._before = _in_force.kernels
        _in_force.kernels = _changed(self._before, self._changes)

    def __exit__(self, *exception: object) -> None:
        _in_force.kernels = self._before
