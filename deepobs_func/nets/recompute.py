"""Activation checkpointing: a block of a net keeps its input alone, and is computed anew in the backward pass."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from deepobs_func.nets.calling import call

if TYPE_CHECKING:
    from deepobs_func.nets.layers import Pass


def recomputed(block: nn.Module, x: Tensor, p: Pass) -> Tensor:
    """`block(x, p)`, of which the backward pass finds input and parameters, and computes the rest anew.

    What the block writes down in the pass is written by the first computation; the second one, whose numbers are the
    same, bit for bit, has a pass of its own. It goes through `torch.autograd`, and through none of torch.func's
    transforms, which refuse hooks on what is saved.

    Args:
        block: a part of a net that is being called, so that it has its tensors.
        x: its input.
        p: the pass.

    Returns:
        Its output.

    Source: Chen et al., "Training deep nets with sublinear memory cost", 2016; `torch.utils.checkpoint`.
    """
    from torch.utils.checkpoint import checkpoint

    names, leaves = _tensors(block)
    again = dataclasses.replace(p, moments={}, batch_moments={}, carry={}, calls=dict(p.calls))
    is_first = True

    def function(x: Tensor, *leaves: Tensor) -> Any:
        nonlocal is_first
        if is_first:
            is_first = False
            return block(x, p)
        return call(block, dict(zip(names, leaves, strict=True)), (x, again))

    found: Tensor = checkpoint(function, x, *leaves, use_reentrant=False, preserve_rng_state=False)
    return found


def _tensors(block: nn.Module) -> tuple[list[str], list[Tensor]]:
    """The tensors that a block has in this call, by name."""
    found: dict[str, Tensor] = {}
    for path, module in block.named_modules():
        for store in (module._parameters, module._buffers):
            for leaf, own in store.items():
                if own is not None:
                    found[f"{path}.{leaf}" if path else leaf] = getattr(module, leaf)
    return list(found), list(found.values())
