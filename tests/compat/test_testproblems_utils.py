"""DeepOBS 1.2's layers with TensorFlow's padding, beside TensorFlow's definition of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepobs_func import datasets, probes, problems
from deepobs_func.base import Batch
from deepobs_func.compat.testproblems.testproblems_utils import (
    _truncated_normal_init,
    flatten,
    mean_allcnnc,
    tfconv2d,
    tfconv2d_transpose,
    tfmaxpool2d,
)
from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))  # of an axis: size, kernel, stride


def window(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `SAME`: how many outputs an axis has, and where its first window begins."""
    outputs = math.ceil(size / stride)
    return outputs, -(max((outputs - 1) * stride + kernel - size, 0) // 2)


@settings(max_examples=25, deadline=None)
@given(SIZES, SIZES)
def test_windows_are_where_tensorflow_has_them(rows: tuple[int, int, int], columns: tuple[int, int, int]) -> None:
    """Convolution and maximum by a loop over windows, whose places beyond the edge do not count."""
    (height, kernel_h, stride_h), (width, kernel_w, stride_w) = rows, columns
    x = torch.randn(1, 1, height, width, dtype=torch.float64) - 3.0
    conv = tfconv2d(1, 1, (kernel_h, kernel_w), (stride_h, stride_w), bias=False, tf_padding_type="same").double()
    kernel, image = conv.weight.detach()[0, 0].numpy(), x[0, 0].numpy()
    (n, top), (m, left) = window(*rows), window(*columns)
    sums, maxima = np.zeros((n, m)), np.full((n, m), -np.inf)
    for i, j in np.ndindex(n, m):
        for a, b in np.ndindex(kernel_h, kernel_w):
            at = (top + i * stride_h + a, left + j * stride_w + b)
            if 0 <= at[0] < height and 0 <= at[1] < width:
                sums[i, j] += kernel[a, b] * image[at]
                maxima[i, j] = max(maxima[i, j], image[at])
    np.testing.assert_allclose(conv(x).detach()[0, 0].numpy(), sums, rtol=1e-12, atol=1e-12)
    pool = tfmaxpool2d((kernel_h, kernel_w), (stride_h, stride_w), tf_padding_type="same")
    assert np.array_equal(pool(x)[0, 0].numpy(), maxima)


@settings(max_examples=25, deadline=None)
@given(SIZES, SIZES)
def test_the_transpose_is_the_transpose(rows: tuple[int, int, int], columns: tuple[int, int, int]) -> None:
    """`<y, conv(x)> = <conv_transpose(y), x>` for images whose sizes the strides divide, as TensorFlow defines it."""
    (height, kernel_h, stride_h), (width, kernel_w, stride_w) = rows, columns
    x = torch.randn(2, 2, height * stride_h, width * stride_w, dtype=torch.float64)
    y = torch.randn(2, 3, height, width, dtype=torch.float64)
    how = {"kernel_size": (kernel_h, kernel_w), "stride": (stride_h, stride_w), "tf_padding_type": "same"}
    conv = tfconv2d(2, 3, bias=False, **how).double()  # type: ignore[arg-type]
    transpose = tfconv2d_transpose(3, 2, bias=False, **how).double()  # type: ignore[arg-type]
    with torch.no_grad():
        transpose.weight.copy_(conv.weight)
        assert transpose(y).shape == x.shape
        torch.testing.assert_close((transpose(y) * x).sum(), (y * conv(x)).sum(), rtol=1e-10, atol=1e-10)


def test_without_a_type_they_are_torch_s() -> None:
    x = torch.randn(2, 3, 7, 7)
    for layer, base in (
        (tfconv2d(3, 4, 3, 2, padding=1), nn.Conv2d),
        (tfmaxpool2d(3, 2), nn.MaxPool2d),
        (tfconv2d_transpose(3, 4, 3, 2), nn.ConvTranspose2d),
    ):
        assert torch.equal(layer(x), base.forward(layer, x))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"tf_padding_type 'valid'"):
        tfconv2d(3, 4, 3, tf_padding_type="valid")
    assert flatten()(x).shape == (2, 147)
    torch.testing.assert_close(mean_allcnnc()(x), x.flatten(2).mean(-1))


def test_truncated_normal_numbers() -> None:
    """Within two standard deviations; the standard deviation of what is left is 0.8796 of the normal's."""
    torch.manual_seed(0)
    drawn = _truncated_normal_init(torch.empty(200, 200, dtype=torch.float64), mean=1.0, stddev=0.5)
    assert float((drawn - 1.0).abs().max()) <= 1.0
    assert float(drawn.mean()) == pytest.approx(1.0, abs=0.01)
    assert float(drawn.std()) == pytest.approx(0.5 * 0.8796, abs=0.005)


def test_a_net_of_them_is_a_problem() -> None:
    """The functional core takes it: its losses are those of the module, and it has products with its Hessian."""
    net = nn.Sequential(
        tfconv2d(1, 2, 3, 2, tf_padding_type="same"),
        nn.Tanh(),
        tfmaxpool2d(3, 2, tf_padding_type="same"),
        flatten(),
        nn.Linear(8, 3),
    )
    r = np.random.RandomState(0)
    x, y = r.normal(size=(8, 1, 7, 7)).astype(np.float32), r.randint(0, 3, 8)
    data = datasets.from_arrays("tf_layers", train=(x[:4], y[:4]), test=(x[4:], y[4:]))
    problem = problems.from_module(net, measures.cross_entropy, data, name="tf_layers", batch_size=4)
    params, state = problem.init(0)
    batch = Batch.of(torch.from_numpy(x[:4]), torch.from_numpy(y[:4]), {}, state)
    expected = nn.functional.cross_entropy(net(batch.x), batch.y, reduction="none").detach()
    torch.testing.assert_close(problem.loss(params, batch), expected)
    direction = {name: torch.ones_like(tensor) for name, tensor in params.items()}
    assert probes.hvp(problem, params, batch, direction).keys() == params.keys()
