"""Per-example gradients and their statistics, without materialising what need not be.

The gradient of example n is that of `losses[n]`, without a factor 1/B. On a Problem, the layers whose gradients are
outer products give every statistic from one backward pass (`probes.outer`); what is left, and any other loss, goes
through `vmap(grad)` in chunks of examples. `explain` says which parameter takes which way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict, Unpack

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import jvp, vjp

from deepobs_func import tree
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes.example_losses import Examples, Loss, Rows, examples
from deepobs_func.probes.outer import (
    STATISTICS,
    SUMMED,
    Found,
    Joined,
    Statistic,
    mirrored,
    of_a_chunk,
    of_gradients,
    of_layer,
)
from deepobs_func.probes.ways import choose

MAX_BYTES = 2**26
"""Of gradients and factors that are computed at once, unless told otherwise: 64 MiB."""


class Statistics(NamedTuple):
    """Statistics of the per-example gradients `g_n`; None if not asked for.

    Attributes:
        losses: `(B,)`.
        grads: `g_n`, `(B, *shape)` for each parameter.
        grad: `sum_n g_n`.
        sum_of_squares: `sum_n g_n^2`, elementwise.
        scatter: `sum_n (g_n - mean g)^2`, elementwise.
        sq_norms: `|g_n|^2`, `(B,)`.
        gram: `g_n . g_m`, `(B, B)`.
    """

    losses: Float[Tensor, " B"]
    grads: Params | None = None
    grad: Params | None = None
    sum_of_squares: Params | None = None
    scatter: Params | None = None
    sq_norms: Float[Tensor, " B"] | None = None
    gram: Float[Tensor, "B B"] | None = None


class Options(TypedDict, total=False):
    """Keyword arguments of the per-example probes.

    Attributes:
        bn: what a gradient means where batch norm couples the examples, and then required: `"coupled"`, the rows of the
            Jacobian of the loss vector; `"frozen"`, the batch's mean and variance held constant; `"eval"`, with the
            moving moments.
        batch_dims: the example axes of another batch than `Batch`, as `torch.func.vmap` takes them; by default 0.
        max_bytes: bound on what is computed at once, besides the result; 64 MiB.
    """

    bn: str | None
    batch_dims: Any
    max_bytes: int


def statistics(
    loss: Loss, params: Params, batch: Any, wanted: Statistic | Iterable[Statistic], **options: Unpack[Options]
) -> Statistics:
    """Several statistics of the per-example gradients, from one computation.

    It costs little more than the most expensive of them alone.

    Args:
        loss: a Problem, or any `(params, batch) -> (B,)` whose example n depends on example n alone.
        params: the point.
        batch: a `Batch`, or whatever the loss takes.
        wanted: fields of `Statistics`, or one of them.
        options: see `Options`.

    Returns:
        The statistics that were asked for, and the losses.

    Raises:
        ConfigError: the loss is not `(B,)`, the batch is empty, a statistic is unknown, or `bn` is missing, unknown or
            out of place.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> found = statistics(problem, params, problem.fake_batch(4), ["sq_norms", "gram"])
    >>> found.sq_norms.shape, found.gram.shape
    (torch.Size([4]), torch.Size([4, 4]))
    """
    names, max_bytes = _checked(wanted), options.get("max_bytes", MAX_BYTES)
    found = examples(loss, params, batch, bn=options.get("bn"), batch_dims=options.get("batch_dims"))
    losses, by_name = _of_parameters(found, names, max_bytes)
    return _collected(losses, by_name, names)


def per_example_grads(loss: Loss, params: Params, batch: Any, **options: Unpack[Options]) -> Params:
    """The gradient `g_n` of each example's loss.

    Args:
        loss, params, batch, options: as in `statistics`.

    Returns:
        `(B, *shape)` for each parameter.

    Raises:
        ConfigError: as in `statistics`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> per_example_grads(problem, params, problem.fake_batch(4))["dense.0.weight"].shape
    torch.Size([4, 10, 784])
    """
    return _there(statistics(loss, params, batch, ["grads"], **options).grads)


def per_example_sq_norms(loss: Loss, params: Params, batch: Any, **options: Unpack[Options]) -> Float[Tensor, " B"]:
    """The squared norms `|g_n|^2` over all parameters.

    Args:
        loss, params, batch, options: as in `statistics`.

    Returns:
        `(B,)`.

    Raises:
        ConfigError: as in `statistics`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> per_example_sq_norms(problem, params, problem.fake_batch(4)).shape
    torch.Size([4])
    """
    return _there(statistics(loss, params, batch, ["sq_norms"], **options).sq_norms)


def grad_sum_of_squares(loss: Loss, params: Params, batch: Any, **options: Unpack[Options]) -> Params:
    """The sum of squares `sum_n g_n^2`, elementwise.

    Args:
        loss, params, batch, options: as in `statistics`.

    Returns:
        A tree like `params`.

    Raises:
        ConfigError: as in `statistics`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> grad_sum_of_squares(problem, params, problem.fake_batch(4))["dense.0.bias"].shape
    torch.Size([10])
    """
    return _there(statistics(loss, params, batch, ["sum_of_squares"], **options).sum_of_squares)


def grad_variance(loss: Loss, params: Params, batch: Any, *, ddof: int = 0, **options: Unpack[Options]) -> Params:
    """The variance `sum_n (g_n - mean g)^2 / (B - ddof)`, elementwise.

    Args:
        loss, params, batch, options: as in `statistics`.
        ddof: 0 for the variance of the batch, 1 for an unbiased estimate of that of the data.

    Returns:
        A tree like `params`.

    Raises:
        ConfigError: as in `statistics`, or `ddof` leaves no degree of freedom.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> grad_variance(problem, params, problem.fake_batch(4), ddof=1)["dense.0.bias"].shape
    torch.Size([10])
    """
    found = statistics(loss, params, batch, ["scatter"], **options)
    size = len(found.losses)
    if not 0 <= ddof < size:
        raise ConfigError(
            f"The variance over {size} examples with ddof={ddof} is undefined: ddof must be in 0..{size - 1}."
        )
    return tree.map(lambda scatter: scatter.div_(size - ddof), _there(found.scatter))


def per_example_dots(
    loss: Loss, params: Params, batch: Any, v: Params, **options: Unpack[Options]
) -> Float[Tensor, " B"]:
    """`g_n . v`, `(B,)`: the derivative of the loss vector along `v`, by one pass in forward mode, or two in reverse.

    Args:
        loss, params, batch, options: as in `statistics`.
        v: a tree like `params`.

    Returns:
        `(B,)`.

    Raises:
        ConfigError: as in `statistics`, or `v` is not like `params`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> per_example_dots(problem, params, problem.fake_batch(4), params).shape
    torch.Size([4])
    """
    if v.keys() != params.keys() or any(v[name].shape != leaf.shape for name, leaf in params.items()):
        shapes = {name: tuple(leaf.shape) for name, leaf in params.items()}
        raise ConfigError(f"The vector must be a tree like the parameters, with the shapes {shapes}.")
    found = examples(loss, params, batch, bn=options.get("bn"), batch_dims=options.get("batch_dims"))
    v = {name: v[name] for name in params}
    way = choose(loss, params, batch, ["jvp", "vjp of vjp"], "per_example_dots")
    if way == "jvp":
        return jvp(found.losses_at, (params,), (v,))[1]
    losses, pull = vjp(found.losses_at, params)[:2]  # linear in its cotangents, so that its own pull is J v
    return vjp(lambda cotangents: pull(cotangents)[0], torch.zeros_like(losses))[1](v)[0]


def gram(loss: Loss, params: Params, batch: Any, **options: Unpack[Options]) -> Float[Tensor, "B B"]:
    """The inner products `g_n . g_m` over all parameters.

    Args:
        loss, params, batch, options: as in `statistics`.

    Returns:
        `(B, B)`.

    Raises:
        ConfigError: as in `statistics`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> gram(problem, params, problem.fake_batch(4)).shape
    torch.Size([4, 4])
    """
    return _there(statistics(loss, params, batch, ["gram"], **options).gram)


def gradients_in_chunks(loss: Loss, params: Params, batch: Any, **options: Unpack[Options]) -> Iterator[Params]:
    """Yields the per-example gradients a chunk of examples at a time, each within the memory bound.

    For what is neither a sum nor a product of gradients, such as a histogram. Arguments as in `statistics`.
    """
    max_bytes = options.get("max_bytes", MAX_BYTES)
    found = examples(loss, params, batch, bn=options.get("bn"), batch_dims=options.get("batch_dims"))
    for piece in _pieces(found, list(params), max_bytes):
        if found.coupled:
            yield found.rows(list(params))(piece)
        else:
            _, by_name = _of_parameters(found.part(piece), ["grads"], max_bytes)
            yield {name: by_name[name]["grads"] for name in params}


def explain(loss: Loss, params: Params, *, bn: str | None = None) -> dict[str, str]:
    """Which way the statistics of each parameter take: through a layer, or through `vmap(grad)`.

    Args:
        loss: as in `statistics`.
        params: the parameters.
        bn: as in `Options`.

    Returns:
        A sentence for each parameter.

    >>> from deepobs_func import problems
    >>> problem = problems.get("quadratic_deep")
    >>> explain(problem, problem.init(seed=0)[0])
    {'theta': 'input and output gradient of the net (Quadratic)'}
    """
    if bn == "coupled" and not getattr(loss, "separable", True):
        return dict.fromkeys(params, "rows of the Jacobian, by vmap(vjp)")
    ways = dict.fromkeys(params, "vmap(grad)")
    for path, (layer, _) in getattr(loss, "layers", {}).items():
        for name in _parameters_of(path, layer, params).values():
            ways[name] = f"input and output gradient of {path or 'the net'} ({type(layer).__name__})"
    return ways


def _checked(wanted: Statistic | Iterable[Statistic]) -> list[Statistic]:
    """Each of what is wanted once, if it is known."""
    names = [wanted] if isinstance(wanted, str) else list(dict.fromkeys(wanted))
    for name in names:
        if name not in STATISTICS:
            raise ConfigError(unknown("statistic", name, STATISTICS))
    return names


def _there(found: Any) -> Any:
    assert found is not None, "what was asked for is there"
    return found


def _parameters_of(path: str, layer: Any, params: Params) -> dict[str, str]:
    """The names of a layer's parameters in the net by those in the layer; a net that is one layer has the path ""."""
    names = {name: f"{path}.{name}" if path else name for name in layer.known}
    return {name: full for name, full in names.items() if full in params}


def _of_parameters(found: Examples, wanted: Sequence[Statistic], max_bytes: int) -> tuple[Tensor, dict[str, Found]]:
    """The losses, and the statistics of each parameter, in their order."""
    losses, by_name = _from_layers(found, wanted, max_bytes)
    rest = [name for name in found.params if name not in by_name]
    if rest:
        losses = found.losses_at(found.params) if losses is None else losses
        by_name |= _from_rows(found, rest, wanted, max_bytes)
    assert losses is not None, "every way computes the losses"
    return losses, {name: by_name[name] for name in found.params}


def _from_layers(
    found: Examples, wanted: Sequence[Statistic], max_bytes: int
) -> tuple[Tensor | None, dict[str, Found]]:
    """The losses, and the statistics of all parameters that belong to layers with factors."""
    if found.problem is None or not found.problem.layers:
        return None, {}
    losses, inputs, grads = found.output_gradients(found.problem)
    by_name: dict[str, Found] = {}
    for path in list(grads):
        layer, _ = found.problem.layers[path]
        names = _parameters_of(path, layer, found.params)
        shapes = {name: found.params[full].shape for name, full in names.items()}
        statistics = of_layer(layer, inputs.pop(path), grads.pop(path), shapes, wanted, max_bytes)
        by_name |= {names[name]: statistic for name, statistic in statistics.items()}
    return losses, by_name


def grams_of_groups(found: Examples, groups: Mapping[str, Sequence[str]], max_bytes: int) -> dict[str, Tensor]:
    """The Gram matrix of each of some groups of parameters.

    Args:
        found: the losses of a batch.
        groups: names of parameters, by group; together all of them.
        max_bytes: of what is computed at once.

    Returns:
        `(B, B)` by group.
    """
    _, by_name = _from_layers(found, ["gram"], max_bytes)
    for names in groups.values():
        rest = [name for name in names if name not in by_name]
        by_name |= _from_rows(found, rest, ["gram"], max_bytes) if rest else {}
    return {
        group: _sum(by_name[name]["gram"] for name in names if "gram" in by_name[name])
        for group, names in groups.items()
    }


def _from_rows(found: Examples, names: Sequence[str], wanted: Sequence[Statistic], max_bytes: int) -> dict[str, Found]:
    """The statistics of the named parameters from materialised gradients, in chunks of examples."""
    rows, pieces = found.rows(names), _pieces(found, names, max_bytes)
    whole_gram = len(pieces) == 1 or "grads" in wanted  # else in blocks, so that the gradients are not held at once
    joined = [statistic for statistic in wanted if statistic != "gram" or whole_gram]
    parts = {name: Joined(joined) for name in names}
    for piece in pieces if joined else []:
        for name, grads in rows(piece).items():
            parts[name].add(of_gradients(grads, of_a_chunk(joined)), piece.stop - piece.start)
    by_name = {name: part.result() for name, part in parts.items()}
    if "gram" in wanted and not whole_gram:
        by_name[names[0]]["gram"] = _gram_in_blocks(rows, pieces)
    return by_name


def _sum(terms: Iterable[Tensor]) -> Tensor:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def _pieces(found: Examples, names: Sequence[str], max_bytes: int) -> list[slice]:
    """Chunks of examples whose gradients by some parameters take up to so many bytes, but one example at least."""
    one = sum(found.params[name].numel() * found.params[name].element_size() for name in names)
    chunk = max(1, max_bytes // one)
    return [slice(start, min(start + chunk, found.size)) for start in range(0, found.size, chunk)]


def _gram_in_blocks(rows: Rows, pieces: Sequence[slice]) -> Tensor:
    """The Gram matrix block by block; two chunks of gradients are held at a time, and each is computed again."""
    blocks: list[list[Tensor]] = []
    for i, piece in enumerate(pieces):
        here = rows(piece)
        others = (here if j == i else rows(pieces[j]) for j in range(i + 1))
        blocks.append([_sum(_products(here[name], other[name]) for name in here) for other in others])
    return mirrored(blocks)


def _products(a: Tensor, b: Tensor) -> Tensor:
    return a.reshape(len(a), -1) @ b.reshape(len(b), -1).mT


def _collected(losses: Tensor, by_name: Mapping[str, Found], wanted: Sequence[Statistic]) -> Statistics:
    """Trees of what each parameter has, sums of what all share."""
    values: dict[str, Any] = {}
    for statistic in wanted:
        if statistic in SUMMED:
            values[statistic] = _sum(found[statistic] for found in by_name.values() if statistic in found)
        else:
            values[statistic] = {name: found[statistic] for name, found in by_name.items()}
    return Statistics(losses, **values)
