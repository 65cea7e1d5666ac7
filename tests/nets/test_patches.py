"""Per-example gradients of convolutions in groups, from patches, and by one backward pass for each example."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from deepobs_func.base import Outer
from deepobs_func.nets.patches import Patches

few = st.integers(1, 3)


@given(
    count=few,
    channels=few,
    outputs=few,
    kernel=st.tuples(few, few),
    stride=few,
    padding=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    seed=st.integers(0, 100),
)
@settings(max_examples=25)
def test_the_gradients_of_a_convolution(count, channels, outputs, kernel, stride, padding, size, seed) -> None:
    torch.manual_seed(seed)
    x = torch.randn(count, channels, *size, dtype=torch.float64)
    weight = torch.randn(outputs, channels, *kernel, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weight, stride=stride, padding=padding)
    g = torch.randn_like(y)
    expected = torch.stack(
        [torch.autograd.grad(y[b], weight, g[b], retain_graph=True)[0].flatten(1) for b in range(count)]
    )
    factors = Patches(g, x, kernel, stride, padding)
    assert factors.sizes == (outputs, channels * kernel[0] * kernel[1], y[0, 0].numel())
    assert factors.columns.shape == (count, *factors.sizes[1:])
    assert factors.columns_made == factors.columns[0].numel()
    for product in (factors.product(), Outer.product(factors)):  # the second is what other devices take
        torch.testing.assert_close(product, expected, rtol=1e-11, atol=1e-11)


def test_a_population_has_the_gradients_of_its_members() -> None:
    g, x = torch.randn(2, 3, 4, 5, 5), torch.randn(2, 3, 2, 5, 5)
    product = lambda g, x: Patches(g, x, (3, 3), 1, (1, 1)).product()
    together = vmap(product)(g, x)
    torch.testing.assert_close(together, torch.stack([product(*each) for each in zip(g, x, strict=True)]))


def test_other_devices_need_their_patches() -> None:
    tensors = torch.empty(2, 3, 4, 4, device="meta"), torch.empty(2, 5, 6, 6, device="meta")
    factors = Patches(*tensors, (3, 3), 1, (0, 0))
    assert factors.columns_for_product == factors.columns_made == 45 * 16
    assert factors.product().shape == (2, 3, 45)
