"""What to do about a step that needs more memory than there is: the pieces of a batch that would fit, by trying."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from deepobs_func.errors import ConfigError, option
from deepobs_func.runner.plan import Plan

_SAID = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")  # by what raises a plain RuntimeError

Try = Callable[[int], object]
"""Makes a step in pieces of so many examples, and raises what torch raises."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the processor's memory, had no more to give."""
    said = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(each in said for each in _SAID)


@contextmanager
def naming_what_fits(plan: Plan, attempt: Try) -> Generator[None]:
    """Within it, a lack of memory becomes a mistake of the configuration, with the mend.

    Args:
        plan: the run.
        attempt: a step in pieces.

    Yields:
        Nothing.

    Raises:
        ConfigError: memory ran out.
    """
    try:
        yield
        return
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
    # Outside of the handler, whose traceback holds the tensors of the step that failed.
    raise ConfigError(_mend(plan, attempt, said))


def can_recompute(plan: Plan) -> bool:
    """Whether activations could be computed anew, and are not yet."""
    return plan.problem.in_blocks and not plan.config.activation_checkpointing


def _mend(plan: Plan, attempt: Try, said: str) -> str:
    start = f"A step on {plan.shard_size} examples needs more memory than {plan.device} has ({said})."
    if not plan.problem.separable:
        anew = f", or give {option('activation_checkpointing')}" if can_recompute(plan) else ""
        smaller = f"take a smaller {option('batch_size')}{anew}"
        return f"{start} {plan.problem.name} couples the examples of a batch: {smaller}."
    if plan.optimizer.by_layers:
        return (
            f"{start} {plan.config.optimizer} computes its factors from all examples at once: take a smaller "
            f"{option('batch_size')} or {option('hyperparams.curvature_batch')}."
        )
    if plan.ranks.size > 1:  # the others do not try, and may not lack memory
        return f"{start} Take pieces of fewer examples: {option('micro_batch')}, or a smaller {option('batch_size')}."
    size = _fitting(plan.micro_batch or plan.shard_size, attempt, plan.device)
    if size is None:
        return f"{start} Not even one example fits."
    return f"{start} Pieces of {size} fit: {option('micro_batch')} {size}."


def _fitting(too_many: int, attempt: Try, device: torch.device) -> int | None:
    """The largest half, quarter, ... that fits."""
    size = too_many // 2
    while size:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            size //= 2
        else:
            return size
    return None
