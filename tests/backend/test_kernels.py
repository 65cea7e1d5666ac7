"""The kernels in force belong to a thread."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from deepobs_func.backend.kernels import Kernels, current, using


def test_contexts_nest_and_end_with_an_exception() -> None:
    with using(fused=True), using(autocast=torch.bfloat16):
        assert current() == Kernels(fused=True, autocast=torch.bfloat16)
    with pytest.raises(KeyError), using(fused=True):
        raise KeyError
    assert current() == Kernels()


def test_threads_go_in_and_out_in_any_order() -> None:
    first, second = using(fused=True), using(onednn=True)
    with ThreadPoolExecutor(1) as pool:
        with first:
            pool.submit(second.__enter__).result()
            assert pool.submit(current).result() == Kernels(onednn=True)
            assert current() == Kernels(fused=True)
        assert current() == Kernels()
        pool.submit(second.__exit__).result()
        assert pool.submit(current).result() == Kernels()
    assert current() == Kernels()
