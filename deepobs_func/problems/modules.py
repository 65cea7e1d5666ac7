"""A problem's net as an ordinary `nn.Module` that holds its parameters: the reverse of `from_module`."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func.base import Batch, Inputs, Params
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Layer, Pass

Call = Callable[[nn.Module, dict[str, Tensor], Inputs, Pass], Any]


def copied(module: nn.Module, replaced: dict[int, Any]) -> nn.Module:
    """A deep copy of a module.

    Args:
        module: is not touched. Tensors with a graph, which torch does not copy, are copied as leaves that require a
            gradient: those that a layer computed and keeps beside its parameters and buffers.
        replaced: what stands for an object in the copy, by its `id`.

    Raises:
        ConfigError: the module holds something that cannot be copied.
    """
    memo = dict(replaced)
    for tensor in held_tensors(module).values():
        if tensor.grad_fn is not None and id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone().requires_grad_()
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"{type(module).__name__} cannot be copied: {error}{_uncopied(module, memo)}. A problem copies its module, "
            "which is not touched; hold nothing in it that copy.deepcopy does not copy, such as an open file or a lock."
        ) from error


def _uncopied(module: nn.Module, memo: dict[int, Any]) -> str:
    """The attribute that cannot be copied, and of which layer, for a message."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            try:
                copy.deepcopy(value, dict(memo))
            except (TypeError, RuntimeError, AttributeError):
                owner = f" of the layer {path!r} ({type(part).__name__})" if path else ""
                return f", which is in the attribute {name!r}{owner}"
    return ""


def held_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The tensors that a module and its parts hold as attributes, or in containers, without registering them."""
    registered = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    found = {}
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in ("_parameters", "_buffers", "_modules"):
                continue
            for leaf in pytree.tree_leaves(value):
                if isinstance(leaf, Tensor) and id(leaf) not in registered:
                    found[f"{path}.{name}".lstrip(".")] = leaf
    return found


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
        self.net: nn.Module = copied(net, memo)
        self._call = call
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
