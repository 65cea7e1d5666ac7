"""Weights of DeepOBS 1.1.2 in TensorFlow's order and layout, into a problem's parameters and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from deepobs_func.base import ModelState, Params
from deepobs_func.errors import DataError
from deepobs_func.nets.layers import Layer
from deepobs_func.nets.quadratic import DIM
from deepobs_func.problems.problem import Problem

# TensorFlow's shape where it is not a permutation of ours: a row vector.
_ROW_VECTORS = {"theta": (1, DIM)}


def load(
    problem: Problem,
    variables: Sequence[np.ndarray],
    state_variables: Sequence[np.ndarray] = (),
    *,
    dtype: torch.dtype = torch.float32,
) -> tuple[Params, ModelState]:
    """Turns arrays in DeepOBS 1.1.2's order and TensorFlow's layout into parameters and state.

    Layouts: convolution kernels `(height, width, in, out)`, transposed convolution `(height, width, out, in)`, dense
    `(in, out)`, LSTM `(inputs + hidden, 4 hidden)` with gates i, j, f, o.

    Args:
        problem: whose variables they are.
        variables: the trainable ones, as `tf.trainable_variables()` lists them.
        state_variables: the others: moving mean and variance of each batch norm, or c, h of each LSTM layer; without
            them the state is that at the start of a run.
        dtype: of the result.

    Raises:
        DataError: there are too few or too many arrays, or one has another shape; the message names the variable.
    """
    params = _converted(problem.net, _parameters(problem.net), variables, "variable", dtype)
    _, state = problem.init(0, dtype=dtype)
    if not len(state_variables):
        return params, state
    moments = _moments(problem.net)
    if moments:
        return params, ModelState(
            {**state.moments, **_converted(problem.net, moments, state_variables, "state variable", dtype)}, {}
        )
    return params, ModelState(state.moments, _carry(problem, state_variables, dtype))


def save(problem: Problem, params: Params, state: ModelState) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The inverse of `load`: `(variables, state_variables)` in DeepOBS 1.1.2's order and TensorFlow's layout."""
    variables = [_to_tensorflow(problem.net, name, params[name]) for name in _parameters(problem.net)]
    moments = [_to_tensorflow(problem.net, name, state.moments[name]) for name in _moments(problem.net)]
    return variables, moments or [value.detach().cpu().numpy() for value in state.carry.values()]


def _parameters(net: nn.Module) -> Mapping[str, Tensor]:
    return dict(net.named_parameters())


def _moments(net: nn.Module) -> Mapping[str, Tensor]:
    """The buffers that are variables of the reference, which a problem's constants are not."""
    return {name: buffer for name, buffer in net.named_buffers() if _leaf(name) not in _layer(net, name).constants}


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _layer(net: nn.Module, name: str) -> Layer:
    layer = net.get_submodule(name.rpartition(".")[0])
    assert isinstance(layer, Layer)
    return layer


def _axes(net: nn.Module, name: str, rank: int) -> tuple[int, ...]:
    return _layer(net, name).tensorflow_axes.get(_leaf(name), tuple(range(rank)))


def _converted(
    net: nn.Module, declared: Mapping[str, Tensor], arrays: Sequence[np.ndarray], kind: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    if len(arrays) != len(declared):
        raise DataError(
            f"Expected {len(declared)} {kind}s ({', '.join(list(declared)[:3])}, ...), found {len(arrays)}."
        )
    return {
        name: _from_tensorflow(net, name, tensor, np.asarray(array), f"{kind} {index}").to(dtype)
        for index, ((name, tensor), array) in enumerate(zip(declared.items(), arrays, strict=True))
    }


def _from_tensorflow(net: nn.Module, name: str, declared: Tensor, array: np.ndarray, where: str) -> Tensor:
    axes = _axes(net, name, declared.ndim)
    expected = _ROW_VECTORS.get(_leaf(name)) or tuple(declared.shape[axes.index(axis)] for axis in range(declared.ndim))
    if array.shape != expected:
        raise DataError(f"{where} ({name}): expected the shape {expected}, found {array.shape}.")
    if _leaf(name) in _ROW_VECTORS:
        array = array.reshape(tuple(declared.shape))
    return torch.from_numpy(np.ascontiguousarray(array.transpose(axes)).reshape(tuple(declared.shape)))


def _to_tensorflow(net: nn.Module, name: str, tensor: Tensor) -> np.ndarray:
    array = tensor.detach().cpu().numpy().transpose(np.argsort(_axes(net, name, tensor.ndim)))
    return array.reshape(_ROW_VECTORS.get(_leaf(name), array.shape))


def _carry(problem: Problem, arrays: Sequence[np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
    """c, h of each layer, by the names that a forward pass writes."""
    names = list(problem.zero_carry(1))
    if len(arrays) != len(names):
        raise DataError(f"Expected {len(names)} state variables ({', '.join(names)}), found {len(arrays)}.")
    return {name: torch.from_numpy(np.asarray(array)).to(dtype) for name, array in zip(names, arrays, strict=True)}
