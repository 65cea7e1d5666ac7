"""What processes tell each other, seen from one of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from deepobs_func.backend.ranks import ALONE, Ranks, Summed
from deepobs_func.errors import ConfigError


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process with the same numbers."""
    monkeypatch.setattr(dist, "all_reduce", lambda x: x.mul_(2))


@pytest.mark.usefixtures("doubled")
def test_a_sparse_gradient_is_summed_as_a_dense_one() -> None:
    sparse = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), (3, 2), check_invariants=True
    )
    found = Ranks(0, 2).sum({"a": sparse, "b": torch.ones(2)})
    assert found["a"].tolist() == [[0, 0], [8, 12], [0, 0]]
    assert found["b"].tolist() == [2, 2]
    assert Ranks(0, 2).mean(sparse).tolist() == [[0, 0], [4, 6], [0, 0]]
    assert Summed.apply(sparse).tolist() == [[0, 0], [8, 12], [0, 0]]


def raising() -> Tensor:
    raise ConfigError("results cannot be written.")


class OddError(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} {two}")


def odd() -> None:
    raise OddError(1, 2)


def test_what_process_0_raises_is_raised_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(Ranks, "from_first", lambda self, value: sent.append(value) or value)
    with pytest.raises(ConfigError, match="results cannot be written"):
        Ranks(0, 2).by_first(raising)
    with pytest.raises(OddError, match="1 2"):
        Ranks(0, 2).by_first(odd)
    assert Ranks(0, 2).by_first(lambda: 3) == 3
    monkeypatch.setattr(Ranks, "from_first", lambda self, value: sent.pop(0))
    with pytest.raises(ConfigError, match="results cannot be written"):
        Ranks(1, 2).by_first(lambda: None)
    with pytest.raises(RuntimeError, match="Process 0 raised OddError: 1 2"):
        Ranks(1, 2).by_first(lambda: None)
    assert Ranks(1, 2).by_first(lambda: 4) == 3
    assert ALONE.by_first(lambda: 5) == 5
