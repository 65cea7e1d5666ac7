"""A problem's net as an `nn.Sequential` of torch's own layers, as libraries that know layers by their class want it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from backpack.custom_module.permute import Permute  # a permutation that BackPACK knows; to the others it is any module
from torch import Tensor, fx, nn

from deepobs_func.base import Batch, Params
from deepobs_func.nets.images import flatten, max_pool, pad_fully, same_padding
from deepobs_func.nets.layers import Conv, Dense, Layer
from deepobs_func.nets.noise import Noise
from deepobs_func.problems.problem import Problem


class Equivalent(NamedTuple):
    """A net that computes a problem's outputs from `batch.x`, where the batch has no noise.

    Attributes:
        net: the net, on the parameters' memory.
        by_name: its parameters under the problem's names, in the problem's order.
    """

    net: nn.Sequential
    by_name: dict[str, nn.Parameter]


class _Tracer(fx.Tracer):
    """Stops at this package's layers and at the three functions that go by the shape of their input."""

    def __init__(self) -> None:
        super().__init__(autowrap_functions=(flatten, max_pool, pad_fully))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Layer)


def equivalent(problem: Problem, params: Params, batch: Batch) -> Equivalent:
    """Writes the net of a problem out, if it is a chain of layers; dropout is left out.

    Args:
        problem: a net of dense layers, convolutions, asymmetric paddings, ReLUs, max pools before them, flattenings and
            means over space.
        params: what the new net holds.
        batch: for the shape of an example.

    Raises:
        ValueError: the net does something else.
    """
    parts: list[nn.Module] = []
    held: dict[str, nn.Parameter] = {}
    x = torch.empty(1, *batch.x.shape[1:], device="meta")
    for node in _Tracer().trace(problem.net).nodes:
        if node.op in ("placeholder", "output"):
            continue
        for part in _parts(problem.net, node, x):
            x = part(x)
            held |= _hold(part, str(node.target), params)
            parts.append(part)
    return Equivalent(nn.Sequential(*parts), {name: held[name] for name in params})


def _hold(layer: nn.Module, path: str, params: Params) -> dict[str, nn.Parameter]:
    """Puts the parameters of the problem's layer at a path into torch's, if it has any."""
    held = {}
    for leaf, _ in list(layer.named_parameters()):
        held[f"{path}.{leaf}"] = nn.Parameter(params[f"{path}.{leaf}"].detach())
        setattr(layer, leaf, held[f"{path}.{leaf}"])
    return held


def _parts(net: nn.Module, node: fx.Node, x: Tensor) -> list[nn.Module]:
    """Torch's layers for one operation of a net on an input of the shape of `x`."""
    if node.op == "call_module":
        return _of_layer(net.get_submodule(str(node.target)), x)
    if node.target is torch.relu:
        return [nn.ReLU()]
    if node.target is flatten:  # in the order of TensorFlow: height, width, channels
        return [*([Permute(0, 2, 3, 1)] if x.shape[1] > 1 else []), nn.Flatten()]
    if node.target is pad_fully:
        return _same(x, *node.args[1:])[1]
    if node.target is max_pool and all(user.target is torch.relu for user in node.users):  # so that zeros may pad
        kernel, stride = node.args[1:]
        padding, outside = _same(x, (kernel, kernel), stride)
        return [*outside, nn.MaxPool2d(kernel, stride, padding)]
    if node.target == "mean" and node.args[1] == (2, 3):
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    raise ValueError(f"No part of an nn.Sequential is known for {node.format_node()}.")


def _of_layer(layer: nn.Module, x: Tensor) -> list[nn.Module]:
    if isinstance(layer, Noise):
        return []
    if isinstance(layer, Dense):
        return [nn.Linear(x.shape[1], len(layer.bias), device="meta")]
    if isinstance(layer, Conv) and layer.bias is not None:
        padding, outside = _same(x, layer.kernel, layer.stride) if layer.padding == "same" else ((0, 0), [])
        channels = len(layer.weight)
        conv = nn.Conv2d(x.shape[1], channels, layer.kernel, layer.stride, padding, device="meta")
        return [*outside, conv]
    raise ValueError(f"No part of an nn.Sequential is known for {type(layer).__name__}.")


def _same(x: Tensor, kernel: tuple[int, int], stride: int) -> tuple[tuple[int, int], list[nn.Module]]:
    """TensorFlow's padding, left to the layer where it is symmetric, else in a layer before it."""
    (top, bottom), (left, right) = (same_padding(n, k, stride) for n, k in zip(x.shape[2:], kernel, strict=True))
    if top == bottom and left == right:
        return (top, left), []
    return (0, 0), [nn.ZeroPad2d((left, right, top, bottom))]
