"""The augmentation against a slow NumPy reference of the formulas, one pixel at a time, on the same random numbers."""

import math
from collections.abc import Callable
from time import perf_counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from torch import Tensor

from deepobs_func import datasets, random
from deepobs_func.datasets import augment, prepare

SIDE = 5  # the formulas know no size; small images leave Hypothesis time for many
PIXELS = np_st.arrays(np.uint8, (2, 3, SIDE, SIDE))
UNCLAMPED = np_st.arrays(np.float64, (2, 3, SIDE, SIDE), elements=st.floats(-40.0, 300.0, width=16))
FEW_COLOURS = np_st.arrays(
    np.float64, (2, 3, SIDE, SIDE), elements=st.sampled_from([-1.0, -0.25, 0.0, 0.25, 1.0, 255.0])
)
BATCH, FULL = 4, (4, 3, 32, 32)


def numbers(low: float, high: float) -> st.SearchStrategy[list[float]]:
    return st.lists(st.floats(low, high), min_size=2, max_size=2)


def slow_crop(image: np.ndarray, top: int, left: int, flipped: bool) -> np.ndarray:
    channels, height, width = image.shape
    out = np.zeros_like(image)
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                row, column = top + i - 2, left + j - 2
                if 0 <= row < height and 0 <= column < width:
                    out[c, i, width - 1 - j if flipped else j] = image[c, row, column]
    return out


def to_hsv(r: float, g: float, b: float) -> tuple[float, float, float]:
    """Hue in sixths of a turn; value and chroma are unclamped."""
    value, chroma = max(r, g, b), max(r, g, b) - min(r, g, b)
    if chroma == 0:
        hue = 0.0
    elif value == r:
        hue = ((g - b) / chroma) % 6
    elif value == g:
        hue = (b - r) / chroma + 2
    else:
        hue = (r - g) / chroma + 4
    return hue, chroma / value if value > 0 else 0.0, value


def to_rgb(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    def channel(n: int) -> float:
        k = (n + hue) % 6
        return value - value * saturation * max(0.0, min(k, 4 - k, 1.0))

    return channel(5), channel(3), channel(1)


def slow_saturate(image: np.ndarray, factor: float) -> np.ndarray:
    out = np.empty_like(image)
    for i in range(image.shape[1]):
        for j in range(image.shape[2]):
            hue, saturation, value = to_hsv(*image[:, i, j].tolist())
            out[:, i, j] = to_rgb(hue, min(max(saturation * factor, 0.0), 1.0), value)
    return out


def slow_contrast(image: np.ndarray, factor: float) -> np.ndarray:
    return np.stack([(channel - channel.mean()) * factor + channel.mean() for channel in image])


def slow_standardize(image: np.ndarray) -> np.ndarray:
    values = image.ravel().tolist()
    mean = math.fsum(values) / len(values)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return (image - mean) / max(std, 1 / math.sqrt(len(values)))


def slow_all(image: np.ndarray, draws: augment.Draws, b: int) -> np.ndarray:
    top, left, flipped, brightness, saturation, contrast = (column[b].item() for column in draws)
    x = slow_crop(image, top, left, flipped).astype(np.float64) + brightness
    return slow_standardize(slow_contrast(slow_saturate(x, saturation), contrast))


def assert_equal(found: Tensor, images: np.ndarray, slow: Callable[..., np.ndarray], *columns: list) -> None:
    expected = np.stack([slow(image, *row) for image, *row in zip(images, *columns, strict=True)])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-10)


@given(
    images=PIXELS,
    top=st.lists(st.integers(0, 4), min_size=2, max_size=2),
    left=st.lists(st.integers(0, 4), min_size=2, max_size=2),
    flipped=st.lists(st.booleans(), min_size=2, max_size=2),
)
def test_crop(images: np.ndarray, top: list[int], left: list[int], flipped: list[bool]) -> None:
    found = augment.crop(torch.from_numpy(images), torch.tensor(top), torch.tensor(left), torch.tensor(flipped))
    assert found.dtype == torch.uint8
    assert_equal(found, images, slow_crop, top, left, flipped)


@given(images=PIXELS, delta=numbers(-augment.BRIGHTNESS, augment.BRIGHTNESS))
def test_brighten(images: np.ndarray, delta: list[float]) -> None:
    found = augment.brighten(torch.from_numpy(images), torch.tensor(delta, dtype=torch.float64))
    assert_equal(found, images, lambda image, d: image.astype(np.float64) + d, delta)


@given(images=st.one_of(UNCLAMPED, FEW_COLOURS), factor=numbers(0.0, 1.5))
def test_saturate(images: np.ndarray, factor: list[float]) -> None:
    found = augment.saturate(torch.from_numpy(images), torch.tensor(factor, dtype=torch.float64))
    assert_equal(found, images, slow_saturate, factor)


@given(images=UNCLAMPED, factor=numbers(0.2, 1.8))
def test_change_contrast(images: np.ndarray, factor: list[float]) -> None:
    found = augment.change_contrast(torch.from_numpy(images), torch.tensor(factor, dtype=torch.float64))
    assert_equal(found, images, slow_contrast, factor)


@given(images=st.one_of(UNCLAMPED, FEW_COLOURS))
def test_standardize(images: np.ndarray) -> None:
    assert_equal(augment.standardize(torch.from_numpy(images)), images, slow_standardize)


@pytest.mark.parametrize("value", [0, 7, 255])
def test_an_image_of_one_colour_becomes_zeros(value: int) -> None:
    x = torch.full(FULL, value, dtype=torch.uint8)
    torch.testing.assert_close(prepare.standardized(x, torch.float32), torch.zeros(FULL), rtol=0, atol=1e-3)


@settings(max_examples=5)
@given(seed=st.integers(0, 2**32))
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_all_together(name: str, seed: int) -> None:
    x = random.integers(random.key(seed), 256, FULL).to(torch.uint8)
    draws = datasets.spec(name).function("draw")(random.key(seed + 1), BATCH, torch.float64)
    found = augment.distort(x, draws)
    expected = np.stack([slow_all(image, draws, b) for b, image in enumerate(x.numpy())])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-10)
    single = augment.distort(x, datasets.spec(name).function("draw")(random.key(seed + 1), BATCH, torch.float32))
    torch.testing.assert_close(single, found.float(), rtol=1e-4, atol=1e-4)


def test_draws_have_their_ranges_and_are_independent() -> None:
    draws = augment.draw(random.key(3), 20_000, torch.float64)
    for offset in (draws.top, draws.left):
        assert (torch.bincount(offset) - 4_000).abs().max() < 300  # 5 standard deviations are 283
    assert abs(draws.flipped.double().mean() - 0.5) < 0.02
    for values, (low, high) in (
        (draws.brightness, (-63 / 255, 63 / 255)),
        (draws.saturation, (0.5, 1.5)),
        (draws.contrast, (0.2, 1.8)),
    ):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 0.02 * (high - low)
    correlation = torch.corrcoef(torch.stack([column.double() for column in draws]))
    assert (correlation - torch.eye(6)).abs().max() < 0.04


def test_same_numbers_in_both_precisions() -> None:
    single, double = (augment.draw(random.key(5), 50, dtype) for dtype in (torch.float32, torch.float64))
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_a_population_is_its_members(name: str) -> None:
    draw = datasets.spec(name).function("draw")

    def function(x: torch.Tensor, key: random.Key) -> torch.Tensor:
        return augment.distort(x, draw(key, len(x), torch.float32))

    x = random.integers(random.key(0), 256, FULL).to(torch.uint8)
    keys = random.split(random.key(1), 3)
    population = torch.func.vmap(lambda key: function(x, key))(keys)
    torch.testing.assert_close(population, torch.stack([function(x, key) for key in keys]), rtol=1e-5, atol=1e-5)


@pytest.mark.large
@pytest.mark.parametrize("name", ["cifar10", "svhn"])
def test_one_graph(name: str) -> None:
    draw = datasets.spec(name).function("draw")

    def function(x: torch.Tensor, key: random.Key, dtype: torch.dtype) -> torch.Tensor:
        return augment.distort(x, draw(key, len(x), dtype))

    x = random.integers(random.key(0), 256, FULL).to(torch.uint8)
    keys = random.split(random.key(1), 3)
    single = torch.stack([function(x, key, torch.float32) for key in keys])
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(x, keys[0], torch.float32), single[0], rtol=1e-5, atol=1e-5)
    # Both at once, as the runner does it: the outermost function is compiled.
    together = torch.compile(
        torch.func.vmap(lambda x, key: function(x, key, torch.float32)), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(together(torch.stack([x] * 3), keys), single, rtol=1e-5, atol=1e-5)


def whole(x: torch.Tensor, key: random.Key) -> torch.Tensor:
    return augment.distort(x, augment.draw(key, len(x), torch.float32))


def test_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    whole(torch.zeros(FULL, dtype=torch.uint8), random.key(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_an_image_is_distorted_alone() -> None:
    """Whatever lies beside it: its numbers depend on its place in the batch, not on the size of the batch."""
    x = random.integers(random.key(0), 256, (80, 3, 32, 32)).to(torch.uint8)
    draws = augment.draw(random.key(1), 80, torch.float64)
    for many, few in zip(draws, augment.draw(random.key(1), 7, torch.float64), strict=True):
        assert torch.equal(many[:7], few)
    whole = augment.distort(x, draws)
    rows = [augment.distort(x[b : b + 1], augment.Draws(*(column[b : b + 1] for column in draws))) for b in range(80)]
    torch.testing.assert_close(whole, torch.cat(rows), rtol=1e-12, atol=1e-12)


def test_costs_a_batch_not_many_images() -> None:
    """A batch of 128 takes less time than eight images one by one: nothing loops over examples."""
    x = random.integers(random.key(0), 256, (128, 3, 32, 32)).to(torch.uint8)

    def seconds(run: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = perf_counter()
            run()
            times.append(perf_counter() - start)
        return min(times)

    one_by_one = seconds(lambda: [whole(image[None], random.key(0)) for image in x[:8]])
    assert seconds(lambda: whole(x, random.key(0))) < one_by_one
