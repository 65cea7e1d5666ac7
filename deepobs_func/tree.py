"""Arithmetic on `dict[str, Tensor]`: a vector space whose coordinates have names."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Tree = dict[str, Tensor]


def map(fn: Callable[..., Tensor], tree: Tree, *others: Tree) -> Tree:
    """Applies `fn` leaf by leaf.

    Args:
        fn: takes one tensor of every tree.
        tree: gives the keys and their order.
        others: trees with the same keys.

    Returns:
        A tree with the keys of `tree`.

    Raises:
        KeyError: another tree lacks a key, or has one more.
    """
    for other in others:
        if other.keys() != tree.keys():
            raise KeyError(f"Trees differ in the keys {sorted(other.keys() ^ tree.keys())}.")
    return {name: fn(leaf, *(other[name] for other in others)) for name, leaf in tree.items()}


def zeros_like(tree: Tree) -> Tree:
    """The zero vector of the tree's space."""
    return map(torch.zeros_like, tree)


def add(a: Tree, b: Tree) -> Tree:
    """`a + b`."""
    return map(torch.add, a, b)


def sub(a: Tree, b: Tree) -> Tree:
    """`a - b`."""
    return map(torch.sub, a, b)


def scale(factor: float | Tensor, tree: Tree) -> Tree:
    """`factor * tree`; the factor is a number or a 0-d tensor and does not change a leaf's dtype."""
    return map(lambda leaf: (factor * leaf).to(leaf.dtype), tree)


def add_scaled(a: Tree, sign: int, factor: Tensor, b: Tree) -> Tree:
    """`a + sign factor b`, in one pass over the memory.

    Args:
        a: the tree that decides the dtypes.
        sign: 1 or -1.
        factor: 0-d, of any floating-point type.
        b: a tree with the same keys.

    Returns:
        A tree like `a`.
    """
    if not can_go_together(a):
        return map(lambda p, q: torch.addcmul(p, q, factor.to(p.dtype), value=sign), a, b)
    leaves, others, factors = list(a.values()), [b[name] for name in a], dict[torch.dtype, Tensor]()
    for leaf in leaves:
        if leaf.dtype not in factors:
            factors[leaf.dtype] = factor.to(leaf.dtype)
    sums = torch._foreach_addcmul(leaves, others, [factors[leaf.dtype] for leaf in leaves], value=sign)
    return dict(zip(a, sums, strict=True))


def can_go_together(tree: Tree) -> bool:
    """Whether torch's functions of lists of tensors serve: in eager code, outside of every transform.

    A call for all leaves takes the Python time of one.

    Returns:
        False for an empty tree too.
    """
    return len(tree) > 0 and not (
        torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is not None
    )


def dot(a: Tree, b: Tree) -> Tensor:
    """The inner product of the trees a and b, `sum_k <a_k, b_k>`, a 0-d tensor; 0 for empty trees."""
    terms = [term.sum() for term in map(torch.mul, a, b).values()]
    return functools.reduce(torch.add, terms) if terms else torch.zeros(())


def norm(tree: Tree) -> Tensor:
    """The Euclidean norm over all leaves, a 0-d tensor."""
    return dot(tree, tree).sqrt()


def size(tree: Tree) -> int:
    """The number of coordinates."""
    return sum(leaf.numel() for leaf in tree.values())


def flatten(tree: Tree) -> Tensor:
    """The tree as one vector, `(P,)`, leaf after leaf in the tree's order."""
    return torch.cat([leaf.flatten() for leaf in tree.values()])


def unflatten(vector: Tensor, like: Tree) -> Tree:
    """The inverse of `flatten`: the entries of `vector (P,)` in the shapes of `like`."""
    parts = vector.split([leaf.numel() for leaf in like.values()])
    return {name: part.reshape(leaf.shape) for (name, leaf), part in zip(like.items(), parts, strict=True)}


def joined(**parts: Tree) -> Tree:
    """Several trees as one, whose keys are `"part key"`.

    Args:
        parts: trees by the names of their parts, in which there is no space; a tree may be empty.

    Returns:
        One tree of all leaves, which are not copied.

    >>> list(joined(mean={"w": torch.ones(2)}, square={"w": torch.ones(2)}))
    ['mean w', 'square w']
    """
    return {f"{part} {name}": leaf for part, tree in parts.items() for name, leaf in tree.items()}


def parted(whole: Tree, *parts: str) -> tuple[Tree, ...]:
    """The inverse of `joined`.

    Args:
        whole: what `joined` made.
        parts: the names of all its parts, and of empty ones.

    Returns:
        The tree of each part, in the order of the names.

    Raises:
        KeyError: the whole has another part.

    >>> parted({"mean w": torch.ones(2)}, "mean", "square")
    ({'w': tensor([1., 1.])}, {})
    """
    found: dict[str, Tree] = {part: {} for part in parts}
    for name, leaf in whole.items():
        part, _, own = name.partition(" ")
        found[part][own] = leaf
    return tuple(found.values())
