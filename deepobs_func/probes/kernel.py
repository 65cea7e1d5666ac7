"""The empirical neural tangent kernel: inner products of the gradients of a net's outputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func.base import BATCH_DIMS, Batch, Params, size_of
from deepobs_func.errors import ConfigError
from deepobs_func.probes.contract import check_batch, check_params
from deepobs_func.probes.many import mapped
from deepobs_func.probes.per_example import Options, gram

MOST_OUTPUTS = 4096
"""Of a whole batch: the kernel of so many takes 64 MiB in float32."""


def ntk(
    problem: Any, params: Params, batch: Batch, *, most: int = MOST_OUTPUTS, **options: Any
) -> Float[Tensor, "BO BO"]:
    """The empirical neural tangent kernel `J J^T`, J the Jacobian of all outputs of a batch by the parameters.

    Row `n O + c` is output c of example n, outputs flattened. The batch is taken O times, once with each output in the
    place of the loss, so that the kernel is a Gram matrix of per-example gradients and takes their formulas by layer.

    Args:
        problem: a Problem.
        params: the point.
        batch: B examples.
        most: the largest number of outputs, B O.
        options: `bn` and `max_bytes`, as in `probes.statistics`.

    Returns:
        The kernel, in the training phase.

    Raises:
        ConfigError: it is a plain loss, whose outputs are not known; there are more than `most` outputs; or `bn` is
            missing, unknown or out of place.

    Source: Jacot, Gabriel and Hongler, "Neural tangent kernel", NeurIPS 2018.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> ntk(problem, params, problem.fake_batch(4)).shape
    torch.Size([40, 40])
    """
    if not hasattr(problem, "measure"):
        raise ConfigError("ntk needs the outputs of the net, so it takes a Problem and no plain loss.")
    for name in options:
        if name not in Options.__annotations__ or name == "batch_dims":
            raise ConfigError(f"ntk takes no {name}; besides the batch it takes most, bn and max_bytes.")
    check_params(problem, params)
    check_batch(batch)
    size = size_of(batch)
    with torch.no_grad():
        count = flat_outputs(problem.outputs(params, batch), size).shape[1]
    if size * count > most:
        raise ConfigError(
            f"The kernel of {size} examples with {count} outputs each has {size * count} rows, more than {most}. Take "
            "a smaller batch, or allow more with most=."
        )
    which = torch.arange(count, device=batch.y.device).repeat(size)
    repeated = mapped(lambda leaf, dim: leaf.repeat_interleave(count, dim), batch, BATCH_DIMS)._replace(y=which)
    measure = problem.measure._replace(losses=_chosen_output, correct=None, fused=None)
    return gram(dataclasses.replace(problem, measure=measure), params, repeated, **options)


def flat_outputs(outputs: Any, size: int) -> Float[Tensor, "B O"]:
    """All outputs of each example beside each other."""
    parts = [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return torch.cat([part.reshape(size, -1) for part in parts], dim=1)


def _chosen_output(outputs: Any, batch: Batch) -> Tensor:
    """Of each example the output whose number stands in the place of its target."""
    return flat_outputs(outputs, len(batch.y)).gather(1, batch.y.unsqueeze(1)).squeeze(1)
