"""What a function does besides returning its result: numbers that it draws, tensors and attributes that it changes."""

from __future__ import annotations

import pickle
import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from deepobs_func.errors import ConfigError

Result = TypeVar("Result")
Tensors = dict[str, Tensor]

DATA = ("inputs ", "targets ", "outputs ")  # begin the names of what is no tensor of a module


def watched(
    who: str, function: Callable[[], Result], given: Tensors, params: Iterable[str], net: nn.Module | None = None
) -> Result:
    """Calls a function; the global random generators are as before afterwards.

    Args:
        who: what it is, for messages: the module, the criterion or the correct function.
        function: is called once.
        given: the tensors that it reads: its parameters and buffers by their names; inputs, targets and outputs under
            names that begin with `DATA`.
        params: the names of those that are parameters.
        net: the module, where it calls one through `functional_call` at tensors of `given`.

    Raises:
        ConfigError: it draws from a global generator, or changes or replaces a tensor. What it raises itself comes
            through.
    """
    before = {name: (tensor._version, tensor.detach().clone()) for name, tensor in given.items()}
    rebound: list[str] = []
    hook = None if net is None else net.register_forward_hook(lambda net, *_: rebound.extend(_foreign(net, given)))
    generators = _generators()
    try:
        result = function()
        drew = [name for name, state in _generators().items() if state != generators[name]]
    finally:
        _restore(generators)
        if hook is not None:
            hook.remove()
    if drew:
        raise ConfigError(
            f"The {who} draws random numbers of its own, from the generator of {', '.join(drew)}, so the loss would be "
            "another function at each call. "
            + (
                "Call module.eval() first, or leave out layers such as nn.Dropout."
                if who == "module"
                else "Leave them out, or draw them once and keep them."
            )
        )
    changed = [
        name
        for name, (version, value) in before.items()
        if given[name]._version != version or not is_same(value, given[name])
    ]
    _check_changed(who, changed, rebound, set(params))
    return result


def _check_changed(who: str, changed: list[str], rebound: list[str], params: set[str]) -> None:
    """Refuses what was changed in place, or replaced."""
    weights = [name for name in changed if name in params]
    if weights:
        raise ConfigError(
            f"The {who} changes its parameters {weights} in place in a forward pass, as nn.Embedding does with "
            "max_norm. Parameters are changed by the optimizer alone: leave it out, or compute with a changed copy."
        )
    data = [name for name in changed if name.startswith(DATA)]
    if data:
        raise ConfigError(
            f"The {who} changes {' and '.join(data)}, which it is given, in place; others read it after it. Let it "
            "work on a copy: inplace=False in the first layer, x.clone(), a - b instead of a.sub_(b)."
        )
    if changed:
        raise ConfigError(
            f"The {who} changes its buffers {changed} in a forward pass, so its loss would depend on what was "
            "computed before. Call module.eval() first, or use a layer without running statistics (e.g. GroupNorm)."
        )
    if rebound:
        raise ConfigError(
            f"The {who} puts new tensors in the place of its parameters or buffers {sorted(set(rebound))} in a forward "
            "pass; they would be lost after it. Call module.eval() first, or compute with local variables."
        )


def _foreign(net: nn.Module, given: Tensors) -> list[str]:
    """The names of a module's tensors that are none of the given ones, and of given ones that it has no more."""
    named = dict((*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)))
    known = {id(tensor) for tensor in given.values()}
    new = [name for name, tensor in named.items() if id(tensor) not in known]
    return new + [name for name in given if name not in named and not name.startswith(DATA)]


def is_same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers, NaN counting as one."""
    if a.shape != b.shape:
        return False
    real = a.is_floating_point() or a.is_complex()
    return torch.equal(a, b) or (real and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def attributes(net: nn.Module) -> dict[str, Any]:
    """The attributes of a module and its parts that count or collect: plain values, and lengths of containers."""
    found: dict[str, Any] = {}
    for path, part in net.named_modules():
        for name, value in vars(part).items():
            if isinstance(value, bool | int | float | str | None):
                found[f"{path}.{name}".lstrip(".")] = repr(value)
            elif isinstance(value, list | dict | set | deque):
                found[f"{path}.{name}".lstrip(".")] = len(value)
    return found


def _generators() -> dict[str, bytes]:
    """The states of the global generators."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": pickle.dumps(np.random.get_state(legacy=False)),
        "Python": pickle.dumps(random.getstate()),
    }


def _restore(states: dict[str, bytes]) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(states["torch"]), dtype=torch.uint8))
    np.random.set_state(pickle.loads(states["NumPy"]))
    random.setstate(pickle.loads(states["Python"]))
