"""Per-example gradients as their layers have them: sums of outer products, of the losses or of random vectors.

From these K-FAC makes its factors. `E[g g^T]` over the gradients g of one layer is its block of the GGN for `"exact"`
and, in the mean over draws, `"monte-carlo"`; of the empirical Fisher matrix for `"empirical"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.func import vjp
from torch.utils import _pytree as pytree

from deepobs_func import random
from deepobs_func.base import Outer, Params
from deepobs_func.errors import ConfigError, unknown
from deepobs_func.probes.contract import checked_ggn, checked_key
from deepobs_func.probes.curvature import criterion_hessian
from deepobs_func.probes.example_losses import Examples, Loss, Problem, examples
from deepobs_func.probes.fisher import Kind, checked_sampler, sampled
from deepobs_func.probes.jacobians import Tensors, TensorsOf

KINDS: tuple[Kind, ...] = ("exact", "monte-carlo", "empirical")
MOST_OUTPUTS = 128  # of an example, for the exact kind, which has a backward pass for each


class LayerGradients(NamedTuple):
    """Gradients of N examples, or of N / D examples by D vectors each.

    Attributes:
        grads: for each parameter, `Outer` with `(N, m, T)` and `(N, n, T)`, or `(N, *shape)`.
        examples: how many there are; the mean over them is a sum divided by it.
    """

    grads: dict[str, Outer | Tensor]
    examples: int


def layer_gradients(
    problem: Loss,
    params: Params,
    batch: Any,
    *,
    kind: Kind = "exact",
    key: random.Key | None = None,
    bn: str | None = None,
) -> LayerGradients:
    """The gradients `J_n^T s` of each example n, by layers, for vectors s at the outputs.

    `"exact"`: D vectors with `sum_d s_d s_d^T = H_n`, the Hessian of the criterion in the D outputs of an example.
    `"monte-carlo"`: one random s with `E[s s^T] = H_n`. `"empirical"`: the gradient of the example's loss.

    Args:
        problem: a Problem, all of whose parameters belong to layers that know their per-example gradients.
        params, batch: the point.
        kind: which vectors.
        key: what the Monte-Carlo vectors are drawn from.
        bn: `"frozen"` or `"eval"`, as in `Options`; required on a problem with batch norm.

    Returns:
        The gradients by parameter; those of layers without any are left out (see `layerless`).

    Raises:
        ConfigError: there is no GGN, the criterion cannot be sampled, the kind is unknown, an example has more than
            128 outputs (`"exact"`), or `bn` is missing, unknown or `"coupled"`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_logreg")
    >>> params, _ = problem.init()
    >>> found = layer_gradients(problem, params, problem.fake_batch(4), kind="empirical")
    >>> found.grads["dense.0.weight"].sizes, found.grads["dense.0.bias"].shape
    ((10, 784, 1), torch.Size([4, 10]))
    """
    if kind not in KINDS:
        raise ConfigError(unknown("kind of layer gradients", str(kind), KINDS))
    if bn == "coupled":
        raise ConfigError(
            "bn='coupled' has no gradients by layers, since an example's spread over all of them: bn='frozen'."
        )
    found = examples(problem, params, batch, bn=bn)
    if found.problem is None:
        raise ConfigError(
            "Gradients by layers need a Problem, which knows its layers; a plain loss function does not know them."
        )
    outputs = TensorsOf(lambda result: result)

    def forward(taps: dict[str, Tensor]) -> tuple[Tensors, dict[str, Tensor]]:
        result, inputs = _tapped(found, found.problem, taps)
        return outputs(result), inputs

    tensors, pull, inputs = vjp(forward, _zeros(found, found.problem), has_aux=True)  # type: ignore[misc]  # with has_aux, three
    vectors = _vectors(found, outputs, tensors, kind, key)
    by_layer = [pull(vector)[0] for vector in vectors]
    grads: dict[str, Outer | Tensor] = {}
    for path in by_layer[0]:
        if path not in inputs:
            continue
        layer = found.problem.layers[path][0]
        g = torch.cat([each[path] for each in by_layer])
        x = inputs[path].repeat(len(by_layer), *[1] * (inputs[path].ndim - 1))
        grads |= named(path, layer.factors(x, g), params)
    return LayerGradients({name: grads[name] for name in params if name in grads}, found.size)


def layerless(problem: Any) -> list[str]:
    """The parameters of a problem whose layers do not know their per-example gradients.

    Args:
        problem: a Problem.

    Returns:
        Their names.

    >>> from deepobs_func import problems
    >>> layerless(problems.get("mnist_mlp"))
    []
    """
    known = set()
    for path, (layer, _) in problem.layers.items():
        known |= {f"{path}.{name}" if path else name for name in layer.known}
    return [name for name in problem.shapes if name not in known]


def outputs_of_an_example(problem: Any) -> int:
    """How many numbers the net of a problem puts out for one example; found by shapes alone.

    Args:
        problem: a Problem.

    Returns:
        D.

    >>> from deepobs_func import problems
    >>> outputs_of_an_example(problems.get("mnist_mlp")), outputs_of_an_example(problems.get("mnist_vae"))
    (10, 800)
    """
    params = {name: torch.empty(shape, device="meta") for name, shape in problem.shapes.items()}
    batch = pytree.tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, problem.fake_batch(2))
    with torch.no_grad():
        leaves = pytree.tree_leaves(problem.outputs(params, batch))
    return sum(leaf[0].numel() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point())


def named(path: str, factors: Any, params: Params) -> dict[str, Outer | Tensor]:
    """A layer's gradients by the names of its parameters in the net."""
    full = {f"{path}.{name}" if path else name: found for name, found in factors.items()}
    return {name: found for name, found in full.items() if name in params}


def _zeros(found: Examples, problem: Problem) -> dict[str, Tensor]:
    zero = next(iter(found.params.values())).new_zeros(())
    return {path: zero.expand(found.size, *shape) for path, (_, shape) in problem.layers.items()}


def _tapped(found: Examples, problem: Any, taps: dict[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """The outputs, with a zero added to what each layer puts out, and what each takes."""
    inputs: dict[str, Tensor] = {}

    def tap(layer: Any, x: Tensor, y: Tensor) -> Tensor:
        inputs[layer.path] = x
        return y + taps[layer.path] if layer.path in taps else y

    return problem.tapped_outputs(found.params, found.batch, tap), inputs


def _vectors(
    found: Examples, outputs: TensorsOf, tensors: Tensors, kind: Kind, key: random.Key | None
) -> list[Tensors]:
    """What is sent back through the net, one after the other."""
    problem: Any = cast(Any, found.problem)
    if kind == "empirical":
        total: Callable[[Tensors], Tensor] = lambda parts: problem.criterion(outputs.rebuilt(parts), found.batch).sum()
        return [torch.func.grad(total)(tensors)]
    if kind == "monte-carlo":
        checked_sampler(problem, found.params, found.batch, "layer_gradients")
        drawn = checked_key(key, "layer_gradients of kind 'monte-carlo'")
        return [sampled(problem, outputs.rebuilt(tensors), found.batch, drawn)]
    checked_ggn(problem, found.params, found.batch, "layer_gradients")
    return _roots(found, outputs, tensors)


def _roots(found: Examples, outputs: TensorsOf, tensors: Tensors) -> list[Tensors]:
    """Vectors `s_1, ..., s_D` of each example with `sum_d s_d s_d^T = H_n`."""
    sizes = [part[0].numel() for part in tensors]
    size = sum(sizes)
    if size > MOST_OUTPUTS:
        raise ConfigError(
            f"The exact kind takes a backward pass for each of the {size} outputs of an example; at most "
            f"{MOST_OUTPUTS} are allowed. Use 'monte-carlo'."
        )
    apart = lambda rows: [
        part.reshape(like.shape) for part, like in zip(rows.split(sizes, dim=1), tensors, strict=True)
    ]
    hessian = criterion_hessian(cast(Any, found.problem), found.batch, outputs, tensors)  # of the mean criterion
    columns = []
    for unit in torch.eye(size, dtype=tensors[0].dtype, device=tensors[0].device):
        of_unit = hessian(apart(unit.expand(found.size, size)))
        columns.append(torch.cat([part.reshape(found.size, -1) for part in of_unit], dim=1) * found.size)
    values, bases = torch.linalg.eigh(torch.stack(columns, dim=2))
    roots = bases * values.clamp(min=0).sqrt().unsqueeze(1)
    return [apart(roots[:, :, index]) for index in range(size)]
