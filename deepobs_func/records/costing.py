"""What a call of an optimizer's oracle counts, in gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

GRADIENTS: Mapping[str, float] = MappingProxyType({"gradients": 1.0, "products": 2.0, "evaluations": 1 / 3})
"""What a call of the oracle counts, in gradients.

A gradient is a forward and a backward pass, which is twice as long, so a forward pass alone is a third. A Hessian
product is the derivative of a gradient along a vector, by forward mode at most 2.5 times as long as the gradient and in
practice twice (Griewank and Walther 2008, chapter 4; Pearlmutter 1994); a GGN product is counted like one."""


def gradient_equivalents(calls: Mapping[str, float]) -> float:
    """The cost of some calls of the oracle, in gradients: `gradients + 2 products + evaluations / 3`.

    Args:
        calls: how many of each kind.

    Returns:
        The sum; what an update computes besides its calls is not counted.

    >>> gradient_equivalents({"gradients": 1, "products": 10, "evaluations": 3})
    22.0
    """
    return float(sum(GRADIENTS[kind] * number for kind, number in calls.items()))


def costs(calls: Mapping[str, Sequence[Any]]) -> list[float]:
    """The cost after each epoch, of the `calls` that a record has; empty where they are not known."""
    columns = {kind: column for kind, column in calls.items() if column}
    rows = zip(*columns.values(), strict=False)
    return [gradient_equivalents(dict(zip(columns, row, strict=True))) for row in rows]
