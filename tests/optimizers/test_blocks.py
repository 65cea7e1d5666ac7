"""Inverses of Kronecker factors, in halves and whole, beside LAPACK's."""

import pytest
import torch

from deepobs_func.optimizers import blocks

F64 = torch.float64


def positive(size, seed=0):
    rows = torch.randn(2 * size, size, dtype=F64, generator=torch.Generator().manual_seed(seed))
    return rows.T @ rows / size


@pytest.mark.parametrize("size", [1, 4, 5, 17, 40])
@pytest.mark.parametrize("small", [4, 256])
def test_rows_are_multiplied_by_the_inverse(size, small, monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", small)
    factors = {"w/rows": positive(size), "w/columns": positive(3, seed=1)}
    damping = torch.tensor(1e-2, dtype=F64)
    rows = torch.randn(6, size, dtype=F64, generator=torch.Generator().manual_seed(2))
    pi = torch.sqrt(factors["w/columns"].diagonal().mean() / factors["w/rows"].diagonal().mean())
    damped = factors["w/rows"] + 0.1 / pi * torch.eye(size, dtype=F64)
    inverses = blocks.inverses_of(factors, damping)
    assert {k: v.shape for k, v in inverses.items()} == {k: v.shape for k, v in factors.items()}
    assert all(leaf.is_contiguous() for leaf in inverses.values())  # as what they replace in a branch
    found = blocks.solved(rows, inverses["w/rows"])
    torch.testing.assert_close(found, torch.linalg.solve(damped, rows.T).T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("at", [0, 16])
def test_an_indefinite_half_makes_everything_nan(at, monkeypatch):
    """Whichever half it is; as long as the other one is there."""
    monkeypatch.setattr(blocks, "SMALL", 4)
    factor = positive(17)
    factor[at, at] = -1.0
    rows = torch.ones(2, 17, dtype=F64)
    assert blocks.solved(rows, blocks._inverse(factor)).isnan().any(1).all()


def test_members_are_inverted_together(monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", 4)
    factors = torch.stack([positive(9, seed) for seed in range(3)])
    damping, rows = torch.tensor([0.1, 0.2, 0.3], dtype=F64), torch.ones(3, 2, 9, dtype=F64)
    found = torch.vmap(lambda f, d, r: blocks.solved(r, blocks._damped_inverse(f, d)))(factors, damping, rows)
    damped = factors + damping[:, None, None] * torch.eye(9, dtype=F64)
    torch.testing.assert_close(found, torch.linalg.solve(damped, rows.mT).mT, rtol=1e-11, atol=1e-12)
