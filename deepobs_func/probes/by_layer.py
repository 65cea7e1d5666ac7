"""The tracked quantities of each layer: of the parameters that one module holds, `(layers,)` each."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Params
from deepobs_func.probes import quantities
from deepobs_func.probes.contract import LossOrProblem, checked_key, draw
from deepobs_func.probes.curvature import make_hvp
from deepobs_func.probes.example_losses import Loss, examples
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.probes.per_example import MAX_BYTES, grams_of_groups
from deepobs_func.probes.spectrum import lanczos_eigenvalues
from deepobs_func.probes.ways import known

if TYPE_CHECKING:
    from deepobs_func.probes.tracked import TrackedStep


def layers_of(params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The parameters of each layer: those of one module, whose name is what stands before the last dot.

    Args:
        params: by dotted names; those without a dot are the net's own.

    Returns:
        By layer, in the order of the parameters.

    >>> layers_of({"conv.weight": 0, "conv.bias": 0, "theta": 0})
    {'conv': ('conv.weight', 'conv.bias'), '(net)': ('theta',)}
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in params:
        layer = name.rpartition(".")[0] or "(net)"
        found[layer] = (*found.get(layer, ()), name)
    return found


def of_layers(params: Params) -> dict[str, Params]:
    """The parameters, or a tree like them, layer by layer."""
    return {layer: {name: params[name] for name in names} for layer, names in layers_of(params).items()}


def grams_by_layer(loss: Loss, params: Params, batch: Any, *, bn: str | None = None) -> dict[str, Tensor]:
    """The Gram matrix of the per-example gradients of each layer; their sum is that of `probes.gram`.

    Args:
        loss, params, batch, bn: as in `probes.statistics`.

    Returns:
        `(B, B)` by layer.

    Raises:
        ConfigError: as in `probes.statistics`.

    >>> from deepobs_func import problems
    >>> problem = problems.get("mnist_mlp")
    >>> params, _ = problem.init()
    >>> {name: tuple(gram.shape) for name, gram in grams_by_layer(problem, params, problem.fake_batch(4)).items()}
    {'dense.0': (4, 4), 'dense.1': (4, 4), 'dense.2': (4, 4), 'dense.3': (4, 4)}
    """
    return grams_of_groups(examples(loss, params, batch, bn=bn), layers_of(params), MAX_BYTES)


class _Part:
    """The loss as a function of one layer's parameters, the others held fixed, and what is known of it."""

    def __init__(self, subject: Any, params: Params) -> None:
        self.ways, self._loss, self._params = known(subject), getattr(subject, "loss", subject), params

    def loss(self, part: Params, batch: Any) -> Tensor:
        """The losses."""
        found: Tensor = self._loss({**self._params, **part}, batch)
        return found


def hessian_max_eigenvalues(
    subject: LossOrProblem, params: Params, batch: Any, *, steps: int, key: random.Key
) -> Float[Tensor, " layers"]:
    """The largest eigenvalue of each diagonal block of the Hessian of the mean loss, the block of a layer, by Lanczos.

    Args:
        subject, params, batch: as in `probes.hvp`.
        steps: products with each block, at most as many as it has rows.
        key: for the start vectors.
    """
    part: Any = _Part(subject, params)
    found = [
        lanczos_eigenvalues(part, own, batch, steps=min(steps, tree.size(own)), key=key).values[0]
        for own in of_layers(params).values()
    ]
    return torch.stack(found)


def traces_of_layers(hessian: LinearMap, *, samples: int, key: random.Key) -> Float[Tensor, " layers"]:
    """The trace of each of these blocks, by Hutchinson: `1/S sum_s v_s . (H v_s)` over the layer's entries.

    All blocks take the same products. With the key of `probes.trace` their sum is its estimate.

    Args:
        hessian: of all parameters.
        samples: S.
        key: for the random vectors.
    """
    terms = []
    for each in random.split(checked_key(key, "trace"), samples):
        v = draw(each, hessian.like)
        pairs = zip(of_layers(v).values(), of_layers(hessian.product(v)).values(), strict=True)
        terms.append(torch.stack([tree.dot(*pair) for pair in pairs]))
    return torch.stack(terms).mean(0)


def _each(function: Callable[..., Tensor], *trees: Params) -> Tensor:
    """A function of the parts of some trees, layer by layer."""
    parts = zip(*(of_layers(each).values() for each in trees), strict=True)
    return torch.stack([function(*part) for part in parts])


def _of_gram(function: Callable[[Tensor], Tensor]) -> Callable[[TrackedStep], Tensor]:
    return lambda step: torch.stack([function(gram) for gram in step.layer_grams.values()])


def _of_moments(function: Callable[..., Tensor]) -> Callable[[TrackedStep], Tensor]:
    def computed(step: TrackedStep) -> Tensor:
        total, scatter, size = step.moments
        return _each(functools.partial(function, size=size), total, scatter)

    return computed


_LANCZOS_STEPS, _TRACE_SAMPLES = 20, 10  # as of the whole net
COMPUTE: Mapping[str, Callable[[TrackedStep], Tensor]] = {
    "grad_norm": lambda step: _each(tree.norm, step.grad),
    "distance": lambda step: _each(quantities.distance, step.after, step.start),
    "update_size": lambda step: _each(quantities.update_size, step.before, step.after),
    "update_ratio": lambda step: _each(quantities.update_ratio, step.before, step.after),
    "norm_test": _of_gram(quantities.norm_test),
    "inner_test": _of_gram(quantities.inner_product_test),
    "ortho_test": _of_gram(quantities.orthogonality_test),
    "noise_scale": _of_gram(quantities.noise_scale),
    "grad_diversity": _of_gram(quantities.grad_diversity),
    "grad_cov_trace": _of_gram(quantities.sample_covariance_trace),
    "grad_sq_norm": _of_gram(quantities.squared_gradient),
    "critical_batch_size": _of_gram(quantities.critical_batch_size),
    "early_stopping": _of_moments(quantities.early_stopping),
    "mean_gsnr": _of_moments(quantities.mean_gsnr),
    "hess_max_ev": lambda step: hessian_max_eigenvalues(
        step.problem, step.before, step.batch, steps=_LANCZOS_STEPS, key=step.key
    ),
    "hess_trace": lambda step: traces_of_layers(
        make_hvp(step.problem, step.before, step.batch), samples=_TRACE_SAMPLES, key=step.key
    ),
}
"""What computes the quantities of each layer, by the name of that of the whole net."""
