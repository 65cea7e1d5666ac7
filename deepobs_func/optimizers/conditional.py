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
        return in_any_case(condition, change, value)
    if torch.compiler.is_compiling():
        return torch.cond(condition, change, lambda same: tree.map(torch.clone, same), (value,))
    return change(value) if bool(condition) else value


def in_any_case(condition: Tensor, change: Callable[[Tree], Tree], value: Tree) -> Tree:
    """The same as `only_if`, where the change is computed whether the condition holds or not.

    Args:
        condition, change, value: as of `only_if`.
    """
    return tree.map(lambda new, old: torch.where(condition, new, old), change(value), value)


def repeat_while(
    is_due: Callable[..., Tensor],
    change: Callable[..., tuple[Tensor, ...]],
    values: tuple[Tensor, ...],
    most: int,
) -> tuple[Tensor, ...]:
    """`values = change(*values)`, again and again while `is_due(*values)` holds, at most so many times.

    Eager code and a compiled graph (`torch.while_loop`) stop when it does not hold. Under `vmap`, which has no rule for
    that, every change is computed, and kept in the members for which it is due.

    Args:
        is_due: 0-d, boolean.
        change: to values of the same shapes and dtypes; pure.
        values: tensors, what it starts from.
        most: how many changes there are at most.
    """
    is_mapped = any(torch._C._functorch.is_batchedtensor(value) for value in values)
    if torch.compiler.is_compiling() and not is_mapped:
        count = torch.zeros_like(values[0], dtype=torch.int64)
        more = lambda count, *values: is_due(*values) & (count < most)
        again = lambda count, *values: (count + 1, *change(*values))
        return tuple(torch.while_loop(more, again, (count, *values))[1:])
    for _ in range(most):
        due = is_due(*values)
        if torch._C._functorch.is_batchedtensor(due):
            values = tuple([torch.where(due, new, old) for new, old in zip(change(*values), values, strict=True)])
        elif bool(due):
            values = change(*values)
        else:
            break
    return values
