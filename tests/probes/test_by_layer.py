"""Quantities of each layer, and what follows from Gram matrices, against loops over examples in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func import probes, random, tree
from deepobs_func.errors import ConfigError
from deepobs_func.probes import quantities as q
from deepobs_func.probes.by_layer import COMPUTE, grams_by_layer, layers_of
from deepobs_func.probes.catalog import LAYER, QUANTITIES, row_of
from deepobs_func.probes.kernel import ntk
from deepobs_func.probes.tracked import DENSITY_POINTS, LARGEST, TrackedStep, track
from tests.probes import oracles, toys
from tests.probes.test_tracked import IDS, MODES, step_of

OF_LAYERS = tuple(name + LAYER for name, row in QUANTITIES.items() if row.by_layer)


def rows(step: TrackedStep) -> list[dict[str, torch.Tensor]]:
    """The gradient of each example, by one backward pass each; of batch norm the mode `coupled`."""
    if step.problem.separable:
        return oracles.one_at_a_time(step.problem, step.before, step.batch)
    return oracles.rows_of_the_jacobian(step.problem, step.before, step.batch)


def matrices(step: TrackedStep) -> dict[str, np.ndarray]:
    """By layer, the gradients of the examples, `(B, P of the layer)`."""
    found = rows(step)
    return {
        layer: np.stack([np.concatenate([row[name].numpy().ravel() for name in names]) for row in found])
        for layer, names in {"conv1": ("conv1.weight", "conv1.bias"), "conv2": ("conv2.weight",)}.items()
    } | {
        "dense": np.stack(
            [np.concatenate([row[f"dense.{n}"].numpy().ravel() for n in ("weight", "bias")]) for row in found]
        )
    }


def from_examples(G: np.ndarray) -> dict[str, float]:  # noqa: N803, the field's letter
    """The definitions, of the gradients of the examples."""
    B, mean = len(G), G.mean(0)  # noqa: N806
    covariance = np.trace(np.cov(G.T, ddof=1))
    squared = mean @ mean - covariance / B
    return {
        "norm_test": np.sqrt(covariance / (B * mean @ mean)),
        "inner_test": np.sqrt(np.var(G @ mean, ddof=1) / (B * (mean @ mean) ** 2)),
        "ortho_test": np.sqrt(sum(g @ g - (g @ mean) ** 2 / (mean @ mean) for g in G) / (B - 1) / (B * mean @ mean)),
        "noise_scale": np.trace(np.cov(G.T, ddof=0)) / (mean @ mean),
        "grad_diversity": sum(g @ g for g in G) / (G.sum(0) @ G.sum(0)),
        "grad_cov_trace": covariance,
        "grad_sq_norm": squared,
        "critical_batch_size": covariance / squared if squared > 0 else np.inf,
        "early_stopping": 1 - B * np.mean(mean**2 / (G.var(0, ddof=1) + 1e-5)),
        "mean_gsnr": np.mean(mean**2 / (G.var(0) + 1e-5)),
    }


@pytest.mark.parametrize(("norm", "bn"), [(False, None), (True, "coupled")], ids=["separable", "coupled"])
def test_each_layer_and_the_net_against_loops_over_the_examples(norm: bool, bn: str | None) -> None:
    step = step_of(norm, bn)
    found = matrices(step)
    if norm:
        found["norm"] = np.stack(
            [np.concatenate([row[f"norm.{n}"].numpy() for n in ("weight", "bias")]) for row in rows(step)]
        )
    layers = list(layers_of(step.before))
    assert set(layers) == set(found)
    names = tuple(from_examples(found["dense"]))
    tracked = track(_named(step, (*names, *(name + LAYER for name in names))))
    whole = np.concatenate([found[layer] for layer in layers], 1)
    for name in names:
        assert tracked[name] == pytest.approx(from_examples(whole)[name], rel=1e-8), name
        expected = [from_examples(found[layer])[name] for layer in layers]
        assert tracked[name + LAYER] == pytest.approx(expected, rel=1e-8), name


def _named(step: TrackedStep, names: tuple[str, ...]) -> TrackedStep:
    return TrackedStep(step.problem, step.batch, step.before, step.after, step.start, step.lr, step.key, names, step.bn)


@pytest.mark.parametrize(("norm", "bn"), MODES, ids=IDS)
def test_the_grams_of_the_layers_add_up_to_that_of_the_net(norm: bool, bn: str | None) -> None:
    step = step_of(norm, bn)
    grams = grams_by_layer(step.problem, step.before, step.batch, bn=bn)
    torch.testing.assert_close(
        torch.stack(list(grams.values())).sum(0), probes.gram(step.problem, step.before, step.batch, bn=bn)
    )


def test_parameters_without_formulas_have_grams_by_layer_too() -> None:
    problem, params, batch = _toy("classifier")
    plain = lambda p, b: problem.loss(p, b)  # of which no layer is known
    ours, theirs = grams_by_layer(problem, params, batch), grams_by_layer(plain, params, batch)
    for layer in ours:
        torch.testing.assert_close(ours[layer], theirs[layer])


def _toy(kind: str) -> tuple[Any, Any, Any]:
    problem = toys.toy(kind)
    return problem, *toys.instance(problem)


def dense_hessian(step: TrackedStep) -> np.ndarray:
    """By one backward pass for each row."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in step.before.items()}
    loss = step.problem.loss(leaves, step.batch).mean()
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
    entries = torch.cat([part.flatten() for part in first])
    second = (torch.autograd.grad(entry, list(leaves.values()), retain_graph=True) for entry in entries)
    return np.stack([torch.cat([part.flatten() for part in row]).numpy() for row in second])


def test_curvature_of_each_layer_is_that_of_its_block() -> None:
    problem, before, batch = _toy("classifier")
    names = ("hess_max_ev/layer", "hess_trace/layer", "hess_trace", "hess_spectrum")
    step = TrackedStep(problem, batch, before, before, before, 0.1, random.key(3), names)
    tracked, hessian = track(step), dense_hessian(step)
    sizes = [sum(before[name].numel() for name in names) for names in layers_of(before).values()]
    ends = np.cumsum(sizes)
    blocks = [hessian[end - size : end, end - size : end] for size, end in zip(sizes, ends, strict=True)]
    largest = [np.linalg.eigvalsh(block)[-1] for block in blocks]
    assert tracked["hess_max_ev/layer"] == pytest.approx(largest, rel=1e-8)
    assert sum(tracked["hess_trace/layer"]) == pytest.approx(tracked["hess_trace"], rel=1e-10)
    for block, size, end, trace in zip(blocks, sizes, ends, tracked["hess_trace/layer"], strict=True):
        # With Rademacher vectors the variance of v_l . (H v)_l is 2 |offdiagonal block|^2 + |rest of the rows|^2.
        whole = hessian[end - size : end]
        variance = 2 * ((block**2).sum() - (np.diag(block) ** 2).sum()) + (whole**2).sum() - (block**2).sum()
        assert abs(trace - np.trace(block)) < 5 * np.sqrt(variance / 10)
    grid, density = np.array(tracked["hess_spectrum"])
    assert grid.shape == density.shape == (DENSITY_POINTS,)
    values = np.linalg.eigvalsh(hessian)
    assert grid[0] < values[0]
    assert values[-1] < grid[-1]
    assert np.trapezoid(density, grid) == pytest.approx(1.0, rel=1e-2)


def test_sizes_of_each_layer() -> None:
    step = step_of(False, None, ("update_ratio", "update_ratio/layer", "update_size/layer", "distance/layer"))
    tracked, update = track(step), tree.sub(step.after, step.before)

    def norms(of: dict[str, torch.Tensor]) -> list[float]:
        groups = [("conv1.weight", "conv1.bias"), ("conv2.weight",), ("dense.weight", "dense.bias")]
        return [float(torch.cat([of[name].flatten() for name in group]).norm()) for group in groups]

    ratios = [u / p for u, p in zip(norms(update), norms(step.before), strict=True)]
    assert tracked["update_ratio/layer"] == pytest.approx(ratios, rel=1e-12)
    assert tracked["update_size/layer"] == pytest.approx(norms(update), rel=1e-12)
    assert tracked["distance/layer"] == pytest.approx(norms(tree.sub(step.after, step.start)), rel=1e-12)
    whole = np.linalg.norm(norms(update)) / np.linalg.norm(norms(step.before))
    assert tracked["update_ratio"] == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize(("norm", "bn"), [(False, None), (True, "coupled")], ids=["separable", "coupled"])
def test_spectra_of_covariance_and_ntk_against_dense_matrices(norm: bool, bn: str | None) -> None:
    step = step_of(norm, bn, ("grad_cov_spectrum", "ntk_spectrum"))
    found = np.stack([oracles.flat(row).numpy() for row in rows(step)])
    covariance = np.linalg.eigvalsh(np.cov(found.T, ddof=0))[::-1][: len(found)]
    tracked = track(step)
    np.testing.assert_allclose(tracked["grad_cov_spectrum"][: len(found)], covariance, rtol=1e-8, atol=1e-12)
    assert tracked["grad_cov_spectrum"][len(found) :] == [0.0] * (LARGEST - len(found))
    jacobian = jacobian_of_the_outputs(step)
    np.testing.assert_allclose(
        ntk(step.problem, step.before, step.batch, bn=bn).numpy(), jacobian @ jacobian.T, rtol=1e-8, atol=1e-10
    )
    expected = np.linalg.eigvalsh(jacobian @ jacobian.T / len(found))[::-1][:LARGEST]
    np.testing.assert_allclose(tracked["ntk_spectrum"], expected, rtol=1e-8, atol=1e-10)


def jacobian_of_the_outputs(step: TrackedStep) -> np.ndarray:
    """One backward pass from each output of each example."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in step.before.items()}
    outputs = step.problem.outputs(leaves, step.batch).flatten()
    return np.stack([oracles.flat(oracles.gradient(output, leaves)).numpy() for output in outputs])


@pytest.mark.parametrize("kind", ["regressor", "sequence", "vae"])
def test_ntk_of_outputs_of_every_kind(kind: str) -> None:
    problem, params, batch = _toy(kind)
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    parts = torch.utils._pytree.tree_leaves(problem.outputs(leaves, batch))
    outputs = torch.cat([part.reshape(len(batch.x), -1) for part in parts], 1).flatten()
    jacobian = np.stack([oracles.flat(oracles.gradient(output, leaves)).numpy() for output in outputs])
    np.testing.assert_allclose(ntk(problem, params, batch).numpy(), jacobian @ jacobian.T, rtol=1e-8, atol=1e-10)


def test_what_has_no_kernel_is_refused() -> None:
    problem, params, batch = _toy("classifier")
    with pytest.raises(ConfigError, match="takes a Problem and no plain loss"):
        ntk(lambda p, b: problem.loss(p, b), params, batch)
    with pytest.raises(ConfigError, match=r"more than 2\. Take a smaller batch"):
        ntk(problem, params, batch, most=2)


def test_names_of_layers() -> None:
    assert {row_of(name).name for name in OF_LAYERS} == {name + LAYER for name in COMPUTE}
    with pytest.raises(ConfigError, match=r"'grad_nrm/layer'. Did you mean 'grad_norm/layer'"):
        row_of("grad_nrm/layer")
    with pytest.raises(ConfigError, match=r"alpha is of the whole net alone. Those of each layer are grad_norm, "):
        row_of("alpha/layer")


def test_a_layer_quantity_is_the_same_alone_and_among_all() -> None:
    step = step_of(True, "frozen", OF_LAYERS)
    together = track(step)
    for name in OF_LAYERS:
        assert track(_named(step, (name,)))[name] == together[name], name
        assert len(together[name]) == len(layers_of(step.before))


def test_where_nothing_is_finite_the_eigenvalues_are_nan() -> None:
    """As where a run diverged: LAPACK raises an error there, which would end the run."""
    problem, params, batch = _toy("classifier")
    params = {name: leaf * math.inf for name, leaf in params.items()}
    names = ("hess_max_ev", "hess_max_ev/layer", "hess_spectrum", "grad_cov_spectrum", "ntk_spectrum")
    step = TrackedStep(problem, batch, params, params, params, 0.1, random.key(0), names)
    for value in track(step).values():
        assert np.isnan(np.array(value)).any()


def test_equal_gradients_have_least_diversity_and_no_noise() -> None:
    gram = torch.full((4, 4), 2.0, dtype=torch.float64)
    assert q.grad_diversity(gram) == 0.25
    assert q.critical_batch_size(gram) == 0
    assert q.critical_batch_size(torch.eye(4, dtype=torch.float64)) == torch.inf  # orthogonal: no common part is seen
