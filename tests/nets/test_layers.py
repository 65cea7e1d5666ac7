"""Layers against slow loops that follow TensorFlow's definition of `SAME` value by value (golden README, section 4)."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.func import functional_call

from deepobs_func import random
from deepobs_func.nets.images import flatten, max_pool, same_padding
from deepobs_func.nets.layers import Conv, ConvTranspose, Dense, Layer, Pass, name_layers
from deepobs_func.nets.noise import Dropout, Epsilon, Noise

sizes, kernels, strides = st.integers(1, 9), st.integers(1, 5), st.integers(1, 4)
seeds = st.integers(0, 2**32 - 1)


def normals(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def slow_windows(size, kernel, stride):
    """For each output place of one axis, the pairs (place in the input, place in the kernel) inside of the input."""
    outputs = math.ceil(size / stride)
    top = max((outputs - 1) * stride + kernel - size, 0) // 2
    return [
        [(o * stride + k - top, k) for k in range(kernel) if 0 <= o * stride + k - top < size] for o in range(outputs)
    ]


def slow_conv(x, weight, bias, stride):
    rows, columns = (slow_windows(size, weight.shape[-1], stride) for size in x.shape[-2:])
    out = np.empty((len(x), len(weight), len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            out[:, :, i, j] = bias
            for h, kh in row:
                for w, kw in column:
                    out[:, :, i, j] += x[:, :, h, w] @ weight[:, :, kh, kw].T
    return out


def slow_conv_transpose(x, weight, bias, stride):
    (batch, _, height, width), (_, outputs, kernel, _) = x.shape, weight.shape
    full = np.zeros((batch, outputs, (height - 1) * stride + kernel, (width - 1) * stride + kernel))
    for h in range(height):
        for w in range(width):
            for kh in range(kernel):
                for kw in range(kernel):
                    full[:, :, h * stride + kh, w * stride + kw] += x[:, :, h, w] @ weight[:, :, kh, kw]
    top = (kernel - stride) // 2  # of (n - 1) s + k - n s
    return full[:, :, top : top + height * stride, top : top + width * stride] + bias[:, None, None]


def slow_max_pool(x, kernel, stride):
    rows, columns = (slow_windows(size, kernel, stride) for size in x.shape[-2:])
    windows = [[x[:, :, [h for h, _ in row]][..., [w for w, _ in column]] for column in columns] for row in rows]
    return np.stack([np.stack([window.max((2, 3)) for window in row], -1) for row in windows], -2)


def call(layer, weight, bias, x):
    tensors = {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
    return functional_call(layer, tensors, (torch.from_numpy(x), Pass(True, {}, {})), strict=True).numpy()


@given(st.integers(1, 50), st.integers(1, 11), st.integers(1, 6))
@settings(deadline=None, max_examples=25)
def test_same_padding_is_the_least_that_gives_ceil_of_size_by_stride_windows(size, kernel, stride):
    before, after = same_padding(size, kernel, stride)
    windows = lambda padded: (padded - kernel) // stride + 1
    assert windows(size + before + after) == math.ceil(size / stride)
    assert before + after == 0 or windows(size + before + after - 1) < math.ceil(size / stride)
    assert after - before in (0, 1)


@given(sizes, sizes, kernels, strides, seeds)
@settings(deadline=None, max_examples=25)
def test_conv_equals_slow_loops(height, width, kernel, stride, seed):
    x, weight, bias = normals(seed, 2, 3, height, width), normals(seed + 1, 4, 3, kernel, kernel), normals(seed, 4)
    fast = call(Conv(3, 4, kernel, stride), weight, bias, x)
    np.testing.assert_allclose(fast, slow_conv(x, weight, bias, stride), rtol=1e-11, atol=1e-12)


@given(sizes, sizes, strides, st.integers(0, 3), seeds)
@settings(deadline=None, max_examples=25)
def test_conv_transpose_equals_slow_loops(height, width, stride, more, seed):
    kernel = stride + more  # a smaller kernel would leave holes
    x, weight, bias = normals(seed, 2, 3, height, width), normals(seed + 1, 3, 4, kernel, kernel), normals(seed, 4)
    fast = call(ConvTranspose(3, 4, kernel, stride), weight, bias, x)
    np.testing.assert_allclose(fast, slow_conv_transpose(x, weight, bias, stride), rtol=1e-11, atol=1e-12)


@given(sizes, sizes, kernels, strides, seeds)
@settings(deadline=None, max_examples=25)
def test_max_pool_equals_slow_loops(height, width, kernel, stride, seed):
    x = normals(seed, 2, 3, height, width) - 5.0  # negative: padding with zeros would win
    assert (max_pool(torch.from_numpy(x), kernel, stride).numpy() == slow_max_pool(x, kernel, stride)).all()


@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), seeds)
@settings(deadline=None, max_examples=20)
def test_dense_equals_slow_loops(batch, inputs, outputs, seed):
    x, weight, bias = normals(seed, batch, inputs), normals(seed + 1, outputs, inputs), normals(seed + 2, outputs)
    slow = [
        [b + sum(u * v for u, v in zip(row, w, strict=True)) for w, b in zip(weight, bias, strict=True)] for row in x
    ]
    np.testing.assert_allclose(call(Dense(inputs, outputs), weight, bias, x), slow, rtol=1e-11, atol=1e-12)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None, max_examples=20)
def test_flatten_runs_over_height_width_channel(batch, channels, height, width):
    x = torch.arange(batch * channels * height * width).reshape(batch, channels, height, width)
    order = [(h, w, c) for h in range(height) for w in range(width) for c in range(channels)]
    assert flatten(x).tolist() == [[int(image[c, h, w]) for h, w, c in order] for image in x]


@pytest.mark.parametrize("layer", [Dense(2, 3), Conv(2, 3, 3), ConvTranspose(2, 3, 3)])
def test_a_layer_declares_its_tensors_and_holds_no_data(layer):
    names = [name for name, _ in layer.named_parameters()]
    assert names == ["weight", "bias"] == list(layer.initializers)
    assert all(tensor.is_meta for tensor in layer.parameters())


def test_declared_constants_are_buffers():
    layer = Layer()
    layer.declare_constant("hessian", (2, 2), lambda key, shape, dtype: torch.zeros(shape))
    assert [(name, tensor.shape) for name, tensor in layer.named_buffers()] == [("hessian", (2, 2))]
    assert list(layer.parameters()) == []


def test_layers_are_told_their_dotted_names():
    net = name_layers(torch.nn.ModuleDict({"encoder": torch.nn.ModuleList([Dense(1, 1), Dropout(0.5, (1,))])}))
    assert [net["encoder"][n].path for n in range(2)] == ["encoder.0", "encoder.1"]


def named(layer):
    return name_layers(torch.nn.ModuleDict({"layer": layer}))["layer"]


@given(st.floats(0.0, 0.95), seeds)
@settings(deadline=None, max_examples=30)
def test_dropout_keeps_scaled_values_where_the_mask_is_true(rate, seed):
    layer, x = named(Dropout(rate, (3, 2))), torch.from_numpy(normals(seed, 5, 3, 2))
    mask = torch.from_numpy(normals(seed + 1, 5, 3, 2) > 0)
    out = layer(x, Pass(train=True, noise={"layer": mask}, carry_in={}))
    np.testing.assert_allclose(out[mask], x[mask].numpy() / (1 - rate), rtol=1e-14)
    assert (out[~mask] == 0).all()


@pytest.mark.parametrize(("train", "noise"), [(True, {}), (True, {"other": None}), (False, {"layer": None})])
def test_dropout_without_a_mask_or_in_the_test_phase_does_nothing(train, noise):
    noise = {name: torch.zeros(5, 3, dtype=torch.bool) for name in noise}
    x = torch.from_numpy(normals(0, 5, 3))
    assert torch.equal(named(Dropout(0.5, (3,)))(x, Pass(train, noise, carry_in={})), x)


def test_dropout_stops_the_gradient_of_what_it_drops_even_if_infinite():
    layer, mask = named(Dropout(0.5, (2,))), torch.tensor([[True, False]])
    loss = lambda x: layer(x, Pass(True, {"layer": mask}, {})).sum()
    assert torch.func.grad(loss)(torch.tensor([[1.0, torch.inf]])).tolist() == [[2.0, 0.0]]


def test_dropout_draws_masks_of_its_rate():
    # error rate 1e-4
    mask = Dropout(0.2, (50, 4)).draw(random.key(0), 100)
    assert (mask.shape, mask.dtype) == ((100, 50, 4), torch.bool)
    assert abs(mask.double().mean() - 0.8) < stats.norm.isf(1e-4 / 2) * math.sqrt(0.8 * 0.2 / mask.numel())


@pytest.mark.parametrize("train", [True, False])
def test_epsilon_is_the_batchs_own_in_both_phases(train):
    layer, draw = named(Epsilon((8,))), torch.from_numpy(normals(0, 5, 8))
    like = torch.empty(5, 8, dtype=torch.float32)
    out = layer(like, Pass(train, {"layer": draw}, {}))
    assert torch.equal(out, draw.float())
    assert torch.equal(layer(like, Pass(train, {}, {})), torch.zeros(5, 8))


def test_epsilon_draws_standard_normals():
    # error rate 1e-4
    draw = Epsilon((8,)).draw(random.key(0), 5000)
    assert draw.shape == (5000, 8)
    assert stats.kstest(draw.flatten().numpy(), "norm").pvalue > 1e-4


def test_only_epsilon_is_drawn_in_the_test_phase():
    assert Epsilon((1,)).in_evaluation
    assert not Dropout(0.5, (1,)).in_evaluation


def test_a_noise_that_does_not_say_how_it_is_drawn_is_abstract():
    with pytest.raises(NotImplementedError):
        Noise().draw(random.key(0), 1)


def test_passes_share_no_dicts():
    first, second = Pass(True, {}, {}), Pass(True, {}, {})
    first.moments["mean"] = first.carry["h"] = torch.zeros(1)
    assert second.moments == second.carry == {}
