"""A step that needs more memory than there is names the pieces that fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from deepobs_func.backend.ranks import Ranks
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, make_plan, run
from deepobs_func.runner.fitting import naming_what_fits
from tests.runner.small import config, small_problem


def that_takes(most: int, error: Callable[[], Exception]) -> Problem:
    """The small problem, on a machine whose memory holds so many examples of a training batch."""
    problem = small_problem()

    def losses(outputs: Any, batch: Batch) -> Tensor:
        if outputs.requires_grad and len(batch.y) > most:
            raise error()
        return problem.measure.losses(outputs, batch)

    return replace(problem, measure=problem.measure._replace(losses=losses))


ERRORS = {
    "CUDA out of memory. Tried to allocate 2.00 GiB": torch.OutOfMemoryError,
    "[enforce fail] DefaultCPUAllocator: can't allocate memory": RuntimeError,
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`": RuntimeError,
}


@pytest.mark.parametrize("message", ERRORS)
@pytest.mark.parametrize("execution", [None, Execution()], ids=["measured", "given"])
def test_pieces_that_fit_are_named(message: str, execution: Execution | None) -> None:
    problem = that_takes(10, lambda: ERRORS[message](message))
    with pytest.raises(ConfigError, match=r"32 examples needs more memory than cpu.* Pieces of 8 fit: micro_batch 8"):
        run(config(compile="off"), problem, execution=execution)
    assert run(config(compile="off", micro_batch=8, epochs=1), problem).status == "finished"


def test_nothing_fits() -> None:
    with pytest.raises(ConfigError, match="Not even one example fits"):
        run(config(compile="off"), that_takes(0, MemoryError))


def test_coupled_examples_ask_for_a_smaller_batch() -> None:
    coupled = replace(that_takes(10, MemoryError), separable=False)
    with pytest.raises(ConfigError, match="couples the examples of a batch: take a smaller batch_size"):
        run(config(compile="off"), coupled)


def test_other_errors_are_their_own() -> None:
    with pytest.raises(RuntimeError, match="something else"):
        run(config(compile="off"), that_takes(10, lambda: RuntimeError("something else")))


def test_several_processes_try_nothing() -> None:
    """The others may not lack memory, and would not try with it."""
    plan = replace(make_plan(config(), small_problem()), ranks=Ranks(0, 2))
    tried: list[int] = []
    message = (
        "A step on 16 examples needs more memory .* Take pieces of fewer examples: micro_batch, or a smaller batch_"
    )
    with pytest.raises(ConfigError, match=message), naming_what_fits(plan, tried.append):
        raise MemoryError
    assert tried == []
