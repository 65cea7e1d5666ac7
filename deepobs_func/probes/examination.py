"""The examination of a loss: each way to its derivatives, compared with finite differences of its gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.func import jvp

from deepobs_func import tree
from deepobs_func.probes.catalog import MODES, HVPMode, Way
from deepobs_func.probes.differences import Differences, fault, gradient, raised
from deepobs_func.probes.jacobians import Tensors, hessian, sandwich
from deepobs_func.tree import Tree


def moved(point: Tree) -> Tree:
    """A random point nearby, where a net's derivatives are not zero for a reason of its initial values."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: leaf * (1 + 0.1 * _normal(leaf, generator)) + 0.01 * _normal(leaf, generator)
        for name, leaf in point.items()
    }


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def examine(
    losses: Callable[[Tree], Tensor],
    outputs: Callable[[Tree], Tensors],
    point: Tree,
    wanted: Iterable[Way] = (*MODES, "jvp", "vjp of vjp", "vmap"),
) -> dict[str, str]:
    """What is wrong with some ways to the derivatives of a loss at a point, by way.

    Args:
        losses: `params -> (B,)` or `()`.
        outputs: `params -> tensors` whose Jacobian is looked at; the losses themselves where nothing else is known.
        point: the parameters, in float64 if they can be.
        wanted: which ways; `"vmap"` means products with several vectors at once.

    Returns:
        The fault of each way that has one, as the end of a sentence.
    """
    mean = lambda p: losses(p).mean()
    direction = _direction(point)
    second = Differences(lambda p: gradient(mean, p), point, direction)
    faults: dict[Way, str | None] = {}
    chosen = list(dict.fromkeys(wanted))
    for mode in MODES:
        if mode in chosen:
            faults[mode] = fault(functools.partial(_hessian_product, mean, point, direction, mode), second)
    if {"jvp", "vjp of vjp"} & set(chosen):
        faults |= _faults_of_jacobian(outputs, point, direction, chosen)
    found: dict[str, str] = {way: text for way, text in faults.items() if text is not None}
    if "vmap" in chosen:
        right = [way for way in (*MODES, "jvp", "vjp of vjp") if way in chosen and way not in found]
        tried = [*right[:1], *(way for way in right[1:] if way not in MODES)]  # one mode, for the sake of time
        text = next(filter(None, (_fault_at_once(mean, outputs, point, direction, way) for way in tried)), None)
        found |= {} if text is None else {"vmap": text}
    return found


def _direction(point: Tree) -> Tree:
    generator = torch.Generator().manual_seed(1)
    return {name: _normal(leaf, generator) for name, leaf in point.items()}


def _faults_of_jacobian(
    outputs: Callable[[Tree], Tensors], point: Tree, direction: Tree, wanted: Sequence[Way]
) -> dict[Way, str | None]:
    """Faults of `J v` in forward mode and by two backward passes, each with what `sandwich` makes of it, `J^T J v`."""

    def plain(p: Tree) -> Tensors:
        with torch.enable_grad():  # what the net detaches is known by what records a gradient
            return outputs({name: leaf.detach().requires_grad_() for name, leaf in p.items()})

    first = Differences(plain, point, direction)
    once, kept = (_identity_sandwich(outputs, point, keep=keep) for keep in (False, True))
    try:
        pulled = [gradient(functools.partial(_inner_of, outputs, tangents), point) for tangents in first]
    except Exception as error:  # what a user's code raises
        return dict.fromkeys(("jvp", "vjp of vjp"), raised(error))
    faults: dict[Way, str | None] = {}
    if "jvp" in wanted:
        faults["jvp"] = fault(lambda: jvp(outputs, (point,), (direction,))[1], first) or fault(
            lambda: list(once(direction).values()), pulled, first.tolerance
        )
    if "vjp of vjp" in wanted:
        faults["vjp of vjp"] = fault(lambda: list(kept(direction).values()), pulled, first.tolerance)
    return faults


def _identity_sandwich(outputs: Callable[[Tree], Tensors], point: Tree, *, keep: bool) -> Callable[[Tree], Tree]:
    return lambda v: sandwich(outputs, point, lambda _: lambda tangents: tangents, keep=keep).product(v)


def _fault_at_once(
    mean: Callable[[Tree], Tensor],
    outputs: Callable[[Tree], Tensors],
    point: Tree,
    direction: Tree,
    way: Way,
) -> str | None:
    """What is wrong with two products at once by a way that is right for one."""
    product: Callable[[Tree], Tree] = (
        hessian(mean, point, way).product if way in MODES else _identity_sandwich(outputs, point, keep=way != "jvp")
    )
    two = tree.map(lambda leaf: torch.stack((leaf, 2 * leaf)), direction)
    alone = list(product(direction).values())
    return fault(lambda: [leaf[1] / 2 for leaf in torch.func.vmap(product)(two).values()], [alone], 1e-3)


def _hessian_product(mean: Callable[[Tree], Tensor], point: Tree, direction: Tree, mode: HVPMode) -> Tensors:
    return list(hessian(mean, point, mode)(direction).values())


def _inner_of(outputs: Callable[[Tree], Tensors], others: Tensors, point: Tree) -> Tensor:
    return _inner(outputs(point), others)


def _inner(parts: Tensors, others: Tensors) -> Tensor:
    return torch.stack([(part * other).sum() for part, other in zip(parts, others, strict=True)]).sum()
