"""Statistics of per-example gradients, one layer at a time: from factors, or from the gradients themselves.

The gradient of a weight that multiplies is a sum of outer products, `G_b = R_b C_b^T` with `R_b (m, T)` and
`C_b (n, T)`; T is 1 for a dense layer, the number of positions for a convolution, of steps for a recurrent layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from deepobs_func.backend.eager import is_traced
from deepobs_func.base import Outer

Statistic = Literal["grads", "grad", "sum_of_squares", "scatter", "sq_norms", "gram"]
"""Of per-example gradients: themselves, `(B, *shape)`; their sum; the sum of their squares, and of those of their
deviations from the mean; squared norms, `(B,)`; Gram matrix, `(B, B)`."""

STATISTICS: tuple[Statistic, ...] = ("grads", "grad", "sum_of_squares", "scatter", "sq_norms", "gram")
SUMMED: tuple[Statistic, ...] = ("sq_norms", "gram")  # over the parameters; the others are trees
CANCELS = 1e-3  # of the sum of squares: a scatter below it has lost digits in float32
THIN, FUSED = 16, 2**20  # rows and multiplications, at most, of sums that are faster as one compiled loop
CACHE = 3 * 2**20  # of factors and gradients: the fastest of 1 to 160 MiB for most convolutions of our nets
Found = dict[Statistic, Tensor]


class Layer(Protocol):
    """What is asked of a layer: the per-example gradients of its parameters, from its input and output gradient."""

    def factors(self, x: Tensor, g: Tensor) -> Mapping[str, Outer | Tensor]:
        """For each parameter, its factors, or the gradients themselves, `(B, *shape)`."""


def of_layer(
    layer: Layer, x: Tensor, g: Tensor, shapes: Mapping[str, Sequence[int]], wanted: Iterable[Statistic], max_bytes: int
) -> dict[str, Found]:
    """The statistics of a layer's parameters.

    Args:
        layer: whose they are.
        x: its input, `(B, ...)`.
        g: the gradient of each example's loss by its output, `(B, ...)`.
        shapes: of its parameters, by name.
        wanted: which statistics.
        max_bytes: of what is computed at once; more goes in chunks of examples.
    """
    wanted = set(wanted)
    chunk = _examples_at_once(layer, x, g, wanted, max_bytes)
    if chunk >= len(x):
        return {name: _of(found, shapes[name], wanted) for name, found in layer.factors(x, g).items()}
    joined = {name: Joined(wanted) for name in shapes}
    for piece in zip(x.split(chunk), g.split(chunk), strict=True):
        for name, found in layer.factors(*piece).items():
            joined[name].add(_of(found, shapes[name], of_a_chunk(wanted)), len(piece[0]))
    return {name: each.result() for name, each in joined.items()}


def _examples_at_once(layer: Layer, x: Tensor, g: Tensor, wanted: set[Statistic], max_bytes: int) -> int:
    """How many: what is computed of them and dropped again stays in a CPU's cache. Where all gradients are held, half.

    (A convolution's gradients take three times their own size while they are computed.)
    """
    total, held = 0, False
    for found in layer.factors(x[:1], g[:1]).values():
        if isinstance(found, Tensor) or found.sizes[2] == 1:
            continue
        m, n, _ = found.sizes
        pairs = _by_pairs(found, len(x), wanted)
        rest, of_one = wanted - pairs, found.columns_made if pairs else 0
        if rest:
            all_held = rest <= {"grads", "gram"} and len(x) * m * n * g.element_size() > CACHE
            of_one, held = max(of_one, found.columns_for_product + (0 if all_held else m * n)), held or all_held
        total += of_one
    if g.device.type == "cpu":
        cache = 4 * CACHE if torch.compiler.is_compiling() else CACHE  # fewer parts compile in half the time
        max_bytes = min(max_bytes, cache)
    most = max_bytes // (total * g.element_size()) if total else len(x)
    return max(1, min(most, -(-len(x) // 2)) if held else most)


def _of(found: Outer | Tensor, shape: Sequence[int], wanted: Iterable[Statistic]) -> Found:
    return of_gradients(found, wanted) if isinstance(found, Tensor) else of_factors(found, shape, wanted)


def of_a_chunk(wanted: Iterable[Statistic]) -> set[Statistic]:
    """What of each chunk `Joined` makes the wanted statistics from."""
    made_from: dict[Statistic, set[Statistic]] = {"gram": {"grads"}, "scatter": {"scatter", "grad"}}
    return set().union(*(made_from.get(statistic, {statistic}) for statistic in wanted))


class Joined:
    """The statistics of chunks of examples, put together as the chunks come."""

    def __init__(self, wanted: Iterable[Statistic]) -> None:
        self._wanted, self._size = set(wanted), 0
        self._lists: dict[Statistic, list[Tensor]] = {"grads": [], "sq_norms": []}
        self._sums: Found = {}

    def add(self, part: Found, size: int) -> None:
        """Adds what `of_a_chunk` asks of so many examples."""
        for statistic in self._lists.keys() & part.keys():
            self._lists[statistic].append(part[statistic])
        sums: Found = {statistic: value for statistic, value in part.items() if statistic not in self._lists}
        if self._size:
            if "scatter" in sums:
                sums["scatter"] = sums["scatter"] + self._between(sums["grad"], size)
            sums = {statistic: self._sums[statistic] + value for statistic, value in sums.items()}
        self._sums, self._size = sums, self._size + size

    def _between(self, grad: Tensor, size: int) -> Tensor:
        """What the means of two parts, of n and m examples, add to the scatter: `n m / (n + m) (mean - mean)^2`."""
        distance = self._sums["grad"] / self._size - grad / size
        return distance.square_().mul_(self._size * size / (self._size + size))

    def result(self) -> Found:
        """What was wanted, of all examples."""
        found = dict(self._sums)
        if "gram" in self._wanted:
            parts = [part.reshape(len(part), -1) for part in self._lists["grads"]]
            found["gram"] = (
                gram_of_parts(parts) if len(parts) <= 2 else of_gradients(torch.cat(parts), ["gram"])["gram"]
            )
        for statistic in self._lists.keys() & self._wanted:
            found[statistic] = torch.cat(self._lists[statistic])
        return {statistic: found[statistic] for statistic in self._wanted}


def of_gradients(grads: Tensor, wanted: Iterable[Statistic]) -> Found:
    """The statistics of materialised gradients, `(B, *shape)`."""
    flat = grads.reshape(grads.shape[0], -1)  # also of a scalar parameter, `(B,)`
    make = {
        "grads": lambda: grads,
        "grad": lambda: grads.sum(0),
        "sum_of_squares": lambda: grads.square().sum(0),
        "scatter": lambda: (grads - grads.mean(0)).square().sum(0),
        "sq_norms": lambda: flat.square().sum(1),
        "gram": lambda: gram_of_parts(flat.chunk(2) if _is_large(flat) else [flat]),
    }
    return {statistic: make[statistic]() for statistic in wanted}


def _is_large(grads: Tensor) -> bool:
    return grads.numel() * grads.element_size() > CACHE


def gram_of_parts(parts: Sequence[Tensor]) -> Tensor:
    """The Gram matrix of the rows of all parts, `(b_i, n)`; products of different parts are computed once.

    In two halves it takes 0.83 of the time of one product on a CPU.
    """
    return mirrored([[part @ other.mT for other in parts[: i + 1]] for i, part in enumerate(parts)])


def mirrored(blocks: Sequence[Sequence[Tensor]]) -> Tensor:
    """The symmetric matrix of which block row i is given up to the diagonal."""
    count = len(blocks)
    if count == 1:
        return blocks[0][0]
    rows = ([blocks[i][j] if j <= i else blocks[j][i].mT for j in range(count)] for i in range(count))
    return torch.cat([torch.cat(row, dim=1) for row in rows])


def of_factors(factors: Outer, shape: Sequence[int], wanted: Iterable[Statistic]) -> Found:
    """The statistics of one parameter of the given shape, each by the cheaper of its formulas.

    With one position (T = 1), `|G_b|^2 = |r_b|^2 |c_b|^2`, `G_a . G_b = (r_a . r_b)(c_a . c_b)` and
    `sum_b G_b^2 = sum_b r_b^2 (c_b^2)^T`, elementwise; the scatter is that without `(sum_b G_b)^2 / B`. With few
    positions, the first two sum over pairs of them. With many, the gradients are materialised.
    """
    wanted = set(wanted)
    size, pairs = factors.rows.shape[0], _by_pairs(factors, factors.rows.shape[0], wanted)
    found: Found = {}
    for statistic in pairs:
        found[statistic] = _norms_by_pairs(factors) if statistic == "sq_norms" else _gram_by_pairs(factors)
    rest = wanted - pairs
    if factors.sizes[2] == 1:
        closed = rest & {"grad", "sum_of_squares", "scatter"}
        found |= {name: value.view(*shape) for name, value in _sums_of_one(factors, closed).items()}
        rest -= closed
    if rest:
        found |= of_gradients(factors.product().view(size, *shape), rest)
    return found


def _by_pairs(factors: Outer, size: int, wanted: set[Statistic]) -> set[Statistic]:
    """The wanted statistics that are cheaper by sums over pairs of positions than by gradients."""
    m, n, t = factors.sizes
    if t > 1 and wanted & {"grads", "grad", "sum_of_squares", "scatter"}:
        return set()  # the gradients are there anyway
    pairs: set[Statistic] = {"sq_norms"} if t * (m + n) <= m * n else set()
    pairs |= {"gram"} if size * t * t * (m + n) <= (size + t) * m * n else set()
    return pairs & wanted


def _sums_of_one(factors: Outer, wanted: set[Statistic]) -> Found:
    """Sums over the examples in closed form, where there is one position; `(m, n)`."""
    rows, columns = factors.rows.squeeze(-1), factors.columns.squeeze(-1)
    sums: set[Statistic] = {"grad", "sum_of_squares"} if "scatter" in wanted else wanted
    fuse = torch.compiler.is_compiling() and rows.shape[1] <= THIN and rows.numel() * columns.shape[1] <= FUSED
    found = (_in_one_loop if fuse and "sum_of_squares" in sums else _by_products)(rows, columns, sums)
    if "scatter" in wanted:
        found["scatter"] = scatter = _scatter(found, len(rows))
        # Gradients that hardly differ cancel. Compiled code and other devices do not look: it would cost them a wait.
        looks = rows.device.type == "cpu" and rows.dtype != torch.float64 and len(rows) > 1 and not is_traced()
        if looks and bool((scatter < CANCELS * found["sum_of_squares"]).any()):
            found["scatter"] = _scatter(_by_products(rows.double(), columns.double(), sums), len(rows)).to(rows)
    return {statistic: found[statistic] for statistic in wanted}


def _scatter(sums: Found, examples: int) -> Tensor:
    """The squared distances from the mean, added up."""
    return torch.addcmul(sums["sum_of_squares"], sums["grad"], sums["grad"], value=-1 / examples).clamp_(min=0)


def _by_products(rows: Tensor, columns: Tensor, sums: set[Statistic]) -> Found:
    """The sums of the gradients and of their squares."""
    found: Found = {}
    if "grad" in sums:
        found["grad"] = rows.mT @ columns
    if "sum_of_squares" in sums:
        found["sum_of_squares"] = rows.square().mT @ columns.square()
    return found


def _in_one_loop(rows: Tensor, columns: Tensor, sums: set[Statistic]) -> Found:
    """The same, as Inductor fuses it: neither a gradient nor the square of a factor is stored."""
    if "grad" not in sums:  # a row at a time, which squares the columns once
        squares = columns.square()
        return {"sum_of_squares": torch.stack([(row * squares).sum(0) for row in rows.square().unsqueeze(2).unbind(1)])}
    grads = rows.unsqueeze(2) * columns.unsqueeze(1)
    return {"grad": grads.sum(0), "sum_of_squares": grads.square().sum(0)}


def _norms_by_pairs(factors: Outer) -> Tensor:
    """`sum_{t,s} (r_t . r_s)(c_t . c_s)` of each example."""
    rows, columns = factors.rows, factors.columns
    if rows.shape[-1] == 1:
        return rows.square().sum((1, 2)) * columns.square().sum((1, 2))
    return ((rows.mT @ rows) * (columns.mT @ columns)).sum((1, 2))


def _gram_by_pairs(factors: Outer) -> Tensor:
    """`sum_{t,s} (r_at . r_bs)(c_at . c_bs)` of each pair of examples."""
    size, _, t = factors.rows.shape
    rows, columns = (side.mT.flatten(0, 1) for side in (factors.rows, factors.columns))  # (B T, m), (B T, n)
    return ((rows @ rows.mT) * (columns @ columns.mT)).view(size, t, size, t).sum((1, 3))
