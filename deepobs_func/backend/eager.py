"""Whether code runs as it stands."""

from __future__ import annotations

import torch


def is_traced() -> bool:
    """Whether a compiler or a transform of `torch.func` looks on, so that tensors have no values of their own."""
    return torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
