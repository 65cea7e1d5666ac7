"""What a function does besides returning its result: numbers that it draws, tensors and attributes that it changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from deepobs_func.backend.generators import generators, restore
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
    before_all = generators()
    try:
        result = function()
        drew = [name for name, state in generators().items() if state != before_all[name]]
    finally:
        restore(before_all)
        if hook is not None:
            hook.remove()
    if drew:
        raise ConfigError(
            f"The {who} draws random numbers of its own{_where(net, function)}, from the generator of "
            f"{', '.join(drew)}, so the loss would be another function at each call. "
            + (
                "Use a layer whose draws are known, such as nn.Dropout or F.dropout; declare the draw by methods "
                "draw_noise(key, shape) and forward_with_noise(x, noise) of the layer; or call eval() on it."
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


def _where(net: nn.Module | None, function: Callable[[], Any]) -> str:
    """The innermost part of a module in whose call the generators move; nothing of the module itself."""
    if net is None:
        return ""
    before, began, found = generators(), dict[str, dict[str, bytes]](), list[tuple[str, nn.Module]]()
    hooks = []
    for path, part in net.named_modules():
        hooks.append(part.register_forward_pre_hook(lambda *_, path=path: began.update({path: generators()})))
        hooks.append(
            part.register_forward_hook(
                lambda part, *_, path=path: found.append((path, part)) if began[path] != generators() else None
            )
        )
    try:
        function()
    finally:
        restore(before)
        for hook in hooks:
            hook.remove()
    path, part = found[0] if found else ("", net)
    return f" in the layer {path!r} ({type(part).__name__})" if path else ""


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
            "computed before, and it is none of the layers of which this is known, such as nn.BatchNorm2d. Use one of "
            "these or a layer without running statistics (e.g. nn.GroupNorm), or call eval() on the layer."
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
