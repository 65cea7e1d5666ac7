"""Standardisation: derivatives of every order and mode beside those of primitives, in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, jvp, vmap

from deepobs_func.backend.eager import forward_levels
from deepobs_func.backend.standardising import affine_of_groups, standardised

F64 = torch.float64
Function = Callable[[Tensor], Tensor]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


X, WEIGHT, T, S = (drawn(seed, 3, 2, 7) for seed in range(4))


def by_primitives(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred * centred).mean(-1, keepdim=True) + 0.1).sqrt()


def scalar(f: Function) -> Function:
    return lambda x: (f(x).pow(3) * WEIGHT).sum()


def product(f: Function, t: Tensor, mode: str) -> Function:
    """The product of the Hessian of a scalar with a direction."""
    return {
        "reverse-over-forward": grad(lambda x: jvp(scalar(f), (x,), (t,))[1]),
        "reverse-over-reverse": grad(lambda x: (grad(scalar(f))(x) * t).sum()),
        "forward-over-reverse": lambda x: jvp(grad(scalar(f)), (x,), (t,))[1],
    }[mode]


MODES = ("reverse-over-forward", "reverse-over-reverse", "forward-over-reverse")
DERIVATIVES: dict[str, Callable[[Function], Tensor]] = {
    "value": lambda f: f(X),
    "gradient": lambda f: grad(scalar(f))(X),
    "tangent": lambda f: jvp(f, (X,), (T,))[1],
    "tangent of a tangent": lambda f: jvp(lambda x: jvp(f, (x,), (T,))[1], (X,), (S,))[1],
    "vmap": lambda f: vmap(f)(X),
    "gradients of examples": lambda f: vmap(grad(lambda x: f(x).pow(3).sum()))(X),
}
for _mode in MODES:
    DERIVATIVES |= {
        _mode: lambda f, mode=_mode: product(f, T, mode)(X),
        f"several by {_mode}": lambda f, mode=_mode: vmap(lambda t: product(f, t, mode)(X))(torch.stack((T, S))),
        f"gradient of {_mode}": lambda f, mode=_mode: grad(lambda x: (product(f, T, mode)(x) * S).sum())(X),
        f"tangent of {_mode}": lambda f, mode=_mode: jvp(product(f, T, mode), (X,), (S,))[1],
    }


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_are_those_of_primitives(name: str) -> None:
    derivative = DERIVATIVES[name]
    right = derivative(by_primitives)
    assert float(right.abs().max()) > 0
    torch.testing.assert_close(derivative(lambda x: standardised(x, 0.1)), right, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", DERIVATIVES)
def test_derivatives_of_a_group_norm_for_compilers(name: str) -> None:
    derivative, scale, shift = DERIVATIVES[name], drawn(6, 7), drawn(7, 7)
    right = derivative(lambda x: by_primitives(x) * scale + shift)
    found = derivative(lambda x: affine_of_groups(x.reshape(-1, 7), 1, scale, shift, 0.1).view(x.shape))
    torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5))
@settings(deadline=None, max_examples=20)
def test_a_group_norm_for_compilers_is_that_of_torch(size: int, groups: int, channels: int, pixels: int) -> None:
    x = 100 + drawn(0, size, groups * channels, pixels, 2)  # far from zero: it centres before it scales
    weight, bias, seed = drawn(1, groups * channels), drawn(2, groups * channels), drawn(3, *x.shape)
    leaves = [leaf.requires_grad_() for leaf in (x, weight, bias)]
    right, found = F.group_norm(x, groups, weight, bias, 0.1), affine_of_groups(x, groups, weight, bias, 0.1)
    torch.testing.assert_close(found, right, rtol=1e-10, atol=1e-10)
    grads = [torch.autograd.grad(y, leaves, seed) for y in (found, right)]
    torch.testing.assert_close(*grads, rtol=1e-9, atol=1e-9)


def test_levels_in_forward_mode_are_counted() -> None:
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(forward_levels())
        return x

    f(X)
    jvp(lambda x: grad(lambda x: f(x).sum())(x), (X,), (T,))
    jvp(lambda x: jvp(f, (x,), (T,))[1], (X,), (S,))
    assert seen == [0, 1, 2]


@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1e-6, 1e-5, 0.5]), st.booleans())
@settings(deadline=None, max_examples=20)
def test_values_of_any_shape(rows: int, width: int, epsilon: float, turned: bool) -> None:
    x = drawn(rows, width, rows).mT if turned else drawn(rows, rows, width)
    x = x.requires_grad_()
    mean, variance = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    right, found = (x - mean) / (variance + epsilon).sqrt(), standardised(x, epsilon)
    torch.testing.assert_close(found, right)
    seed = drawn(5, width, rows).mT
    torch.testing.assert_close(*(torch.autograd.grad(y, x, seed)[0] for y in (found, right)), atol=1e-7, rtol=1e-6)
