"""A problem's net as an ordinary `nn.Module` that holds its parameters: the reverse of `from_module`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from deepobs_func.base import Batch, Params
from deepobs_func.nets.layers import Layer, Pass

Call = Callable[[nn.Module, dict[str, Tensor], Tensor, Pass], Any]


class ProblemModule(nn.Module):
    """The training-phase outputs of a net at given parameters, `Batch -> outputs`.

    Dense layers and convolutions are torch's own, so that libraries that look for them by class, such as KFAC of
    curvlinops, find them and can hook into them. Noise, moments and recurrent state come from the batch.

    Args:
        net: the net that describes the shapes; it is not touched.
        call: how it is called, as `Problem.call`.
        params: its values; the module shares their memory.
    """

    def __init__(self, net: nn.Module, call: Call, params: Params) -> None:
        super().__init__()
        memo: dict[int, Any] = {
            id(parameter): nn.Parameter(params[name].detach())
            for name, parameter in net.named_parameters()
            if name in params  # the frozen ones are among the moments
        }
        self.net, self._call = copy.deepcopy(net, memo), call
        for module in list(self.net.modules()):
            for name, child in module.named_children():
                stock = child.stock() if isinstance(child, Layer) else None
                if stock is not None:
                    stock.register_forward_pre_hook(lambda _, arguments: arguments[:1])  # the pass stays outside
                    for leaf, parameter in child.named_parameters():
                        setattr(stock, leaf, parameter)
                    setattr(module, name, stock)

    def forward(self, batch: Batch) -> Any:
        tensors = {**dict(self.net.named_parameters()), **batch.state.moments}
        p = Pass(True, batch.noise, batch.state.carry)
        return self._call(self.net, tensors, batch.x, p)
