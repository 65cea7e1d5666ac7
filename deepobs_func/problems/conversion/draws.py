"""Layers that draw, as functions of the draw: `(x, noise) -> y`, and what the noise is."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from deepobs_func import random
from deepobs_func.errors import ConfigError
from deepobs_func.nets.noise import Draw, Place
from deepobs_func.problems.conversion.base import Converted, draw_at, put
from deepobs_func.problems.conversion.passing import current

ALPHA = 1.7580993408473766  # of SELU: scale times alpha, the value that alpha dropout drops to
Shape = Sequence[int]


@dataclass(frozen=True)
class Keep:
    """Draws which values are kept, each with one probability."""

    probability: float

    def __call__(self, key: random.Key, shape: Shape) -> Tensor:
        return random.bernoulli(key, self.probability, shape)


def whole(x: Tensor) -> Shape:
    """Every value has a draw of its own."""
    return x.shape


def channels(x: Tensor) -> Shape:
    """Every channel of every example has one, `(B, C, 1, ...)`."""
    return (*x.shape[:2], *[1] * (x.ndim - 2))


def channels_of_signals(x: Tensor) -> Shape:
    """As `F.dropout1d` has them, which takes two axes for those of one example: then every row has one."""
    if x.ndim not in (2, 3):
        raise RuntimeError(f"dropout1d: Expected 2D or 3D input, but received a {x.ndim}D input.")
    return channels(x) if x.ndim == 3 else rows(x)


def channels_of_volumes(x: Tensor) -> Shape:
    """As `F.dropout3d` has them, which takes all but five axes for those of one example: then every row has one."""
    return channels(x) if x.ndim == 5 else rows(x)


def rows(x: Tensor) -> Shape:
    """Every example has one, `(B, 1, ...)`."""
    return (x.shape[0], *[1] * (x.ndim - 1))


def once(x: Tensor) -> Shape:
    """The batch has one."""
    return [1] * x.ndim


def dropped(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """`x keep / (1 - rate)`; zeros where everything is dropped."""
    return x * (keep.to(x.dtype) / (1.0 - rate) if rate < 1.0 else keep.to(x.dtype))


def alpha_dropped(x: Tensor, keep: Tensor, rate: float) -> Tensor:
    """What is dropped becomes SELU's value at minus infinity; mean and variance stay (Klambauer et al., 2017)."""
    if rate >= 1.0:
        return x * keep.to(x.dtype)
    a = 1.0 / math.sqrt((ALPHA * ALPHA * rate + 1.0) * (1.0 - rate))
    kept = keep.to(x.dtype)
    return x * (kept * a) + ((kept - 1.0) * (ALPHA * a) + ALPHA * a * rate)


Apply = Callable[[Tensor, Tensor, float], Tensor]


def drop(
    name: str,
    x: Tensor,
    rate: float,
    shape_of: Callable[[Tensor], Shape],
    places: dict[str, Place],
    apply: Apply = dropped,
    inplace: bool = False,
) -> Tensor:
    """Dropout of any kind, by the batch's mask for one place; nothing is dropped where it has none.

    In place it writes in either case, so that the check for changed inputs, which has no masks, finds it.
    """
    if rate <= 0.0:
        return x
    keep = draw_at(name, Keep(1.0 - rate), shape_of(x), places)
    return put(x, x if keep is None else apply(x, keep, rate), inplace)


class Dropping(Converted):
    """Dropout of single values, `nn.Dropout`."""

    p: float
    inplace: bool = False
    shape_of: Callable[[Tensor], Shape] = staticmethod(whole)
    apply_mask: Apply = staticmethod(dropped)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return input
        return drop(self.path, input, self.p, self._shape_of(), self.places, self.apply_mask, self.inplace)

    def _shape_of(self) -> Callable[[Tensor], Shape]:
        return self.shape_of


class DroppingChannels(Dropping):
    """`nn.Dropout2d`."""

    shape_of: Callable[[Tensor], Shape] = staticmethod(channels)


class DroppingSignals(Dropping):
    """`nn.Dropout1d`."""

    shape_of: Callable[[Tensor], Shape] = staticmethod(channels_of_signals)


class DroppingVolumes(Dropping):
    """`nn.Dropout3d`."""

    shape_of: Callable[[Tensor], Shape] = staticmethod(channels_of_volumes)


class DroppingAlpha(Dropping):
    """`nn.AlphaDropout`."""

    apply_mask: Apply = staticmethod(alpha_dropped)


class DroppingAlphaChannels(Dropping):
    """`nn.FeatureAlphaDropout`."""

    shape_of: Callable[[Tensor], Shape] = staticmethod(channels)
    apply_mask: Apply = staticmethod(alpha_dropped)


class DroppingBranches(Dropping):
    """`torchvision.ops.StochasticDepth`."""

    mode: str

    def _shape_of(self) -> Callable[[Tensor], Shape]:
        return rows if self.mode == "row" else once


def _uniform(key: random.Key, shape: Shape) -> Tensor:
    return random.uniform(key, shape)


def random_slopes(
    name: str, x: Tensor, bounds: tuple[float, float], training: bool, places: dict[str, Place], inplace: bool
) -> Tensor:
    """`x` where it is positive, else times a slope, drawn in the training phase and the mean of its range otherwise."""
    unit = draw_at(name, _uniform, x.shape, places) if training else None
    lower, upper = bounds
    slope: Any = (lower + upper) / 2 if unit is None else lower + (upper - lower) * unit.to(x.dtype)
    return put(x, torch.where(x >= 0, x, x * slope), inplace)


class RandomSlopes(Converted):
    """`nn.RReLU`."""

    lower: float
    upper: float
    inplace: bool

    def forward(self, input: Tensor) -> Tensor:
        bounds = (self.lower, self.upper)
        return random_slopes(self.path, input, bounds, self.training, self.places, self.inplace)


class Declared(Converted):
    """A module of the user's that declares its draw: `draw_noise(key, shape)` and `forward_with_noise(x, noise)`.

    In the training phase `forward(x)` is `forward_with_noise(x, noise)`, where the batch holds noise of the shape of x;
    the module's own `forward` serves the test phase. Arguments behind x are those of both.
    """

    draw_noise: Draw
    forward_with_noise: Callable[..., Any]

    def forward(self, *args: Any, **options: Any) -> Any:
        if not self.training:
            return super().forward(*args, **options)
        if current().drawn is not None:
            self._check(args, options)
        input, *more = args
        noise = draw_at(self.path, functools.partial(_declared, self), input.shape, self.places)
        return input if noise is None else self.forward_with_noise(input, noise, *more, **options)

    def _check(self, args: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Refuses a call that `forward_with_noise` cannot answer; once, where the net is listened to."""
        given = f"called with {len(args)} positional arguments" + (f" and {sorted(options)}" if options else "")
        if not args:
            raise ConfigError(f"The layer {self.path!r} is {given}; its input comes first, without a name.")
        try:
            inspect.signature(self.forward_with_noise).bind(args[0], None, *args[1:], **options)
        except TypeError as error:
            raise ConfigError(
                f"The layer {self.path!r} is {given}, for which its forward_with_noise(x, noise, ...) has {error}. Let "
                "it take what forward takes, with the noise behind the input."
            ) from error


def _declared(module: Declared, key: random.Key, shape: Shape) -> Tensor:
    return module.draw_noise(key, shape)
