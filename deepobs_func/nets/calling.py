"""Calls of a net that describes shapes, with the tensors that it computes with.

`torch.func.functional_call` looks for tied tensors and checks names anew at every call: 60 microseconds, a fifth of a
short step. Eager code of this package's nets, which tie nothing, finds the places of the tensors once.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from deepobs_func.nets.ties import ONE_AT_A_TIME

_PLACES: WeakKeyDictionary[nn.Module, dict[str, tuple[dict[str, Any], str]]] = WeakKeyDictionary()


def call(net: nn.Module, tensors: dict[str, Tensor], arguments: tuple[Any, ...]) -> Any:
    """`functional_call(net, tensors, arguments, strict=True)` of a net without tied tensors.

    Args:
        net: on the meta device; its own tensors are hidden meanwhile.
        tensors: one for each of its parameters and buffers.
        arguments: of the net.

    Raises:
        RuntimeError: a tensor is missing or unknown.
    """
    if torch.compiler.is_compiling():  # which knows functional_call
        return functional_call(net, tensors, arguments, strict=True)
    places = _PLACES.get(net) or _found(net)
    if tensors.keys() != places.keys():
        return functional_call(net, tensors, arguments, strict=True)  # which says what is wrong
    with ONE_AT_A_TIME:
        try:
            for name, tensor in tensors.items():
                attributes, leaf = places[name]
                attributes[leaf] = tensor
            return net(*arguments)
        finally:
            for attributes, leaf in places.values():
                attributes.pop(leaf, None)


class _Places(dict[str, tuple[dict[str, Any], str]]):
    """The place of each tensor, by its name. They are not copied with a net: a copy finds its own."""

    def __reduce__(self) -> Any:
        return type(None), ()


def _found(net: nn.Module) -> _Places:
    """Where each tensor of the net goes: a module's own attributes, which hide its parameters, and the name there.

    Python finds it there at once; a module's parameter is found by `__getattr__`, after all else.
    """
    places = _Places()
    for path, module in net.named_modules():
        for store in (module._parameters, module._buffers):
            for leaf, own in store.items():
                if own is not None:
                    places[f"{path}.{leaf}" if path else leaf] = (module.__dict__, leaf)
    _PLACES[net] = places
    return places
