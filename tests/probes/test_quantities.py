"""The gradient-noise quantities against their definitions, spelled out over the examples in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import random
from deepobs_func.errors import ConfigError
from deepobs_func.probes import quantities as q
from deepobs_func.probes.quantities import LineSample


def gradients(size: int, seed: int) -> dict[str, torch.Tensor]:
    key = random.key(seed)
    shapes = {"a": (3, 2), "b": (), "c": (4,)}
    return {
        name: 0.3 + random.normal(random.fold_in(key, i), (size, *shape), torch.float64)
        for i, (name, shape) in enumerate(shapes.items())
    }


def matrix(grads: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in grads.values()], 1).numpy()


@settings(max_examples=30, deadline=None)
@given(size=st.integers(2, 9), seed=st.integers(0, 1000))
def test_definitions(size: int, seed: int) -> None:
    grads = gradients(size, seed)
    G = matrix(grads)  # noqa: N806, the field's letter
    gram, mean, B = torch.from_numpy(G @ G.T), G.mean(0), size  # noqa: N806
    total = {name: leaf.sum(0) for name, leaf in grads.items()}
    scatter = {name: ((leaf - leaf.mean(0)) ** 2).sum(0) for name, leaf in grads.items()}
    squared = mean @ mean
    close = lambda ours, expected: np.testing.assert_allclose(ours.item(), expected, rtol=1e-7, atol=1e-9)

    variance = (sum(g @ g for g in G) - B * squared) / (B - 1)
    close(q.norm_test(gram), np.sqrt(variance / (B * squared)))
    variance = (sum((g @ mean) ** 2 for g in G) - B * squared**2) / (B - 1)
    close(q.inner_product_test(gram), np.sqrt(variance / (B * squared**2)))
    variance = sum(g @ g - (g @ mean) ** 2 / squared for g in G) / (B - 1)
    close(q.orthogonality_test(gram), np.sqrt(variance / (B * squared)))
    trace = np.trace(np.cov(G.T, ddof=0))
    close(q.covariance_trace(gram), trace)
    close(q.noise_scale(gram), trace / squared)
    losses = torch.arange(1.0, size + 1, dtype=torch.float64)
    close(q.cabs(gram, losses, 0.1), 0.1 * trace / losses.mean().item())
    close(q.early_stopping(total, scatter, B), 1 - B * np.mean(mean**2 / (G.var(0, ddof=1) + 1e-5)))
    close(q.mean_gsnr(total, scatter, B), np.mean(mean**2 / ((G**2).mean(0) - mean**2 + 1e-5)))
    diagonal = {name: leaf[0] ** 2 + 0.1 for name, leaf in grads.items()}
    close(q.tic_diag(total, scatter, diagonal, B), np.sum((G**2).mean(0) / (G[0] ** 2 + 0.1 + 1e-7)))
    close(q.tic_trace(gram, torch.tensor(2.5)), np.mean([g @ g for g in G]) / (2.5 + 1e-7))


def on_a_parabola(t: float, minimum: float, bend: float) -> LineSample:
    """Two examples whose mean is `bend (t - minimum)^2`; they differ by a constant and a slope."""
    value, slope = bend * (t - minimum) ** 2, 2 * bend * (t - minimum)
    losses = torch.tensor([value - 1, value + 1], dtype=torch.float64)
    return LineSample(losses, torch.tensor([slope - 1, slope + 1], dtype=torch.float64))


@pytest.mark.parametrize(("step", "expected"), [(0.5, -0.5), (1.0, 0.0), (2.0, 1.0), (3.0, 2.0)])
def test_alpha_on_a_parabola(step: float, expected: float) -> None:
    """Its minimum is at t = 1, so alpha is t - 1."""
    length = torch.tensor(step, dtype=torch.float64)
    alpha = q.alpha(on_a_parabola(0.0, 1.0, 3.0), on_a_parabola(step, 1.0, 3.0), length)
    assert alpha.item() == pytest.approx(expected)


def test_alpha_downhill_and_nowhere() -> None:
    length = torch.tensor(1.0, dtype=torch.float64)
    assert q.alpha(on_a_parabola(0.0, 5.0, -1.0), on_a_parabola(1.0, 5.0, -1.0), length) == -1
    assert q.alpha(on_a_parabola(0.0, 1.0, 1.0), on_a_parabola(0.0, 1.0, 1.0), 0 * length) == -1


def test_alpha_weighs_by_the_inverse_variance() -> None:
    """Slopes that are known exactly decide, whatever the noisy values say."""
    noisy = torch.tensor([-100.0, 300.0], dtype=torch.float64)
    start, end = LineSample(noisy, torch.full((2,), -2.0).double()), LineSample(noisy, torch.full((2,), 2.0).double())
    assert q.alpha(start, end, torch.tensor(1.0).double()).item() == pytest.approx(1.0, abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(size=st.integers(1, 5), seed=st.integers(0, 100))
def test_histograms_are_numpys_with_clipped_ends(size: int, seed: int) -> None:
    grads = gradients(size, seed)
    params = {name: 3 * leaf[0] for name, leaf in gradients(1, seed + 1).items()}
    flat = matrix(grads)
    edge = lambda limit: np.nextafter(limit, 0)
    expected, _ = np.histogram(np.clip(flat, -2, edge(2)), bins=100, range=(-2, 2))
    np.testing.assert_array_equal(q.grad_hist_1d(grads), expected)
    values = np.broadcast_to(matrix({name: leaf[None] for name, leaf in params.items()}), flat.shape)
    clipped = np.clip(flat, -1, edge(1)), np.clip(values, -2, edge(2))
    expected, _, _ = np.histogram2d(clipped[0].ravel(), clipped[1].ravel(), bins=(40, 50), range=((-1, 1), (-2, 2)))
    np.testing.assert_array_equal(q.grad_hist_2d(grads, params), expected)


def test_histograms_leave_out_nan_and_clip_infinity() -> None:
    grads = {"a": torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.0]])}
    counts = q.grad_hist_1d(grads)
    assert counts.sum() == 3
    assert counts[0] == counts[-1] == counts[50] == 1


def test_distances() -> None:
    a, b = (
        {"x": torch.tensor([0.0, 3.0]), "y": torch.tensor(0.0)},
        {"x": torch.tensor([0.0, 0.0]), "y": torch.tensor(4.0)},
    )
    assert q.distance(a, b) == q.update_size(a, b) == 5


@pytest.mark.parametrize("test", [q.norm_test, q.inner_product_test, q.orthogonality_test])
def test_one_example_has_no_variance(test: object) -> None:
    with pytest.raises(ConfigError, match=r"1 example\(s\) do not have; take a batch of 2"):
        test(torch.ones(1, 1))
    with pytest.raises(ConfigError, match="early-stopping criterion needs the variance"):
        q.early_stopping({"a": torch.ones(1)}, {"a": torch.ones(1)}, 1)
    one = LineSample(torch.ones(1), torch.ones(1))
    with pytest.raises(ConfigError, match="alpha needs the variance"):
        q.alpha(one, one, torch.ones(()))
