"""Work that is done in some steps only, inside a step that is one function."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from deepobs_func import tree
from deepobs_func.tree import Tree


def only_if(condition: Tensor, change: Callable[[Tree], Tree], value: Tree) -> Tree:
    """`change(value)` where the condition holds, the value itself where it does not, and then at no cost.

    Eager code looks at the condition. A compiled graph has both branches, of which it runs one (`torch.cond`). Under
    `vmap`, a condition that differs from member to member has `change` computed in every step.

    Args:
        condition: 0-d, boolean.
        change: `tree -> tree` of the same shapes and dtypes; pure.
        value: what it changes.
    """
    if torch._C._functorch.is_batchedtensor(condition):
        return tree.map(lambda new, old: torch.where(condition, new, old), change(value), value)
    if torch.compiler.is_compiling():
        return torch.cond(condition, change, lambda same: tree.map(torch.clone, same), (value,))
    return change(value) if bool(condition) else value
