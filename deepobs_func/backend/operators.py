"""Operators that the compiler calls as they are, where what it would write in their place is slower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("deepobs_func", "FRAGMENT")


def opaque(signature: str, function: Callable[..., Any], like: Callable[..., Any]) -> Callable[..., Any]:
    """Registers a function as an operator of `torch.ops.deepobs_func`.

    Args:
        signature: as torch writes it, e.g. `"crop(Tensor x, Tensor top) -> Tensor"`.
        function: what it computes.
        like: an empty result of the right shape, strides, dtype and device, from the same arguments.

    Returns:
        The operator, which has no gradient.
    """
    name = signature.partition("(")[0]
    _LIBRARY.define(signature)
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    _LIBRARY.impl(name, like, "Meta")
    return getattr(torch.ops.deepobs_func, name).default
