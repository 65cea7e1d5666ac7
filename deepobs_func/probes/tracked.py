"""The quantities of one training step, from ingredients that they share."""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepobs_func import random, tree
from deepobs_func.base import Batch, Params, size_of
from deepobs_func.probes import by_layer, quantities
from deepobs_func.probes.catalog import LAYER, row_of
from deepobs_func.probes.curvature import make_hvp
from deepobs_func.probes.estimators import diagonal, trace
from deepobs_func.probes.example_losses import examples
from deepobs_func.probes.kernel import ntk
from deepobs_func.probes.linear_map import LinearMap
from deepobs_func.probes.per_example import Statistics, gradients_in_chunks, per_example_dots, statistics
from deepobs_func.probes.quantities import LineSample
from deepobs_func.probes.spectrum import lanczos_eigenvalues, spectral_density

LANCZOS_STEPS, TRACE_SAMPLES = 20, 10
DENSITY_STEPS, DENSITY_SAMPLES, DENSITY_POINTS = 30, 3, 200
LARGEST = 20  # eigenvalues of spectra of examples


@dataclass(frozen=True)
class TrackedStep:
    """A step of a run, and what its quantities are made of; each ingredient is computed once, when first asked for.

    Attributes:
        problem: whose loss, without the penalty.
        batch: of the step, with the model's state before it.
        before, after: the parameters around the step.
        start: the parameters at the start of the run.
        lr: of the step.
        key: for what is sampled.
        names: the quantities that will be asked for, so that their statistics are computed together. They do not
            decide what a quantity is; see `probes.catalog.Quantity`.
        bn: the mode of losses and gradients of single examples, as in `probes.statistics`.
    """

    problem: Any
    batch: Batch
    before: Params
    after: Params
    start: Params
    lr: float
    key: random.Key
    names: tuple[str, ...]
    bn: str | None = None

    @functools.cached_property
    def statistics(self) -> Statistics:
        """All statistics of the per-example gradients that the quantities need."""
        wanted = dict.fromkeys(need for name in self.names for need in row_of(name).needs)
        return statistics(self.problem, self.before, self.batch, wanted, bn=self.bn)

    @functools.cached_property
    def layer_grams(self) -> dict[str, Tensor]:
        """The Gram matrix of each layer; computed apart from that of all, so that neither depends on the other."""
        return by_layer.grams_by_layer(self.problem, self.before, self.batch, bn=self.bn)

    @property
    def moments(self) -> tuple[Params, Params, int]:
        """`sum_n g_n`, the scatter, B."""
        found = self.statistics
        assert found.grad is not None, "the quantity needs it"
        assert found.scatter is not None
        return found.grad, found.scatter, self.size

    @functools.cached_property
    def hessian_trace(self) -> Tensor:
        """An estimate of the trace of the mean loss's Hessian."""
        return trace(self.problem, self.before, self.batch, key=self.key, samples=TRACE_SAMPLES).value

    @functools.cached_property
    def grad(self) -> Params:
        """The gradient of the mean loss, with coupled examples; of a pass of its own, whatever else is tracked."""
        return torch.func.grad(lambda params: self.problem.loss(params, self.batch).mean())(self.before)

    @property
    def size(self) -> int:
        """B."""
        return size_of(self.batch)

    @functools.cached_property
    def line(self) -> tuple[Batch, str | None]:
        """The batch and the mode in which losses and slopes are seen at both ends of the step: one function of theta.

        In the mode `frozen` the moments are those of the batch at the start of the step, at its end too.
        """
        if self.bn != "frozen" or self.problem.separable:
            return self.batch, self.bn
        return self.batch._replace(state=self.problem.batch_moments(self.before, self.batch)), "eval"

    def sample(self, params: Params, direction: Params) -> LineSample:
        """The losses of the examples and their slopes at one end of the step."""
        batch, bn = self.line
        losses = examples(self.problem, params, batch, bn=bn).losses_at(params)
        return LineSample(losses, per_example_dots(self.problem, params, batch, direction, bn=bn))


def track(step: TrackedStep) -> dict[str, Any]:
    """The value of each quantity that the step names: a number, or nested lists, of counts, eigenvalues or layers.

    Raises:
        ConfigError: a quantity is not defined on this problem, or for a batch of this size.
    """
    return {name: _plain(_function_of(name)(step)) for name in step.names}


def _function_of(name: str) -> Callable[[TrackedStep], Tensor]:
    """What computes a quantity."""
    if name.endswith(LAYER):
        return by_layer.COMPUTE[name.removesuffix(LAYER)]
    path = row_of(name).compute
    return pkgutil.resolve_name(path) if path else _COMPUTE[name]


def _plain(value: Tensor) -> Any:
    return value.item() if value.ndim == 0 else value.tolist()


def _of_gram(function: Callable[[Tensor], Tensor]) -> Callable[[TrackedStep], Tensor]:
    return lambda step: function(_gram(step))


def _gram(step: TrackedStep) -> Tensor:
    assert step.statistics.gram is not None, "the quantity needs it"
    return step.statistics.gram


def _alpha(step: TrackedStep) -> Tensor:
    length = quantities.update_size(step.before, step.after)
    direction = tree.scale(1 / length.clamp(min=torch.finfo(length.dtype).tiny), tree.sub(step.after, step.before))
    return quantities.alpha(step.sample(step.before, direction), step.sample(step.after, direction), length)


def _tic_diag(step: TrackedStep) -> Tensor:
    total, scatter, size = step.moments
    ggn = diagonal(step.problem, step.before, step.batch, method="monte-carlo", matrix="ggn", key=step.key).value
    return quantities.tic_diag(total, scatter, ggn, size)


def _histogram(count: Callable[[Params, Params], Tensor]) -> Callable[[TrackedStep], Tensor]:
    def counted(step: TrackedStep) -> Tensor:
        chunks = gradients_in_chunks(step.problem, step.before, step.batch, bn=step.bn)
        return torch.stack([count(grads, step.before) for grads in chunks]).sum(0)

    return counted


def _largest_eigenvalue(step: TrackedStep) -> Tensor:
    steps = min(LANCZOS_STEPS, tree.size(step.before))
    return lanczos_eigenvalues(step.problem, step.before, step.batch, steps=steps, key=step.key).values[0]


def density(hessian: LinearMap, *, key: random.Key) -> Tensor:
    """`(2, points)`: a grid, and the spectral density there.

    Args:
        hessian: whose.
        key: for the start vectors.
    """
    steps = min(DENSITY_STEPS, hessian.size)
    found = spectral_density(hessian, key=key, samples=DENSITY_SAMPLES, steps=steps, points=DENSITY_POINTS)
    return torch.stack([found.grid, found.density])


def _largest(values: Tensor) -> Tensor:
    """As many in every run: those of a small matrix end in zeros."""
    return torch.nn.functional.pad(values[:LARGEST], (0, max(0, LARGEST - len(values))))


def _ntk_eigenvalues(step: TrackedStep) -> Tensor:
    kernel = ntk(step.problem, step.before, step.batch, bn=step.bn)
    return _largest(quantities.eigenvalues(kernel / step.size))


_COMPUTE: dict[str, Callable[[TrackedStep], Tensor]] = {
    "grad_norm": lambda step: tree.norm(step.grad),
    "distance": lambda step: quantities.distance(step.after, step.start),
    "position": lambda step: tree.flatten(step.before),
    "update_size": lambda step: quantities.update_size(step.before, step.after),
    "update_ratio": lambda step: quantities.update_ratio(step.before, step.after),
    "alpha": _alpha,
    "norm_test": _of_gram(quantities.norm_test),
    "inner_test": _of_gram(quantities.inner_product_test),
    "ortho_test": _of_gram(quantities.orthogonality_test),
    "noise_scale": _of_gram(quantities.noise_scale),
    "cabs": lambda step: quantities.cabs(_gram(step), step.statistics.losses, step.lr),
    "early_stopping": lambda step: quantities.early_stopping(*step.moments),
    "mean_gsnr": lambda step: quantities.mean_gsnr(*step.moments),
    "grad_diversity": _of_gram(quantities.grad_diversity),
    "grad_cov_trace": _of_gram(quantities.sample_covariance_trace),
    "grad_sq_norm": _of_gram(quantities.squared_gradient),
    "critical_batch_size": _of_gram(quantities.critical_batch_size),
    "grad_hist_1d": _histogram(lambda grads, params: quantities.grad_hist_1d(grads)),
    "grad_hist_2d": _histogram(quantities.grad_hist_2d),
    "hess_max_ev": _largest_eigenvalue,
    "hess_trace": lambda step: step.hessian_trace,
    "tic_trace": lambda step: quantities.tic_trace(_gram(step), step.hessian_trace),
    "tic_diag": _tic_diag,
    "hess_spectrum": lambda step: density(make_hvp(step.problem, step.before, step.batch), key=step.key),
    "grad_cov_spectrum": _of_gram(lambda gram: _largest(quantities.covariance_eigenvalues(gram))),
    "ntk_spectrum": _ntk_eigenvalues,
}
