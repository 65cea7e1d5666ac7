"""The training-time distortions of the 32 x 32 colour images, a whole batch at a time, on any device.

The formulas are those of DeepOBS 1.1.2 (`datasets/cifar10.py`, `svhn.py`) and of the TensorFlow 1 image operators
that it calls. Pixels are on the scale 0..255 and never clamped. Every operator takes its random numbers as arguments,
one per image, which `draw` and `draw_unflipped` draw from a key. All are pure: they run eagerly, under `vmap` and
compiled.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from deepobs_func import random
from deepobs_func.backend.operators import opaque

MARGIN = 2  # zeros on each side before the crop: 32 + 2 * 2 = 36
BRIGHTNESS = 63 / 255  # next to nothing on pixels in 0..255, as in the reference
SATURATION = (0.5, 1.5)
CONTRAST = (0.2, 1.8)

Images = Float[Tensor, "B C H W"]


class Draws(NamedTuple):
    """The random numbers of a batch, each `(B,)`.

    Attributes:
        top, left: of the crop, int64 in `0 .. 2 * MARGIN`.
        flipped: whether the image is mirrored.
        brightness: `U(-63/255, 63/255)`.
        saturation: `U(0.5, 1.5)`.
        contrast: `U(0.2, 1.8)`.
    """

    top: Int[Tensor, " B"]
    left: Int[Tensor, " B"]
    flipped: Bool[Tensor, " B"]
    brightness: Float[Tensor, " B"]
    saturation: Float[Tensor, " B"]
    contrast: Float[Tensor, " B"]


def draw(key: random.Key, batch_size: int, dtype: torch.dtype) -> Draws:
    """Draws the random numbers of a batch of CIFAR-10 or CIFAR-100: six words an image, whatever the batch size.

    Args:
        key: every number of the batch is drawn from it; or `(steps, 2)`, a key for each batch.
        batch_size: B.
        dtype: of what is not a whole number.

    Returns:
        The numbers, `(B,)`, or `(steps, B)`.
    """
    # One hash for all: eagerly, its 150 small operations cost as much as the images do.
    words = random.bits(key.unsqueeze(-2), batch_size * len(Draws._fields)).unflatten(-1, (batch_size, -1))
    words = words.movedim(-1, 0)
    unit = (words[3:] >> 8).to(dtype) * 2.0**-24
    return Draws(
        top=(words[0] * (2 * MARGIN + 1)) >> 32,
        left=(words[1] * (2 * MARGIN + 1)) >> 32,
        flipped=words[2] >= 2**31,
        brightness=BRIGHTNESS * (2 * unit[0] - 1),
        saturation=SATURATION[0] + (SATURATION[1] - SATURATION[0]) * unit[1],
        contrast=CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * unit[2],
    )


def draw_unflipped(key: random.Key, batch_size: int, dtype: torch.dtype) -> Draws:
    """The same for SVHN: nothing is flipped, since a mirrored digit is not a digit."""
    draws = draw(key, batch_size, dtype)
    return draws._replace(flipped=torch.zeros_like(draws.flipped))


def distort(x: UInt8[Tensor, "B C H W"], draws: Draws) -> Images:
    """Training inputs of the reference: crop, flip, brightness, saturation, contrast, standardization, in this order.

    Args:
        x: pixels 0..255.
        draws: the random numbers of the batch.

    Returns:
        `(B, C, H, W)` in the dtype of the drawn numbers, mean 0 and standard deviation 1 per image.
    """
    # Out of a fused kernel, single bytes are gathered seven times slower on a CPU.
    cut = _CROP if torch.compiler.is_compiling() and x.device.type == "cpu" else crop
    x = cut(x, draws.top, draws.left, draws.flipped)  # still bytes: a quarter of the memory of what follows
    x = saturate(brighten(x, draws.brightness), draws.saturation)
    return standardize(change_contrast(x, draws.contrast))


def crop(x: Tensor, top: Int[Tensor, " B"], left: Int[Tensor, " B"], flipped: Bool[Tensor, " B"]) -> Tensor:
    """Pads with zeros, cuts out a window of the old size, and mirrors it left to right where `flipped`.

    `out[b, c, i, j] = padded[b, c, top_b + i, left_b + j]`, with `W - 1 - j` in place of `j` where it is flipped.

    Args:
        x: `(B, C, H, W)`, any dtype, which is kept.
        top, left: in `0 .. 2 * MARGIN`.
        flipped: `(B,)`.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (MARGIN,) * 4)
    columns = torch.arange(width, device=x.device)
    columns = left[:, None] + torch.where(flipped[:, None], width - 1 - columns, columns)
    rows = top[:, None] + torch.arange(height, device=x.device)
    pixels = (rows[:, :, None] * padded.shape[-1] + columns[:, None, :]).flatten(1)
    return padded.flatten(2).gather(2, pixels[:, None].expand(-1, x.shape[1], -1)).unflatten(2, (height, width))


def _like_crop(x: Tensor, top: Tensor, left: Tensor, flipped: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _crop_each(
    info: Any, axes: Sequence[int | None], x: Tensor, top: Tensor, left: Tensor, flipped: Tensor
) -> tuple[Tensor, int]:
    """Under `vmap`: all batches as one."""
    given = (x, top, left, flipped)
    stacked = [
        each.expand(info.batch_size, *each.shape) if axis is None else each.movedim(axis, 0)
        for each, axis in zip(given, axes, strict=True)
    ]
    return crop(*(each.flatten(0, 1) for each in stacked)).unflatten(0, stacked[0].shape[:2]), 0


_CROP = opaque("crop(Tensor x, Tensor top, Tensor left, Tensor flipped) -> Tensor", crop, _like_crop)
torch.library.register_vmap("deepobs_func::crop", _crop_each)


def brighten(x: Tensor, delta: Float[Tensor, " B"]) -> Images:
    """Adds a number to all pixels of an image: `x + delta_b`, in the dtype of `delta`."""
    return x.to(delta.dtype) + _per_image(delta)


def saturate(x: Images, factor: Float[Tensor, " B"]) -> Images:
    """Scales the saturation by `factor >= 0`: RGB to HSV, `S := clip(S factor, 0, 1)`, and back.

    Hue and value stay, so each channel moves along the line through the value: with `V = max_c x_c`,
    `m = min_c x_c`, `S = (V - m) / V` (0 where `V <= 0`), the way through HSV and back is

        x_c := V + (x_c - V) * r,   r = clip(S factor, 0, 1) / S = min(factor, 1 / S)

    and `r = 0` where `V <= 0`. `S > 1` occurs where brightness has made the smallest channel negative.
    """
    value, least = x.amax(1, keepdim=True), x.amin(1, keepdim=True)
    spread = least.neg_().add_(value).clamp_min_(1e-30)  # a grey pixel stays as it is, whatever r
    ratio = torch.minimum(value.clamp_min(0).div_(spread), _per_image(factor))
    return torch.lerp(value, x, ratio)


def change_contrast(x: Images, factor: Float[Tensor, " B"]) -> Images:
    """Scales the distance from each channel's mean: `(x - m_c) factor + m_c`, `m_c` over `H x W`."""
    return torch.lerp(x.mean((2, 3), keepdim=True), x, _per_image(factor))


def standardize(x: Images) -> Images:
    """Per-image standardization: `(x - mean) / max(std, 1 / sqrt(N))` over all `N = C H W` values, population std."""
    centred = x - x.mean((1, 2, 3), keepdim=True)
    root = centred[0].numel() ** 0.5
    std = torch.linalg.vector_norm(centred, dim=(1, 2, 3), keepdim=True) / root
    return centred.div_(std.clamp_min(1 / root))


def _per_image(values: Float[Tensor, " B"]) -> Float[Tensor, "B 1 1 1"]:
    return values[:, None, None, None]
