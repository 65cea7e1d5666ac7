"""Quantities of the mean loss over a whole data set at one point, one batch at a time."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.base import Batch, Params
from deepobs_func.errors import ConfigError
from deepobs_func.probes import quantities
from deepobs_func.probes.by_layer import layers_of, of_layers, traces_of_layers
from deepobs_func.probes.catalog import LAYER
from deepobs_func.probes.curvature import hvp
from deepobs_func.probes.estimators import trace
from deepobs_func.probes.example_losses import check_batch_norm
from deepobs_func.probes.linear_map import LinearMap, over
from deepobs_func.probes.outer import Found, Joined
from deepobs_func.probes.per_example import statistics
from deepobs_func.probes.spectrum import lanczos_eigenvalues
from deepobs_func.probes.tracked import LANCZOS_STEPS, TRACE_SAMPLES, density
from deepobs_func.probes.ways import known


class Sums(NamedTuple):
    """What a data set's Gram matrix is needed for: `sum_n |g_n|^2` and `|sum_n g_n|^2` of N examples; float64."""

    squares: Tensor
    squared_sum: Tensor
    size: int

    @property
    def squared_mean(self) -> Tensor:
        """`|g_bar|^2`."""
        return self.squared_sum / self.size**2

    @property
    def covariance(self) -> Tensor:
        """`tr S`."""
        return (self.squares / self.size - self.squared_mean).clamp(min=0)

    @property
    def sample_covariance(self) -> Tensor:
        """`N / (N - 1) tr S`."""
        return self.covariance * (self.size / (self.size - 1))

    @property
    def squared_gradient(self) -> Tensor:
        """`|g_bar|^2` without what noise adds to it."""
        return self.squared_mean - self.sample_covariance / self.size


class _ByMoments:
    """A problem whose batch norm goes by the moments of its state, so that examples are apart."""

    def __init__(self, problem: Any) -> None:
        self.ways, self.hvp_mode, self.loss = known(problem), problem.hvp_mode, problem.loss_by_moments


@dataclass(frozen=True)
class DataSetPoint:
    """A point, and the data set over which the loss is averaged there.

    Every example counts once, in the training phase; what the batches do not draw (augmentation, dropout) is neutral.
    Derivatives go back to the start of a batch: a recurrent state that a batch begins with is a constant.

    Attributes:
        problem: whose loss, without the penalty.
        params: the point.
        batches: of the data set; an iterable that can be iterated again.
        key: for what is sampled.
        bn: `"eval"` on a problem whose batch norm couples the examples: a data set has no statistics of one batch.
    """

    problem: Any
    params: Params
    batches: Iterable[Batch]
    key: random.Key
    bn: str | None = None

    def __post_init__(self) -> None:
        check_data_set(self.problem, (), self.bn)

    @functools.cached_property
    def subject(self) -> Any:
        """Whose Hessian and gradient are taken."""
        return self.problem if self.problem.separable else _ByMoments(self.problem)

    @functools.cached_property
    def hessian(self) -> LinearMap:
        """The Hessian of the mean loss; each product goes through the data."""
        return over(lambda batch, v: hvp(self.subject, self.params, batch, v), self.params, self.batches)

    @functools.cached_property
    def _of_examples(self) -> tuple[dict[str, Found], dict[str, Tensor], int]:
        """By parameter the sum and the scatter of the gradients; by layer the sum of their squares; N."""
        joined = {name: Joined(["grad", "scatter"]) for name in self.params}
        count = 0
        for batch in self.batches:
            found = statistics(self.problem, self.params, batch, ["grad", "scatter"], bn=self.bn)
            assert found.grad is not None, "asked for"
            assert found.scatter is not None, "asked for"
            size = len(found.losses)
            for name, part in joined.items():
                both: Found = {"grad": found.grad[name].double(), "scatter": found.scatter[name].double()}
                part.add(both, size)
            count += size
        sums = {name: part.result() for name, part in joined.items()}
        squares = {name: each["scatter"].sum() + each["grad"].square().sum() / count for name, each in sums.items()}
        return sums, squares, count

    def sums(self, names: Iterable[str]) -> Sums:
        """Of the gradients by some parameters."""
        sums, squares, count = self._of_examples
        chosen = list(names)
        squared_sum = torch.stack([sums[name]["grad"].square().sum() for name in chosen]).sum()
        return Sums(torch.stack([squares[name] for name in chosen]).sum(), squared_sum, count)

    def moments(self, names: Iterable[str]) -> tuple[Params, Params, int]:
        """`sum_n g_n`, the scatter, N."""
        sums, _, count = self._of_examples
        chosen = list(names)
        return {name: sums[name]["grad"] for name in chosen}, {name: sums[name]["scatter"] for name in chosen}, count


def check_data_set(problem: Any, names: Iterable[str], bn: str | None) -> None:
    """Checks that quantities are defined over a data set, before anything is read or computed.

    Args:
        problem: whose loss.
        names: of `probes.catalog`.
        bn: as `DataSetPoint.bn`.

    Raises:
        ConfigError: a quantity is of a step and its batch alone, or batch norm or another coupling of examples leaves
            it undefined.
    """
    for name in names:
        if name.removesuffix(LAYER) not in NAMES:
            raise ConfigError(
                f"Quantity {name!r} is of a step and its batch, not of a data set. Over one there are "
                f"{', '.join(NAMES)}; leave out --over, or take one of these."
            )
    if not problem.separable and bn != "eval":
        raise ConfigError(
            f"{problem.name} couples the examples of a batch through batch norm, so that over a data set "
            f"bn={bn!r} leaves a quantity undefined: it would depend on how the set is cut into batches. Take "
            "bn='eval', the moving moments; on the command line, --bn eval."
        )
    check_batch_norm(problem, bn)  # of a problem that couples its examples by other means, too


def of_data_set(point: DataSetPoint, names: Iterable[str]) -> dict[str, Any]:
    """The value of each quantity over the data set: a number, or a list with one for each layer.

    Args:
        point: where and of what.
        names: of `probes.catalog`.

    Raises:
        ConfigError: a quantity is of a step and its batch alone; nothing was computed.
    """
    names = tuple(names)
    found: dict[str, Any] = {}
    check_data_set(point.problem, names, point.bn)
    for name in names:
        base, by_layer = name.removesuffix(LAYER), name.endswith(LAYER)
        if base in _OF_EXAMPLES:
            groups = list(layers_of(point.params).values()) if by_layer else [tuple(point.params)]
            value = torch.stack([_OF_EXAMPLES[base](point, group) for group in groups])
            value = value if by_layer else value[0]
        else:
            value = (_CURVATURE_BY_LAYER if by_layer else _CURVATURE)[base](point)
        found[name] = value.tolist()
    return found


def _blocks(point: DataSetPoint) -> list[LinearMap]:
    """The diagonal blocks of the Hessian, one for each layer."""

    def block(own: Params) -> LinearMap:
        def product(v: Params) -> Params:
            whole = {name: v.get(name, torch.zeros_like(leaf)) for name, leaf in point.params.items()}
            return {name: leaf for name, leaf in point.hessian.product(whole).items() if name in own}

        return LinearMap(product, own)

    return [block(own) for own in of_layers(point.params).values()]


def _largest(operator: LinearMap, key: random.Key) -> Tensor:
    return lanczos_eigenvalues(operator, steps=min(LANCZOS_STEPS, operator.size), key=key).values[0]


Names = tuple[str, ...]
_OF_EXAMPLES: Mapping[str, Callable[[DataSetPoint, Names], Tensor]] = {
    "grad_norm": lambda point, names: point.sums(names).squared_mean.sqrt(),
    "norm_test": lambda point, names: _norm_test(point.sums(names)),
    "noise_scale": lambda point, names: (s := point.sums(names)).covariance / s.squared_mean,
    "grad_diversity": lambda point, names: (s := point.sums(names)).squares / s.squared_sum,
    "grad_cov_trace": lambda point, names: point.sums(names).sample_covariance,
    "grad_sq_norm": lambda point, names: point.sums(names).squared_gradient,
    "critical_batch_size": lambda point, names: _critical(point.sums(names)),
    "early_stopping": lambda point, names: quantities.early_stopping(*point.moments(names)),
    "mean_gsnr": lambda point, names: quantities.mean_gsnr(*point.moments(names)),
}
_CURVATURE: Mapping[str, Callable[[DataSetPoint], Tensor]] = {
    "hess_max_ev": lambda point: _largest(point.hessian, point.key),
    "hess_trace": lambda point: trace(point.hessian, key=point.key, samples=TRACE_SAMPLES).value,
    "hess_spectrum": lambda point: density(point.hessian, key=point.key),
}
_CURVATURE_BY_LAYER: Mapping[str, Callable[[DataSetPoint], Tensor]] = {
    "hess_max_ev": lambda point: torch.stack([_largest(block, point.key) for block in _blocks(point)]),
    "hess_trace": lambda point: traces_of_layers(point.hessian, samples=TRACE_SAMPLES, key=point.key),
}
NAMES = (*_OF_EXAMPLES, *_CURVATURE)
"""The quantities that a data set has."""


def _norm_test(found: Sums) -> Tensor:
    return (found.sample_covariance / (found.size * found.squared_mean)).clamp(min=0).sqrt()


def _critical(found: Sums) -> Tensor:
    squared = found.squared_gradient
    return torch.where(squared > 0, found.sample_covariance / squared, torch.inf)
