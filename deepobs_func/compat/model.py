"""A problem's net as the `nn.Module` that DeepOBS's users train."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from deepobs_func.base import ModelState, Params
from deepobs_func.compat.layers import Tensors, torch_layer, twin_of
from deepobs_func.errors import ConfigError
from deepobs_func.nets.layers import Layer, Pass
from deepobs_func.problems.problem import Problem


@dataclass(eq=False)
class Stream:
    """One pass over a loader.

    Attributes:
        carry: the recurrent state after its last batch, `(B, ...)` by name; empty means zeros.
    """

    carry: Tensors = field(default_factory=dict)


class Model(nn.Module):
    """The net of a problem, `x -> outputs`, out of torch's own layers, with parameters of its own.

    `train()` and `eval()` are the two phases: dropout draws from torch's generator, batch norm takes the statistics of
    the batch and moves its moments. The state of a recurrent net is carried from one call to the next, detached; a
    batch of another size starts from zeros, and so does every pass over a loader of the problem's data set.

    Its tensors have the names of the functional core, except for those that torch names otherwise (`running_mean`);
    `to_core` and `load_core` go from one to the other.

    Args:
        problem: whose net it is.
        params, state: the values that it starts from, which are copied.

    Attributes:
        stream: the pass over a loader that it is in.
    """

    def __init__(self, problem: Problem, params: Params, state: ModelState) -> None:
        super().__init__()
        self._problem, self._forward = problem, type(problem.net).forward
        self.stream: Stream = Stream()
        root = _converted(problem.net)
        for name, parameter in root.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in root.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, child in root.named_children():
            self.add_module(name, child)
        self.to_empty(device=next(iter(params.values())).device)
        self.to(next(iter(params.values())).dtype)
        self.load_core(params, state)

    def forward(self, x: Tensor) -> Any:
        carried = self.stream.carry
        if any(len(tensor) != len(x) for tensor in carried.values()):
            carried = {}
        p = Pass(self.training, {}, carried)
        outputs = self._forward(self, x, p)
        self.stream.carry = p.carry
        return outputs

    def to_core(self) -> tuple[Params, ModelState]:
        """Parameters and state for the functional core's problem; copies.

        Returns:
            `(params, state)`, as `Problem.init` returns them, in the order of the core.
        """
        return to_core(self._problem.net, self.state_dict(), self.stream.carry)

    def load_core(self, params: Params, state: ModelState) -> None:
        """Takes the values of the functional core's parameters and state, in place.

        Raises:
            ConfigError: a tensor is missing or unknown.
        """
        self.load_state_dict(from_core(self._problem.net, params, state))
        self.stream = Stream(dict(state.carry))


def to_core(net: nn.Module, state_dict: Mapping[str, Tensor], carry: Mapping[str, Tensor] = {}) -> Any:
    """The `state_dict` of a `Model` as the functional core's parameters and state; copies.

    Args:
        net: the core's, `problem.net`.
        state_dict: of the model.
        carry: the recurrent state, if there is one.

    Returns:
        `(params, ModelState(moments, carry))`.

    Raises:
        ConfigError: a tensor is missing or unknown.
    """
    found: Tensors = {}
    known = set()
    for path, layer in _layers(net):
        twin = twin_of(layer) if path else None
        mine = [name for name in state_dict if name.rpartition(".")[0] == path]
        own = {name.rpartition(".")[2]: state_dict[name].detach().clone() for name in mine}
        known |= set(mine)
        found |= _named(path, twin.to_core(own) if twin else own)
    params, moments = dict(net.named_parameters()), dict(net.named_buffers())
    _check(found, {**params, **moments}, set(state_dict) - known)
    carried = {name: tensor.detach().clone() for name, tensor in carry.items()}
    return {name: found[name] for name in params}, ModelState({name: found[name] for name in moments}, carried)


def from_core(net: nn.Module, params: Params, state: ModelState) -> Tensors:
    """The functional core's parameters and moments as the `state_dict` of a `Model`; the inverse of `to_core`.

    Args:
        net: the core's, `problem.net`.
        params, state: as `Problem.init` returns them.

    Returns:
        The `state_dict`.

    Raises:
        ConfigError: a tensor is missing or unknown.
    """
    given = {**params, **state.moments}
    _check(given, {**dict(net.named_parameters()), **dict(net.named_buffers())}, set())
    found: Tensors = {}
    for path, layer in _layers(net):
        own = {name: given[f"{path}.{name}".lstrip(".")].detach() for name in _leaves(layer)}
        found |= _named(path, twin_of(layer).to_torch(own) if path else own)
    return found


def _check(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], unknown: set[str]) -> None:
    missing, unknown = wanted.keys() - found.keys(), unknown | (found.keys() - wanted.keys())
    if missing or unknown:
        raise ConfigError(
            f"The tensors are not those of this problem's net: missing {sorted(missing)}, unknown {sorted(unknown)}."
        )


def _layers(net: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The layers that have tensors, by path; a net may be one itself, which no layer of torch's stands for."""
    for path, module in net.named_modules():
        if isinstance(module, Layer) and _leaves(module):
            yield path, module


def _leaves(layer: Layer) -> list[str]:
    own = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    return [name for name, _ in own]


def _named(path: str, tensors: Tensors) -> Tensors:
    return {f"{path}.{name}".lstrip("."): tensor for name, tensor in tensors.items()}


def _converted(net: nn.Module) -> nn.Module:
    """A copy with torch's layers below the root."""
    root = copy.deepcopy(net)
    for module in list(root.modules()):
        for name, child in module.named_children():
            if isinstance(child, Layer):
                setattr(module, name, torch_layer(child))
    return root
