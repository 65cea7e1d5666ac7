"""Which ways to a derivative of a loss are right: each is compared with finite differences where code is foreign.

torch has operations whose forward-mode or second-order formula is not the derivative of their forward pass, and others
that have none. A problem of this package's own offers every way. One that is made from a user's module is examined
when it is made, a plain loss when a probe first takes a way through it; a way that is wrong is not offered.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import CellType
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func.backend.eager import is_traced
from deepobs_func.base import BATCH_DIMS, Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import MODES, Way
from deepobs_func.probes.contract import loss_of, mean_loss_of
from deepobs_func.probes.differences import gradient, nodes
from deepobs_func.probes.examination import examine
from deepobs_func.probes.known import RIGHT
from deepobs_func.probes.many import sliced
from deepobs_func.tree import Tree


@dataclass(frozen=True)
class Ways:
    """The ways that are not right, and why.

    Attributes:
        faults: what is wrong with a way, by its name.
        where: the layer that it is wrong through, or another part of the problem, for messages.
    """

    faults: Mapping[str, str] = field(default_factory=dict)
    where: str = "the loss"

    def offers(self, way: Way) -> bool:
        """Whether a way is right."""
        return way not in self.faults

    def first(self, wanted: Sequence[Way], purpose: str) -> Way:
        """The first of some ways that is right.

        Raises:
            ConfigError: none of them is.
        """
        for way in wanted:
            if way not in self.faults:
                return way
        faults = "; ".join(f"{way} {self.faults[way]}" for way in wanted)
        right = [mode for mode in MODES if mode not in self.faults]
        mend = (
            f"Use mode={right[0]!r}"
            if right and wanted[0] in MODES
            else "Compute the layer by operations that have this derivative (a torch.autograd.Function needs "
            "setup_context, a differentiable backward, jvp and vmap), or use a probe of first derivatives alone"
        )
        raise ConfigError(f"{purpose}: torch has no right derivative through {self.where}: {faults}. {mend}.")


ALL = Ways()
"""Every way is right, as a test has it of this package's own problems."""


def known(subject: Any) -> Ways:
    """The ways of a problem, or of the problem whose method the subject is; all of them where nothing is known."""
    found = getattr(getattr(subject, "__self__", subject), "ways", ALL)
    return found if isinstance(found, Ways) else ALL


def choose(subject: Any, params: Params, batch: Any, wanted: Sequence[Way], purpose: str) -> Way:
    """The first of some ways that is right for a subject, looked up for a problem, tried out for a plain loss.

    Raises:
        ConfigError: none of them is.
    """
    if hasattr(getattr(subject, "__self__", subject), "ways"):
        return known(subject).first(wanted, purpose)
    faults: dict[str, str] = {}
    for way in wanted:
        find = functools.partial(_fault_of_plain, subject, params, batch, [way], way)
        fault = of_plain(subject, params, way, find)
        if fault is None:
            return way
        faults[way] = fault
    return Ways(faults).first(wanted, purpose)


def at_once(subject: Any, params: Params, batch: Any, way: Way) -> bool:
    """Whether products with several vectors go through `vmap`."""
    if hasattr(getattr(subject, "__self__", subject), "ways"):
        return known(subject).offers("vmap")
    find = functools.partial(_fault_of_plain, subject, params, batch, [way, "vmap"], "vmap")
    return of_plain(subject, params, f"vmap of {way}", find) is None


_FOUND: OrderedDict[Any, str | None] = OrderedDict()
KEPT = 512  # of what was found of plain losses


def of_plain(loss: Any, params: Params, way: str, find: Callable[[], str | None]) -> str | None:
    """The fault of a way through a plain loss, found once for each loss and shapes of parameters.

    Under a transform and in a compiled graph there are no values to compare, and a way is taken to be right.
    """
    if is_traced():
        return None
    key = (way, _identity(loss), tuple((name, leaf.shape, leaf.dtype) for name, leaf in params.items()))
    if key not in _FOUND:
        _FOUND[key] = find()
        while len(_FOUND) > KEPT:
            _FOUND.popitem(last=False)
    return _FOUND[key]


def _identity(function: Any) -> Any:
    """What makes two functions the same: their code, and what they close over."""
    if isinstance(function, functools.partial):
        return _identity(function.func), tuple(map(id, function.args)), tuple(map(id, function.keywords.values()))
    plain = getattr(function, "__func__", function)
    cells = getattr(plain, "__closure__", None) or ()
    closed = tuple(id(cell.cell_contents) for cell in cells if cell != _EMPTY)
    return getattr(plain, "__code__", plain), closed, id(getattr(function, "__self__", None))


_EMPTY = CellType()


def _fault_of_plain(subject: Any, params: Params, batch: Any, wanted: Sequence[Way], way: Way) -> str | None:
    """The fault of one of some ways through a plain loss, in float64 where it can be computed in it."""
    fewer = sliced(batch, BATCH_DIMS, slice(0, FEW)) if isinstance(batch, Batch) else batch
    for point, data in ((_double(params), _double(fewer)), (params, fewer), (params, batch)):
        plain: Tree = {name: leaf.detach() for name, leaf in point.items()}
        losses = loss_of(subject, data)
        try:
            gradient(mean_loss_of(subject, data), plain)
        except Exception:  # a user's code, on data of another type or size
            continue
        leaves: Tree = {name: leaf.clone().requires_grad_() for name, leaf in plain.items()}
        if "vmap" not in wanted and nodes(losses(leaves).mean()) <= RIGHT:
            return None
        return examine(losses, _listed(losses), plain, wanted).get(way)
    return None  # the loss itself fails, as it will where it is asked


def _listed(losses: Callable[[Tree], Tensor]) -> Callable[[Tree], list[Tensor]]:
    return lambda p: [losses(p)]


FEW = 8  # examples that a plain loss is tried out on, where they can be told


def _double(values: Any) -> Any:
    wide = lambda leaf: leaf.double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf
    return pytree.tree_map(wide, values)
