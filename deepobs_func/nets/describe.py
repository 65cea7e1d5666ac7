"""What a net is, found once: shapes, the layers that draw, those that know their per-example gradients, batch norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from deepobs_func.base import Inputs, map_inputs
from deepobs_func.nets.layers import Layer, Pass, name_layers
from deepobs_func.nets.noise import Noise, Place

Call = Callable[[nn.Module, dict[str, Tensor], Inputs, Pass], Any]


@dataclass(frozen=True, eq=False)
class Description:
    """A net, described.

    Attributes:
        net: on the meta device: shapes and no data.
        noises: what reads a draw from the batch, by the name of their entry in `batch.noise`.
        shapes: of the trained parameters, by name. Frozen ones (`requires_grad=False`) are among the moments of the
            model state.
        layers: the layers that know their per-example gradients (`Layer.factors`), in the order of a pass, by path;
            with the shape of one example's output. One that is called twice is left out: its gradients would need both.
        normalizes: whether the net has batch norm.
        of: what made the net, how it is called, and the shape of an example.
    """

    net: nn.Module
    noises: dict[str, Noise | Place]
    shapes: dict[str, torch.Size]
    layers: dict[str, tuple[Layer, torch.Size]]
    normalizes: bool
    of: tuple[Any, Any, Any]

    @property
    def remembers(self) -> bool:
        """Whether it has moments: buffers and frozen parameters."""
        frozen = any(not parameter.requires_grad for parameter in self.net.parameters())
        return frozen or any(True for _ in self.net.buffers())

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """The trained parameters, on the meta device."""
        return {name: parameter for name, parameter in self.net.named_parameters() if parameter.requires_grad}


def describe(call: Call, make_net: Callable[[], nn.Module], shape: Any, x: Callable[[], Inputs]) -> Description:
    """Describes a net.

    Args:
        call: how the net is called.
        make_net: makes it.
        shape: of one example.
        x: makes an input of two examples, of which the shape counts; asked for where the net has layers to listen to.
    """
    net = name_layers(make_net())
    modules = dict(net.named_modules())
    trained = {name: parameter for name, parameter in net.named_parameters() if parameter.requires_grad}
    return Description(
        net=net,
        noises={path: module for path, module in modules.items() if isinstance(module, Noise)},
        shapes={name: parameter.shape for name, parameter in trained.items()},
        layers=_heard(net, call, x) if any(isinstance(module, Layer) for module in modules.values()) else {},
        normalizes=any(isinstance(module, Layer) and module.normalizes for module in modules.values()),
        of=(make_net, call, shape),
    )


def _heard(net: nn.Module, call: Call, x: Callable[[], Inputs]) -> dict[str, tuple[Layer, torch.Size]]:
    """Sends shapes through the net, and listens."""
    heard: dict[str, tuple[Layer, torch.Size]] = {}
    twice = set()

    def tap(layer: Layer, x: Tensor, y: Tensor) -> Tensor:
        if layer.path in heard:
            twice.add(layer.path)
        heard[layer.path] = layer, y.shape[1:]
        return y

    tensors = dict((*net.named_parameters(), *net.named_buffers()))
    call(net, tensors, map_inputs(lambda leaf: leaf.to("meta"), x()), Pass(True, {}, {}, tap=tap))
    return {path: found for path, found in heard.items() if path not in twice}
