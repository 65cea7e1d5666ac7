"""The nets in JAX are ours: the same losses, products and norms."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("name", ["mnist_logreg", "mnist_mlp", "mnist_2c2d", "quadratic_deep", "mnist_vae"])
def test_both_compute_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import jax_beside
    from deepobs_func import problems

    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    problem = problems.get(name)
    found = jax_beside.batches(problem, 4, 2)
    ours = jax_beside.Ours(problem, found, [problem.fake_batch(5, seed=99)])
    apart = jax_beside.differences(ours, jax_beside.Theirs(ours))
    assert set(apart) == set(jax_beside.ROWS)
    assert max(apart.values()) < jax_beside.TOLERANCE
