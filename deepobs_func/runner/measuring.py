"""The `Execution` of a run, found by measuring some of its steps.

It is measured once for a machine and a configuration and kept there, so that a repeat of a run does the same
arithmetic. Another machine, or an empty cache, may measure another one; the record holds what was taken.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs
import torch
from filelock import FileLock

import deepobs_func
from deepobs_func.backend import onednn
from deepobs_func.backend.ranks import ALONE as ONE_PROCESS
from deepobs_func.backend.ranks import Ranks
from deepobs_func.base import Params
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.base import report_nothing
from deepobs_func.runner.agreeing import asked
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.identity import processor
from deepobs_func.runner.plan import Plan, has_compiler
from deepobs_func.runner.series import ALONE, Series

# Before anything is compiled, this is what is hoped for: that it takes so many seconds and saves this share of a step
# that is short or long. Measured on two cores: 8 to 40 s; 50 to 90 % of steps under 2 ms, 5 to 30 % of others.
EXPECTED_COMPILE = 30.0
EXPECTED_SAVING = {True: 0.6, False: 0.2}
# DeepOBS's protocol has ten seeds: one pays for compiling in full, nine find two thirds of it in the compiler's cache.
COMPILE_PER_RUN = 0.4
# Making a batch (gather, augmentation, noise) compiles in 2 to 5 s and saves 2 to 40 ms a step where much is drawn.
COMPILE_BATCH_FROM_STEPS = 2_000
# A call costs 50 to 100 microseconds beside its steps; the time to compile grows with the steps in it, slowly up to 6.
SHORT_STEP = 2e-3
# Where other programs have the cores, threads wait for each other: quadratic_deep's step, 0.35 ms, took 16 ms by two.
PERHAPS_SHORT_STEP = 0.1
MOST_STEPS_PER_CALL = 7
LEAST_GAIN = 0.95  # another order of the axes, or another number of threads, is taken from here on


class Timing(NamedTuple):
    """Seconds of the first call, which compiles, and of one step later."""

    first: float
    step: float


def timing(call: Callable[[], None], steps: int, device: torch.device, ranks: Ranks = ONE_PROCESS) -> Timing:
    """Times a function that makes some steps and waits for them: the fastest of the calls of a tenth of a second.

    Another program on the machine can only slow a call down, and the choice is kept when it is gone. One thread is
    timed by the processor's clock, which stands still while another program has the core: the workers of a study are
    measured while others run. Compiling, in the first call, takes processes of its own, and is timed by the wall. The
    function has its batches: the wait for a streamed one is in no timing, and is the same by every execution. Of
    several processes, the clock of the first one counts, so that all make as many calls.
    """
    first = ranks.from_first(_seconds(call, time.perf_counter))
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    seconds: list[float] = []
    while len(seconds) < 3 or (sum(seconds) < 0.1 and len(seconds) < 49):
        seconds.append(ranks.from_first(_seconds(call, clock)))
    return Timing(first, min(seconds) / steps)


def _seconds(call: Callable[[], None], clock: Callable[[], float]) -> float:
    start = clock()
    call()
    return clock() - start


Measure = Callable[[Execution], Timing]


def choose(plan: Plan, params: Params, measure: Measure, series: Series = ALONE, *, watched: bool = False) -> Execution:
    """Decides how a run is executed, by measuring, unless that was done before for this machine and configuration.

    Args:
        plan: the run.
        params: its parameters: their shapes tell apart problems of one name.
        measure: times some steps of the run; it raises what compiling raises.
        series: the study that the run is part of: it has choices of its own, made for all its runs.
        watched: whether callbacks see steps one by one.

    Raises:
        ConfigError: `compile="on"`, and the step cannot be compiled.
    """
    decide = functools.partial(_decide, plan, params, measure, series.runs, watched)
    return decided(plan, params, decide, *(["watched"] if watched else []), series=series)


def decided(plan: Plan, params: Params, decide: Callable[[], Execution], *more: Any, series: Series) -> Execution:
    """What was decided before for this machine and configuration, or what is decided now, which is kept.

    Args:
        plan: the run, or one of a population.
        params: its parameters.
        decide: called if nothing was decided before.
        more: what the decision depends on besides.
        series: the study that the run is part of, whose runs are all executed alike, however many are added.
    """
    if series.choices is None and series.runs > 1:
        more = (*more, series.runs)
    path = (series.choices or choices_dir()) / f"{_identity(plan, params, *more)}.json"
    with _alone(path) if series.choices else contextlib.nullcontext():
        kept = plan.ranks.from_first(_read(path))
        if kept is not None:
            return dataclasses.replace(kept, reason=f"{kept.reason} (decided in an earlier run)")
        execution = decide()
        _keep(path, execution)
        return plan.ranks.from_first(_read(path) or execution)  # that of another run that came first


def _alone(path: Path) -> FileLock:
    """Two runs of a study that start at once would measure each other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_suffix(".lock"))


def _decide(plan: Plan, params: Params, measure: Measure, runs: int, watched: bool) -> Execution:
    """The execution, measured."""
    eager = Execution(
        compile_batch=_compile_batch(plan),
        channels_last=plan.config.memory_format == "channels_last",
        onednn=plan.config.precision == "float32" and onednn.is_faster(plan.device, params),
        **asked(plan),
    )
    eager = plan.ranks.from_first(eager)  # what one process takes, all take
    seconds = measure(eager).step
    if plan.config.memory_format == "auto" and any(leaf.ndim == 4 for leaf in params.values()):
        eager, seconds = _if_faster(measure, eager, seconds, channels_last=True)
    if seconds <= PERHAPS_SHORT_STEP and plan.device.type == "cpu" and torch.get_num_threads() > 1:
        eager, seconds = _if_faster(measure, eager, seconds, threads=1)
    eager, seconds = _in_a_graph(plan, measure, eager, seconds)
    calls = 1 if watched else steps_per_call(plan, seconds)
    compiled = dataclasses.replace(eager, compile=True, compile_batch=True, steps_per_call=calls, cuda_graphs=False)
    if plan.config.compile == "on":
        return _as_asked(plan, compiled, measure)
    if plan.config.compile == "off":
        return dataclasses.replace(eager, reason="--compile off")
    if plan.config.activation_checkpointing:
        return dataclasses.replace(eager, reason="not compiled: activations are computed anew in eager code alone")
    if not (plan.problem.compile_step and has_compiler()):
        missing = "no C++ compiler was found" if plan.problem.compile_step else "the step is not worth compiling"
        return dataclasses.replace(eager, reason=f"not compiled: {missing}")
    steps = plan.steps_per_epoch * plan.epochs
    return _by_cost(plan, steps, eager, seconds, compiled, measure, runs)


def _as_asked(plan: Plan, compiled: Execution, measure: Measure) -> Execution:
    """What `--compile on` asks for, tried before the run starts."""
    try:
        compiled, trial = _trial(plan, measure, compiled)
    except Exception as error:  # Dynamo, Inductor and the C++ compiler raise all kinds
        raise ConfigError(
            f"--compile on: the step cannot be compiled ({first_line(error)}). Use --compile off, or auto, which then "
            "runs eager code."
        ) from error
    return dataclasses.replace(_in_a_graph(plan, measure, compiled, trial.step)[0], reason="--compile on")


def _trial(plan: Plan, measure: Measure, compiled: Execution) -> tuple[Execution, Timing]:
    """Compiled code and its times; with the rows of images one after the other where it fails with the channels last.

    On a GPU, Inductor expects another layout of the gradients of a transposed convolution than cuDNN gives
    (pytorch issue 171622).
    """
    try:
        return compiled, measure(compiled)
    except Exception:
        if not compiled.channels_last or plan.config.memory_format != "auto":
            raise
    # Outside of the handler, whose traceback holds the tensors of the trial that failed.
    compiled = dataclasses.replace(compiled, channels_last=False)
    return compiled, measure(compiled)


def first_line(error: Exception) -> str:
    """The type of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _if_faster(measure: Measure, execution: Execution, seconds: float, **changes: Any) -> tuple[Execution, float]:
    """The execution with some changes and its seconds a step, or the execution as it is."""
    other = dataclasses.replace(execution, **changes)
    other_seconds = measure(other).step
    return (other, other_seconds) if other_seconds < LEAST_GAIN * seconds else (execution, seconds)


def _in_a_graph(plan: Plan, measure: Measure, execution: Execution, seconds: float) -> tuple[Execution, float]:
    """In a CUDA graph, where that is faster; a step that looks at a value cannot be recorded."""
    if plan.device.type != "cuda" or not plan.optimizer.compiles or plan.ranks.size > 1:
        return execution, seconds
    try:
        return _if_faster(measure, execution, seconds, cuda_graphs=True)
    except Exception:  # what CUDA says of a recording, and torch of memory; without one it has just run
        return execution, seconds


def _by_cost(
    plan: Plan, steps: int, eager: Execution, seconds: float, compiled: Execution, measure: Measure, runs: int
) -> Execution:
    """Compiles where that can pay: a trial, and then the faster one."""
    total = f"{steps} steps of {1e3 * seconds:.3g} ms" + (f" in each of {runs} runs" if runs > 1 else "")
    steps, share = steps * runs, 1.0 if runs > 1 else COMPILE_PER_RUN
    cost = share * EXPECTED_COMPILE
    if steps * seconds * EXPECTED_SAVING[seconds <= SHORT_STEP] < cost:
        reason = f"not compiled: {total} are too few for the {cost:.0f} s that compiling costs"
        return dataclasses.replace(eager, reason=reason)
    try:
        compiled, trial = _trial(plan, measure, compiled)
    except Exception as error:  # Dynamo, Inductor and the C++ compiler raise all kinds; eager code has just run
        return dataclasses.replace(eager, reason=f"not compiled: the trial failed ({first_line(error)})")
    compiled, step = _in_a_graph(plan, measure, compiled, trial.step)
    measured = f"{1e3 * step:.3g} ms a step after {trial.first:.0f} s of compiling; {total} in eager code"
    if steps * (seconds - step) > share * trial.first:
        return dataclasses.replace(compiled, reason=f"compiled: {measured}")
    return dataclasses.replace(eager, reason=f"not compiled: {measured}")


def steps_per_call(plan: Plan, seconds: float) -> int:
    """The most, up to a limit, that divides an epoch evenly; one where nothing is gained or every step is looked at."""
    looked_at = plan.config.track or plan.optimizer.report is not report_nothing
    if looked_at or seconds > SHORT_STEP or plan.workers is not None or not plan.optimizer.compiles:
        return 1
    return max(k for k in range(1, MOST_STEPS_PER_CALL + 1) if plan.steps_per_epoch % k == 0)


def _compile_batch(plan: Plan) -> bool:
    if plan.config.compile == "off" or not has_compiler():
        return False
    drawn = bool(plan.problem.noises) or (bool(plan.problem.dataset.augment) and plan.workers is None)
    return drawn and plan.steps_per_epoch * plan.epochs >= COMPILE_BATCH_FROM_STEPS


def choices_dir() -> Path:
    """Where they are kept: in `$DEEPOBS_CACHE`, or the user's folder for what may be deleted."""
    return Path(os.environ.get("DEEPOBS_CACHE") or platformdirs.user_cache_dir("deepobs_func")) / "choices"


def _identity(plan: Plan, params: Params, *more: Any) -> str:
    """A hash of all that the fastest way depends on: the machine, versions, the problem's shapes, the optimizer."""
    config = plan.config
    known = {
        "machine": [platform.machine(), processor(), torch.get_num_threads(), _device(plan.device)],
        "versions": [deepobs_func.__version__, torch.__version__, platform.python_version()],
        "problem": [plan.problem.name, {name: list(leaf.shape) for name, leaf in params.items()}],
        "optimizer": [config.optimizer, sorted(config.hyperparams), config.lr_sched_epochs is not None],
        "steps": [
            plan.batch_size,
            plan.micro_batch,
            plan.ranks.size,
            config.bn_sync,
            plan.steps_per_epoch,
            plan.epochs,
        ],
        "deterministic": config.deterministic,
        "options": [config.compile, config.memory_format, config.precision, bool(config.track), has_compiler()],
        **({"activation_checkpointing": True} if config.activation_checkpointing else {}),
        **({"more": more} if more else {}),
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:32]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _read(path: Path) -> Execution | None:
    """A kept execution; None where there is none that can be read."""
    try:
        return Execution.from_plain_data(json.loads(path.read_text(encoding="utf-8")), str(path))
    except (OSError, ValueError):
        return None


def _keep(path: Path, execution: Execution) -> None:
    """Writes an execution, unless another run was first or the folder cannot be written; a broken file is replaced."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            draft = Path(folder, path.name)
            draft.write_text(json.dumps(execution.as_plain_data()), encoding="utf-8")
            if _read(path) is None:
                draft.replace(path)
    except OSError:
        return
