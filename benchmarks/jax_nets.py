"""Five problems written plainly in JAX: channels last, as XLA has them on a CPU; the loss of each example.

`from_torch` turns our parameters and batches into theirs, so that both compute the same function of the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from torch import Tensor

from deepobs_func.base import Batch
from deepobs_func.problems.problem import Problem

Tree = dict[str, Array]
SLOPE, KEEP = 0.3, 0.8  # of the VAE
AXES = ("NHWC", "HWIO", "NHWC")


class Data(NamedTuple):
    """A batch: inputs, targets, noise by layer, constants."""

    x: Array
    y: Array
    noise: Tree
    moments: Tree


class Net(NamedTuple):
    """A problem: `outputs(params, data, train)`, and the losses `(B,)` and the correctness of its outputs."""

    outputs: Callable[[Tree, Data, bool], Any]
    losses: Callable[[Any, Data], Array]
    correct: Callable[[Any, Data], Array] | None


def _array(tensor: Tensor) -> Array:
    return jnp.array(tensor.detach().contiguous().numpy())  # a copy: what is donated is written over


def _last(tensor: Tensor) -> Array:
    """Images with their channels last."""
    return _array(tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor)


def from_torch(params: dict[str, Tensor]) -> Tree:
    """Dense kernels `(inputs, outputs)`, those of convolutions `(height, width, inputs, outputs)`."""

    def converted(name: str, leaf: Tensor) -> Array:
        if leaf.ndim == 4 and "deconv" in name:  # the convolution that a transposed one is
            return _array(leaf.flip(2, 3).permute(2, 3, 0, 1))
        return _array(leaf.permute(2, 3, 1, 0) if leaf.ndim == 4 else leaf.t() if leaf.ndim == 2 else leaf)

    return {name: converted(name, leaf) for name, leaf in params.items()}


def data_from_torch(batch: Batch) -> Data:
    """A batch of ours."""
    noise = {name: _last(leaf) for name, leaf in batch.noise.items()}
    moments = {name: _array(leaf) for name, leaf in batch.state.moments.items()}
    return Data(_last(batch.x), _array(batch.y), noise, moments)


def net(problem: Problem) -> Net:
    """The problem in JAX."""
    name = problem.name.removeprefix("mnist_")
    if name == "quadratic_deep":
        return Net(lambda params, data, train: params["theta"] - data.x, _quadratic_losses, None)
    if name == "vae":
        return Net(_vae, _vae_losses, None)
    return Net({"logreg": _mlp, "mlp": _mlp, "2c2d": _net_2c2d}[name], _cross_entropy, _correct)


def _dense(params: Tree, name: str, x: Array) -> Array:
    return x @ params[f"{name}.weight"] + params[f"{name}.bias"]


def _conv(params: Tree, name: str, x: Array, stride: int = 1) -> Array:
    kernel = params[f"{name}.weight"]
    return (
        lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=AXES) + params[f"{name}.bias"]
    )


def _deconv(params: Tree, name: str, x: Array, stride: int = 1) -> Array:
    kernel = params[f"{name}.weight"]
    size = kernel.shape[0]
    low = size - 1 - (size - stride) // 2
    padding = [(low, size + stride - 2 - low)] * 2
    y = lax.conv_general_dilated(x, kernel, (1, 1), padding, lhs_dilation=(stride, stride), dimension_numbers=AXES)
    return y + params[f"{name}.bias"]


def _mlp(params: Tree, data: Data, train: bool) -> Array:
    x, layers = data.x.reshape(len(data.x), -1), sorted({name.rpartition(".")[0] for name in params})
    for layer in layers[:-1]:
        x = jax.nn.relu(_dense(params, layer, x))
    return _dense(params, layers[-1], x)


def _pool(x: Array) -> Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _net_2c2d(params: Tree, data: Data, train: bool) -> Array:
    x = jax.nn.relu(_pool(_conv(params, "conv1", data.x)))
    x = jax.nn.relu(_pool(_conv(params, "conv2", x)))
    return _dense(params, "dense2", jax.nn.relu(_dense(params, "dense1", x.reshape(len(x), -1))))


def _cross_entropy(logits: Array, data: Data) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, data.y)


def _correct(logits: Array, data: Data) -> Array:
    return logits.argmax(-1) == data.y


def _quadratic_losses(offset: Array, data: Data) -> Array:
    return 0.5 * ((offset @ data.moments["hessian"]) * offset).sum(1)


def _vae(params: Tree, data: Data, train: bool) -> tuple[Array, Array, Array]:
    def act(x: Array) -> Array:
        return jax.nn.leaky_relu(x, SLOPE)

    def drop(x: Array, name: str) -> Array:
        return x * (data.noise[name].astype(x.dtype) / KEEP) if train else x

    x = drop(act(_conv(params, "encoder.conv1", data.x, 2)), "encoder.dropout1")
    x = drop(act(_conv(params, "encoder.conv2", x, 2)), "encoder.dropout2")
    x = drop(act(_conv(params, "encoder.conv3", x)), "encoder.dropout3").reshape(len(x), -1)
    mean, log_std = _dense(params, "encoder.mean", x), 0.5 * _dense(params, "encoder.log_std", x)
    z = mean + data.noise["epsilon"] * jnp.exp(log_std)
    x = act(_dense(params, "decoder.dense2", act(_dense(params, "decoder.dense1", z)))).reshape(-1, 7, 7, 1)
    x = drop(jax.nn.relu(_deconv(params, "decoder.deconv1", x, 2)), "decoder.dropout1")
    x = drop(jax.nn.relu(_deconv(params, "decoder.deconv2", x)), "decoder.dropout2")
    x = jax.nn.relu(_deconv(params, "decoder.deconv3", x)).reshape(len(x), -1)
    return jax.nn.sigmoid(_dense(params, "decoder.dense3", x)), mean, log_std


def _vae_losses(outputs: tuple[Array, Array, Array], data: Data) -> Array:
    image, mean, log_std = outputs
    image_loss = jnp.square(image - data.x.reshape(len(image), -1)).sum(1)
    return image_loss - 0.5 * (1 + 2 * log_std - jnp.square(mean) - jnp.exp(2 * log_std)).sum(1)
