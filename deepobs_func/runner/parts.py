"""Whether a batch can be cut, into pieces or among processes, as a configuration asks for it."""

from __future__ import annotations

from deepobs_func import optimizers
from deepobs_func.backend.ranks import Ranks
from deepobs_func.errors import ConfigError, option
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.problems.pieces import check_pieces
from deepobs_func.problems.problem import Problem
from deepobs_func.runner.config import RunConfig


def check_parts(config: RunConfig, problem: Problem, ranks: Ranks) -> None:
    """Refuses to cut a batch where the problem or the configuration does not allow it.

    Args:
        config: resolved.
        problem: of the run.
        ranks: the processes.

    Raises:
        ConfigError: the batch cannot be cut as it is asked for.
    """
    size = config.batch_size or 0
    if config.micro_batch is not None and config.micro_batch < size // ranks.size:
        check_pieces(problem, f"{option('micro_batch')} {config.micro_batch}")
    if ranks.size == 1:
        return
    if size % ranks.size:
        below = size - size % ranks.size
        raise ConfigError(
            f"{option('batch_size')} {size} does not divide among {ranks.size} processes. Take "
            f"{f'{below} or ' if below else ''}{below + ranks.size}, or another number of processes."
        )
    if not problem.separable and not problem.normalizes:
        raise ConfigError(
            f"{problem.name} cannot be trained by {ranks.size} processes: the loss of an example depends on the other "
            "examples of its batch, which another process has. Run it in one process."
        )
    if problem.normalizes and config.bn_sync == "sync" and not problem.synchronises:
        raise ConfigError(
            f"{option('bn_sync')}: the batch norm of {problem.name} is of a module of your own, whose statistics are "
            f"those of each process's shard. Say so: {option('bn_sync')} local."
        )
    if config.track:
        raise ConfigError(
            f"{option('track')} looks at whole batches, of which each of {ranks.size} processes has a shard. Track in "
            "a run of one process."
        )


def check_curvature(config: RunConfig, optimizer: Optimizer, ranks: Ranks) -> None:
    """Refuses an optimizer whose curvature cannot be computed of a batch as it is cut.

    Args:
        config: resolved.
        optimizer: of the run.
        ranks: the processes.

    Raises:
        ConfigError: `curvature_batch` is more than the batch, or of a batch that processes share; or the optimizer
            takes gradients by layers, which are of one piece of the batch, and that is in several.
    """
    size, part = config.batch_size or 0, optimizer.curvature_batch
    if part is not None and part > size:
        raise ConfigError(
            f"{option('optimizer')} {config.optimizer} computes curvature of {part} examples (curvature_batch), and a "
            f"batch has {size}: take at most these, or a larger batch_size."
        )
    if optimizer.by_layers:
        _check_layers(config, part or size, ranks)
    elif part is not None and ranks.size > 1:
        raise ConfigError(
            f"{option('hyperparams.curvature_batch')} {part}: {config.optimizer} takes the curvature of the first "
            f"examples of a batch, and {ranks.size} processes have a shard of it each. Leave it out, so that the "
            "curvature is of the whole batch, or run in one process."
        )


def _check_layers(config: RunConfig, needed: int, ranks: Ranks) -> None:
    """Of an optimizer that takes gradients by layers of so many examples at once."""
    why = f"{option('optimizer')} {config.optimizer}: its factors are computed from all examples at once"
    if ranks.size > 1:
        raise ConfigError(
            f"{why}, of which {ranks.size} processes have a shard each. Run it in one process, or take soap or "
            "shampoo, which need the gradient alone."
        )
    piece = config.micro_batch
    if piece is not None and piece < needed:
        raise ConfigError(
            f"{why}, {needed}, and {option('micro_batch')} {piece} allows fewer. Give "
            f"{option('hyperparams.curvature_batch')} of at most {piece}, leave {option('micro_batch')} out, or take "
            "soap or shampoo, which need the gradient alone."
        )


def check_recomputation(config: RunConfig, problem: Problem, optimizer: Optimizer) -> None:
    """Refuses activation checkpointing where it would save no memory.

    Args:
        config: resolved.
        problem: of the run.
        optimizer: of the run.

    Raises:
        ConfigError: the net has no blocks, the step is to be compiled, or the optimizer asks for more than gradients.
    """
    if not config.activation_checkpointing:
        return
    asked = option("activation_checkpointing")
    if not problem.in_blocks:
        raise ConfigError(
            f"{asked}: the net of {problem.name} is not made of blocks that this package can compute anew. Take pieces "
            f"of the batch: {option('micro_batch')}."
        )
    if config.compile == "on":
        raise ConfigError(
            f"{asked} is of eager code; the compiler decides itself what a compiled step keeps. Leave "
            f"{option('compile')} on out, or this."
        )
    spec = optimizers.FUNCTIONAL.get(config.optimizer)
    if optimizer.by_layers or (spec is not None and not spec.gradient_only):
        raise ConfigError(
            f"{asked}: {config.optimizer} asks for curvature or per-example gradients, which keep all activations, "
            "since torch.func refuses to compute them anew. Take an optimizer of the gradient alone, or "
            f"{option('micro_batch')}."
        )
