"""What a user's module consists of: trained parameters, constants, and a copy of it that holds no data."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from deepobs_func.errors import ConfigError
from deepobs_func.problems.modules import copied

Tensors = dict[str, Tensor]


class Description(NamedTuple):
    """A module, taken apart.

    Attributes:
        params: the parameters that are trained, `requires_grad=True`, by name; a tied one once.
        constants: the frozen parameters and the buffers, by name.
    """

    params: Tensors
    constants: Tensors

    @property
    def both(self) -> Tensors:
        """All of them."""
        return {**self.params, **self.constants}


def describe(module: nn.Module) -> Description:
    """Copies a module's tensors, once each.

    Raises:
        ConfigError: a tensor has no shape yet, parameters are complex or share memory, or none is trained.
    """
    named = dict(module.named_parameters())
    buffers = {name: tensor for name, tensor in module.named_buffers() if not _is_any_of(tensor, named)}
    lazy = [name for name, tensor in (*named.items(), *buffers.items()) if is_lazy(tensor)]
    if lazy:
        raise ConfigError(
            f"The module's {lazy} have no shape before its first call. Call the module once on a few examples, "
            "module(x[:2]), and then make the problem."
        )
    trained = {name: tensor for name, tensor in named.items() if tensor.requires_grad}
    if not trained:
        raise ConfigError("The module has no parameter to train: none has requires_grad=True.")
    wrong = [name for name, tensor in trained.items() if tensor.is_complex()]
    if wrong:
        raise ConfigError(
            f"The module's parameters {wrong} are complex; probes and optimizers are of real ones. Keep real and "
            "imaginary parts in a parameter (..., 2) and use torch.view_as_complex in the forward pass."
        )
    _check_memory(named, trained)
    frozen = {name: tensor for name, tensor in named.items() if name not in trained}
    params, constants = (
        {name: tensor.detach().clone() for name, tensor in tensors.items()} for tensors in (trained, frozen | buffers)
    )
    return Description(params, constants)


def on_meta(module: nn.Module) -> nn.Module:
    """A copy without data, in which tied tensors stay tied and frozen ones frozen.

    Raises:
        ConfigError: the module holds something that cannot be copied.
    """
    empty = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in module.buffers()}
    for parameter in module.parameters():
        bare = torch.empty_like(parameter, device="meta")
        empty[id(parameter)] = nn.Parameter(bare, requires_grad=parameter.requires_grad)
    return copied(module, dict(empty))


def _is_any_of(tensor: Tensor, named: Mapping[str, Tensor]) -> bool:
    return any(tensor is other for other in named.values())


def _check_memory(named: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    """Refuses different parameters over the same numbers, which a change of one would change too."""

    def extent(tensor: Tensor) -> tuple[int, int]:
        steps = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        return tensor.data_ptr(), tensor.data_ptr() + (steps + 1) * tensor.element_size()

    held = [(*extent(tensor), name) for name, tensor in named.items() if tensor.numel() and not tensor.is_meta]
    for (_, end, first), (start, _, second) in itertools.pairwise(sorted(held)):
        if start < end and (first in trained or second in trained):
            raise ConfigError(
                f"The module's parameters {first!r} and {second!r} are two that share memory, so a change of one "
                "changes the other. Tie them by one nn.Parameter under both names, or clone one of them."
            )
