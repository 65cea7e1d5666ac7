"""Calls of any module with other tensors: tied ones, and modules that are registered under several names.

`torch.func.functional_call` looks a module up by each of its names, puts each tensor in once for each of them and, in
the end, takes out what it put in first: a module of two names keeps the tensors of the call. Here each place has one
name.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

ONE_AT_A_TIME = threading.RLock()  # threads that share a net would find each other's tensors in it


def names_of(net: nn.Module) -> dict[int, str]:
    """The name of each of a module's tensors by its `id`; of a tied one the first."""
    names: dict[int, str] = {}
    for name, leaf in (*net.named_parameters(), *net.named_buffers()):
        names.setdefault(id(leaf), name)
    return names


def places_of(net: nn.Module) -> dict[str, str]:
    """The places of a module's tensors, each once, and the name of the tensor there.

    Args:
        net: any module. A copy of it has the same places.

    Returns:
        By the name of a place, that of the tensor in `named_parameters()` or `named_buffers()`: the first name of a
        tied one.

    >>> layer = nn.Linear(2, 2)
    >>> places_of(nn.ModuleDict({"a": layer, "b": layer}))
    {'a.weight': 'a.weight', 'a.bias': 'a.bias'}
    """
    names = names_of(net)
    return {
        f"{path}.{leaf}" if path else leaf: names[id(own)]
        for path, module in net.named_modules()
        for store in (module._parameters, module._buffers)
        for leaf, own in store.items()
        if own is not None
    }


def call_tied(
    net: nn.Module,
    places: Mapping[str, str],
    tensors: dict[str, Tensor],
    arguments: tuple[Any, ...],
    keywords: dict[str, Any] | None = None,
) -> Any:
    """`net(*arguments, **keywords)` with other tensors, after which the module has its own again.

    Args:
        net: a module.
        places: of its tensors, as `places_of` finds them.
        tensors: one for each name among the places.
        arguments, keywords: of the module.

    Raises:
        RuntimeError: a tensor is missing or unknown.
    """
    wanted = set(places.values())
    if len(tensors) != len(wanted) or any(name not in wanted for name in tensors):
        raise RuntimeError(
            f"The module's tensors are {sorted(wanted)}. Missing: {sorted(wanted - tensors.keys())}; unknown: "
            f"{sorted(tensors.keys() - wanted)}."
        )
    given = {place: tensors[name] for place, name in places.items()}
    if torch.compiler.is_compiling():  # which puts nothing into the net
        return functional_call(net, given, arguments, keywords, tie_weights=False)
    with ONE_AT_A_TIME:
        return functional_call(net, given, arguments, keywords, tie_weights=False)
