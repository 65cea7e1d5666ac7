"""Attention: derivatives of every order and mode beside those of primitives, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

from deepobs_func.backend.attending import attended

F64 = torch.float64
Function = Callable[[Tensor], Tensor]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, T, S = (drawn(seed, 3, 2, 4, 3) for seed in range(3))  # queries, keys and values of two heads
WEIGHT = drawn(3, 2, 4, 3)
HIDDEN = torch.ones(4, 4, dtype=torch.bool).triu(1)


def loop(x: Tensor, hidden: Tensor | None) -> Tensor:
    """By exponentials, query by query."""
    rows = []
    for q, k, v in zip(*x, strict=True):
        for t, row in enumerate(q):
            last = len(k) if hidden is None else t + 1
            weights = (k[:last] @ row / 3**0.5).exp()
            rows.append(weights @ v[:last] / weights.sum())
    return torch.stack(rows).view(x.shape[1:])


def scalar(f: Function) -> Function:
    return lambda x: (f(x).pow(3) * WEIGHT).sum()


MODES: dict[str, Callable[[Function, Tensor], Function]] = {
    "reverse-over-forward": lambda f, t: grad(lambda x: jvp(scalar(f), (x,), (t,))[1]),
    "reverse-over-reverse": lambda f, t: grad(lambda x: (grad(scalar(f))(x) * t).sum()),
    "forward-over-reverse": lambda f, t: lambda x: jvp(grad(scalar(f)), (x,), (t,))[1],
}
DERIVATIVES: dict[str, Callable[[Function], Tensor]] = {
    "value": lambda f: f(X),
    "gradient": lambda f: grad(scalar(f))(X),
    "tangent": lambda f: jvp(f, (X,), (T,))[1],
}
for _mode, _make in MODES.items():
    DERIVATIVES |= {
        _mode: lambda f, make=_make: make(f, T)(X),
        f"several by {_mode}": lambda f, make=_make: vmap(lambda t: make(f, t)(X))(torch.stack((T, S))),
        f"gradient of {_mode}": lambda f, make=_make: grad(lambda x: (make(f, T)(x) * S).sum())(X),
    }


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_primitives(name: str, causal: bool) -> None:
    hidden, derivative = HIDDEN if causal else None, DERIVATIVES[name]
    right = derivative(lambda x: loop(x, hidden))
    assert float(right.abs().max()) > 0
    torch.testing.assert_close(derivative(lambda x: attended(*x, hidden)), right, rtol=1e-11, atol=1e-11)
