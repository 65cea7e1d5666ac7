"""Whether code runs as it stands, and which transforms look on."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether a compiler or a transform of `torch.func` looks on, so that tensors have no values of their own."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None


def forward_levels() -> int:
    """How many transforms in forward mode are under way, one inside of the other."""
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return sum(level.key() == torch._C._functorch.TransformType.Jvp for level in levels)
