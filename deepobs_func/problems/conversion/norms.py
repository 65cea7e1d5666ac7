"""Layers with running statistics: state in, state out; and the gradients of all norms' weights."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from deepobs_func.base import Outer
from deepobs_func.nets.layers import Pass
from deepobs_func.problems.conversion.base import Converted
from deepobs_func.problems.conversion.passing import current


class Running(Converted):
    """What batch norm and instance norm share: statistics that a pass moves."""

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    momentum: float | None
    track_running_stats: bool
    eps: float
    _check_input_dim: Callable[[Tensor], None]

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return of_channels(x, g)

    def _before(self, p: Pass, leaf: str) -> Tensor:
        """A statistic as an earlier call of this layer in the same pass left it."""
        return p.moments.get(self.named(leaf), getattr(self, leaf))

    def _count(self, p: Pass) -> float | Tensor:
        """The weight of the new statistics, after counting the batch, as `_BatchNorm.forward` has it."""
        if self.num_batches_tracked is None:
            return self.momentum or 0.0
        count = self._before(p, "num_batches_tracked") + 1
        p.moments[self.named("num_batches_tracked")] = count
        return 1.0 / count.double() if self.momentum is None else self.momentum

    def _move(self, p: Pass, weight: float | Tensor, mean: Tensor, unbiased: Tensor) -> None:
        for leaf, new in (("running_mean", mean), ("running_var", unbiased)):
            old = self._before(p, leaf)
            p.moments[self.named(leaf)] = (1 - weight) * old + weight * new.detach().to(old.dtype)


class BatchNorm(Running):
    """`nn.BatchNorm1d` to `3d` and `nn.SyncBatchNorm`, which is the same in one process.

    In the training phase with the mean and the biased variance of the batch, or, in a pass by moments, with the running
    ones, so that examples are not coupled. The running statistics after the batch go into the pass.
    """

    @property
    def normalizes(self) -> bool:  # type: ignore[override]  # of a class of this package's, a constant
        return self.training and self.running_mean is not None and not self.coupled_anyway

    coupled_anyway = False  # set where the net couples its examples by other means too, or calls one of its norms twice

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        p = current()
        tracked = self.running_mean is not None
        by_batch = not tracked or (self.training and not p.by_moments)
        if by_batch and input.numel() == input.shape[1]:
            raise ValueError(
                f"Expected more than 1 value per channel when training, got input size {tuple(input.shape)}"
            )
        if p.fused and p.tap is None:
            return self._fused(input, p, by_batch)
        x = input.to(input.dtype if self.weight is None else self.weight.dtype)
        axes = (0, *range(2, x.ndim))
        if by_batch:
            variance, mean = torch.var_mean(x, dim=axes, correction=0)
            if tracked:
                self._write(p, x.numel() // x.shape[1], mean, variance)
        else:
            mean, variance = self.running_mean, self.running_var  # type: ignore[assignment]  # they are tracked
        inverse = torch.rsqrt(variance + self.eps)
        scale = inverse if self.weight is None else self.weight * inverse
        # Not `x scale + (bias - mean scale)`, whose terms cancel where a mean is large beside the deviation.
        y = (x - along(mean, x)) * along(scale, x)
        y = y if self.bias is None else y + along(self.bias, x)
        return self.tapped(lambda: (x - along(mean, x)) * along(inverse, x), y)

    def _write(self, p: Pass, count: int, mean: Tensor, variance: Tensor) -> None:
        p.calls[self.path] = p.calls.get(self.path, 0) + 1
        if self.track_running_stats:
            self._move(p, self._count(p), mean, variance * (count / (count - 1)))
        p.batch_moments[self.named("running_mean")] = mean.detach()
        p.batch_moments[self.named("running_var")] = variance.detach()

    def _fused(self, x: Tensor, p: Pass, by_batch: bool) -> Tensor:
        """By torch's own kernel, which moves the statistics that it is given."""
        mean = var = None
        weight: float | Tensor = 0.0
        if self.running_mean is not None and (not by_batch or self.track_running_stats):
            mean, var = self._before(p, "running_mean"), self._before(p, "running_var")
            if by_batch:
                weight, mean, var = self._count(p), mean.clone(), var.clone()
                p.moments |= {self.named("running_mean"): mean, self.named("running_var"): var}
        if isinstance(weight, Tensor):  # of a cumulative average; the kernel takes a number
            moved = (torch.zeros_like(mean), torch.zeros_like(var))  # type: ignore[arg-type]  # they are tracked
            y = F.batch_norm(x, *moved, self.weight, self.bias, by_batch, 1.0, self.eps)
            self._move(p, weight, *moved)
            return y
        return F.batch_norm(x, mean, var, self.weight, self.bias, by_batch, weight, self.eps)


class InstanceNorm(Running):
    """`nn.InstanceNorm1d` to `3d`: by each example's own statistics; in the test phase by running ones if it tracks.

    Where it has running statistics and its own are used, those move, as torch has it: in the test phase too, where
    `track_running_stats` was set to False later.
    """

    _get_no_batch_dim: Callable[[], int]

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        if input.ndim == self._get_no_batch_dim():
            return self.forward(input.unsqueeze(0)).squeeze(0)
        p = current()
        by_input = self.training or not self.track_running_stats or self.running_mean is None
        if not by_input:
            return F.instance_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        y = F.instance_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if self.running_mean is not None and not p.by_moments:
            count = math.prod(input.shape[2:])
            variance, mean = torch.var_mean(input.detach().flatten(2), dim=2, correction=0)
            self._move(p, self.momentum or 0.0, mean.mean(0), variance.mean(0) * (count / (count - 1)))
        return self.tapped(lambda: F.instance_norm(input, eps=self.eps), y)


def along(values: Tensor, x: Tensor) -> Tensor:
    """Numbers of the channels, to be broadcast against `(B, C, ...)`."""
    return values.view(-1, *[1] * (x.ndim - 2))


def of_channels(x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
    """The gradients of a weight and a bias of the channels, `(B, C)`, from a normalised input and its gradient."""
    if x.ndim == 2:
        return {"weight": g * x, "bias": g}
    return {"weight": (g * x).flatten(2).sum(2), "bias": g.flatten(2).sum(2)}


class GroupNorm(Converted):
    """`nn.GroupNorm`, whose weights' gradients are known."""

    num_groups: int
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        y = F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)
        return self.tapped(lambda: F.group_norm(input, self.num_groups, eps=self.eps), y)

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return of_channels(x, g)


class LayerNorm(Converted):
    """`nn.LayerNorm`, whose weights' gradients are known."""

    normalized_shape: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor | None
    eps: float

    def forward(self, input: Tensor) -> Tensor:
        y = F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)
        return self.tapped(lambda: F.layer_norm(input, self.normalized_shape, eps=self.eps), y)

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {"weight": self._summed(g * x), "bias": self._summed(g)}

    def _summed(self, values: Tensor) -> Tensor:
        """Over all positions of an example."""
        between = tuple(range(1, values.ndim - len(self.normalized_shape)))
        return values.sum(between) if between else values


class RMSNorm(LayerNorm):
    """`nn.RMSNorm`, whose weight's gradient is known."""

    def forward(self, input: Tensor) -> Tensor:
        y = F.rms_norm(input, self.normalized_shape, self.weight, self.eps)
        return self.tapped(lambda: F.rms_norm(input, self.normalized_shape, eps=self.eps), y)


class SpectralNorm(Converted):
    """`torch.nn.utils.parametrizations.spectral_norm`: the vectors of its power iteration are state."""

    n_power_iterations: int
    dim: int
    eps: float
    _u: Tensor
    _v: Tensor
    _reshape_weight_to_matrix: Callable[[Tensor], Tensor]

    def forward(self, weight: Tensor) -> Tensor:
        if weight.ndim == 1:
            return F.normalize(weight, dim=0, eps=self.eps)
        matrix = self._reshape_weight_to_matrix(weight)
        u, v = self._u, self._v
        if self.training:
            u, v = self._iterated(matrix.detach(), v)
        sigma = torch.vdot(u, torch.mv(matrix, v))
        return weight / sigma

    def _iterated(self, matrix: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        u = self._u
        for _ in range(self.n_power_iterations):
            u = F.normalize(matrix @ v, dim=0, eps=self.eps)
            v = F.normalize(matrix.mT @ u, dim=0, eps=self.eps)
        current().moments |= {self.named("_u"): u, self.named("_v"): v}
        return u, v
