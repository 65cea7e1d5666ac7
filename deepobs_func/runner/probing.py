"""Probes of the checkpoints of a run: what tracking would have found there, and more.

    record = probe_run("results/.../random_seed__42__....json", "hess_max_ev,trace", at=[0, 5, 10])

At a checkpoint a quantity is that of the step which the run makes next: on its batch, with its noise and key, around
its update. So it equals the same quantity tracked in the run, bit for bit (same machine, versions and execution).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from deepobs_func import random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError, UserError, option
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.probes.by_layer import layers_of
from deepobs_func.probes.catalog import LAYER, row_of
from deepobs_func.probes.data_set import DataSetPoint, check_data_set, of_data_set
from deepobs_func.probes.tracked import TrackedStep, track
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner.batches import Batches, make_batches
from deepobs_func.runner.checkpoint import Checkpoint, differences
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.order import epoch_order, test_rows, valid_rows
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.runner.probe_entries import entry_of
from deepobs_func.runner.probe_means import check_means, mean_of, with_parts
from deepobs_func.runner.probed import Kept, kept_of, write
from deepobs_func.runner.resuming import configuration_in
from deepobs_func.runner.step import Carry, StepInput, laid_out, make_batch, make_gather, make_train_step
from deepobs_func.runner.tracking import make_tracked_step

OVER = ("batch", "train", "valid", "test")


@dataclass(frozen=True)
class Point:
    """Where a run is probed.

    Attributes:
        epoch: how many epochs were complete.
        step: how many steps of the next one were made.
        checkpoint: the file; None for the start of the run, which needs none.
    """

    epoch: int
    step: int
    checkpoint: Checkpoint | None = None


@dataclass(frozen=True)
class How:
    """The other arguments of `probe_run`, by the same names."""

    over: str = "batch"
    batches: int | None = None
    bn: str | None = None
    data: str | Path | None = None
    output: str | Path | None = None
    problem: Problem | None = None
    optimizer: Optimizer | Any = None
    progress: Callable[[int, int], None] = lambda done, of: None


class Probed(NamedTuple):
    """What a probe has done.

    Attributes:
        record: of the run, with all that was probed until now.
        entry: what this probe found, as an entry of `extra["probed"]`.
    """

    record: RunRecord
    entry: Mapping[str, Any]


def probe_run(
    path: str | Path,
    quantities: Sequence[str] | str,
    at: Sequence[int] | str = "all",
    *,
    over: str = "batch",
    batches: int | None = None,
    bn: str | None = None,
    data: str | Path | None = None,
    output: str | Path | None = None,
    problem: Problem | None = None,
    optimizer: Optimizer | Any = None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> RunRecord:
    """Computes quantities at kept checkpoints of a run, into its record, from where figures and reports have them.

    They are at the parameters that the optimizer takes gradients at. For schedule-free methods that is y, while the
    losses in the record are evaluated at their average x (`Optimizer.eval_params`).

    Args:
        path: a record, finished or partial, whose checkpoints were kept; or one checkpoint.
        quantities: names of `probes.catalog`, `NAME/layer` among them, or presets; or one string, with commas.
        at: epochs, 0 for the start, which needs no checkpoint; `"last"`; or `"all"`.
        over: `"batch"`, the batch of the step that the run makes there; or a whole data set, `"train"`, `"valid"` or
            `"test"`, in whole batches, without augmentation and dropout; a recurrent state goes on from batch to batch.
        batches: of `"batch"`, how many: the mean over that many steps' batches, with its standard error (of
            `critical_batch_size`, the ratio of the means of the estimates that it is made of); of a data set, its first
            so many, by default all.
        bn: as `track_bn` of the configuration; by default the run's. A data set takes `"eval"` where batch norm couples
            the examples.
        data: where the data are, if not where the run had them.
        output: a new file to write the record to instead of its own.
        problem, optimizer: as given to `run`, if it was given one.
        progress: called with how many points are done, and of how many.

    Returns:
        The record, with what was found under `extra["probed"]`. A run that has no record yet gets a partial one.

    Raises:
        DataError: the file is no record and no checkpoint.
        ConfigError: the run has no checkpoints, or none of an epoch; a quantity is unknown, is not defined, or has no
            mean over batches; `at` is empty.

    >>> from deepobs_func import RunConfig, run
    >>> config = RunConfig("quadratic_deep", "sgd", 0.01, epochs=2, checkpoint_every=1, keep=2)
    >>> record = probe_run(run(config).record.path, "hess_max_ev,grad_norm", at=[0, 2])
    >>> record.extra["probed"][0]["quantities"]["hess_max_ev"]["steps"]
    [0, 14]
    """
    how = How(over, batches, bn, data, output, problem, optimizer, progress)
    return probe(path, quantities, at, how).record


def probe(path: str | Path, quantities: Sequence[str] | str, at: Sequence[int] | str, how: How) -> Probed:
    """What `probe_run` does, with what was found apart from what the record had before.

    Args:
        path, quantities, at: as there.
        how: its other arguments.

    Raises:
        DataError, ConfigError: as there.
    """
    if how.output is not None and Path(how.output).expanduser().exists():
        raise ConfigError(f"{option('output')} {how.output} is there already. Name a new file, or move that one.")
    kept = kept_of(path)
    plan = _plan(kept, quantities, how)
    points = _points(kept, at, plan.steps_per_epoch)
    _check(plan, how.over, how.batches)
    quantities_at = _Probe(plan, how.over, how.batches, kept)
    found = []
    for number, point in enumerate(points):
        found.append((plan.steps_per_epoch * point.epoch + point.step, point, quantities_at(point)))
        how.progress(number + 1, len(points))
    about = {
        "over": how.over,
        "batches": how.batches if how.over != "batch" else how.batches or 1,
        "bn": plan.config.track_bn,
        "layers": list(layers_of(plan.problem.shapes)) if any(n.endswith(LAYER) for n in plan.tracked) else None,
        "execution_id": quantities_at.execution.id(plan.device),
        "environment": plan.environment,
    }
    entry = entry_of(about, plan.tracked, found)
    return Probed(write(kept, entry, plan, how.output), entry)


def _plan(kept: Kept, quantities: Sequence[str] | str, how: How) -> Plan:
    """The plan of the run, with other quantities to track.

    Raises:
        ConfigError: it is another run than that of the file, or a quantity is unknown or not defined.
    """
    names = quantities.replace(",", " ").split() if isinstance(quantities, str) else list(quantities)
    if not names:
        raise ConfigError(f"{option('quantities')}: there is none. Name one at least, such as hess_max_ev.")
    given = how.problem is not None or how.optimizer is not None
    config = RunConfig(**kept.head["configuration"]) if given else configuration_in(kept.head, kept.path)
    changes: dict[str, Any] = {"track": tuple(names), "track_bn": how.bn or config.track_bn}
    if how.data is not None:
        changes["data"] = how.data
    try:
        plan = make_plan(dataclasses.replace(config, **changes), how.problem, how.optimizer)
    except UserError as error:
        raise type(error)(error.told(lambda name: option(_NAMES.get(name, name)))) from error
    if plan.run_id != kept.head["run_id"]:
        differing = differences(kept.head.get("identity", {}), plan.identity) if "identity" in kept.head else ""
        raise ConfigError(
            f"{kept.path} is of another run than this code makes{differing and ': '}{differing}. Probe it with the "
            "version of the package, and the problem and optimizer, that made it."
        )
    return plan


_NAMES: Mapping[str, str] = {"track": "quantities", "track_bn": "bn"}  # what a probe calls fields of a configuration


def _points(kept: Kept, at: Sequence[int] | str, whole: int) -> list[Point]:
    """Where the run is probed, in order; after the last of the `whole` steps of an epoch, the next one begins.

    Raises:
        ConfigError: it has no checkpoints, or none there; the message has those that there are.
    """
    steps = {each.head["epoch"] * whole + each.head["step"]: each for each in kept.checkpoints()}
    there = [Point(step // whole, step % whole, each) for step, each in sorted(steps.items())]
    if not there and at in ("all", "last"):
        raise ConfigError(f"{kept.path} has no checkpoints in {kept.folder}. {_KEEP}")
    if at == "all":
        return there
    if at == "last":
        return there[-1:]
    if not at:
        raise ConfigError(f"{option('at')}: there is no epoch. Give all, last, or epochs with commas, such as 0,5,10.")
    if isinstance(at, str):
        raise ConfigError(f"{option('at')} {at}: it must be all, last, or epochs with commas, such as 0,5,10.")
    found = {point.epoch: point for point in there if point.step == 0}
    found.setdefault(0, Point(0, 0))
    for epoch in at:
        if epoch not in found:
            known = ", ".join(map(str, sorted(found)))
            between = [f"step {point.step} of epoch {point.epoch + 1}" for point in there if point.step]
            more = f", and at {', '.join(between)} (--at all)" if between else ""
            raise ConfigError(
                f"{option('at')} {epoch}: there is no checkpoint after epoch {epoch} of {kept.path}; there are those "
                f"of {known}{more} (0 is the start, which needs none). {'' if there else _KEEP}".rstrip()
            )
    return [found[epoch] for epoch in sorted(set(at))]


_KEEP = "Run it with --checkpoint-every 1 --keep 1000, which keeps one for each epoch; --at 0, the start, needs none."


def _check(plan: Plan, over: str, batches: int | None) -> None:
    if over not in OVER:
        raise ConfigError(f"{option('over')} {over}: it must be {', '.join(OVER[:-1])} or {OVER[-1]}.")
    if batches is not None and batches < 1:
        raise ConfigError(f"{option('batches')} {batches}: it must be a whole number from 1.")
    if over == "valid" and not plan.valid:
        raise ConfigError(f"{option('over')} valid: the run set no examples aside; take train or test.")
    if over == "batch":
        check_means(plan.tracked, batches or 1)
    else:
        check_data_set(plan.problem, plan.tracked, plan.config.track_bn)


class _Probe:
    """Computes the quantities of a plan at a point of its run."""

    def __init__(self, plan: Plan, over: str, count_: int | None, kept: Kept) -> None:
        self.plan, self.over, self.count = plan, over, count_ if over != "batch" else count_ or 1
        self.key = random.key(plan.config.seed, plan.device)
        self.execution = dataclasses.replace(kept.execution(), steps_per_call=1).alone
        self.batches: Batches = make_batches(plan, self.key)
        self.start = plan.problem.init(self.key)[0]
        self.make_batch = make_batch(plan.problem)
        how = (plan.problem, plan.optimizer, self.execution, plan.config.precision)
        self.train_step = make_train_step(*how) if any(row_of(name).of_update for name in plan.tracked) else None

    def __call__(self, point: Point) -> dict[str, Any]:
        """By quantity, its value and, of a mean over batches, its standard error."""
        with self.execution.apply(self.plan.config.precision, self.plan.device):
            carry = self._carry(point)
            if self.over != "batch":
                values = of_data_set(self._data_set_point(point, carry), self.plan.tracked)
                return {name: (value, None) for name, value in values.items()}
            first = point.epoch * self.plan.steps_per_epoch + point.step
            with closing(self._inputs(point)) as inputs:
                each = [self._tracked(carry, first + n, given) for n, given in enumerate(islice(inputs, self.count))]
        return {name: mean_of(name, each) for name in self.plan.tracked}

    def _carry(self, point: Point) -> Carry:
        """Parameters, optimizer state and model state, as the run has them before its next step."""
        plan = self.plan
        if point.checkpoint is not None:
            carry = point.checkpoint.carry(plan)
        else:
            params, state = plan.problem.init(self.key)
            if self.execution.channels_last:
                params = {name: laid_out(leaf) for name, leaf in params.items()}
            carry = Carry(params, plan.optimizer.init(params, self.key), state)
        if point.step:
            return carry
        zeros = plan.problem.zero_carry(plan.batch_size, device=plan.device)
        return carry._replace(state=carry.state._replace(carry=zeros))

    def _inputs(self, point: Point) -> Generator[StepInput]:
        """What the next steps take, from epoch to epoch."""
        start = point.step
        for epoch in count(point.epoch):
            with closing(self.batches.epoch(epoch, 1, start)) as calls:
                yield from calls
            start = 0

    def _tracked(self, carry: Carry, index: int, inputs: StepInput) -> dict[str, Any]:
        """As tracking has it, of the step with this number."""
        plan, after = self.plan, carry
        if self.train_step is not None:
            own = plan.optimizer.load(plan.optimizer.save(carry.opt_state), carry.params, self.key)
            after, _ = self.train_step(carry._replace(opt_state=own), inputs)
        batch = self.make_batch(carry.state, inputs.one(0))
        step: TrackedStep = make_tracked_step(plan, index, batch, carry.params, after.params, self.start)
        return track(step if self.count == 1 else dataclasses.replace(step, names=with_parts(step.names)))

    def _data_set_point(self, point: Point, carry: Carry) -> DataSetPoint:
        index = point.epoch * self.plan.steps_per_epoch + point.step
        key = random.fold_in(random.fold_in(self.key, random.PROBE), index)
        batches = _DataSet(self.plan, self.batches, self.over, self.count, carry)
        return DataSetPoint(self.plan.problem, carry.params, batches, key, self.plan.config.track_bn)


class _DataSet:
    """The batches of a split, as often as they are asked for."""

    def __init__(self, plan: Plan, batches: Batches, split: str, most: int | None, carry: Carry) -> None:
        self._plan, self._batches, self._split, self._most, self._carry = plan, batches, split, most, carry
        self._gather = make_gather(plan.problem, augment=False)

    def __iter__(self) -> Iterator[Any]:
        plan, spec, key = self._plan, self._plan.problem.dataset, random.key(0, self._plan.device)
        if self._split == "test":
            rows = test_rows(spec, plan.batch_size, plan.device)
        elif self._split == "valid":
            rows = valid_rows(spec, plan.batch_size, plan.valid, plan.device)
        else:
            rows = epoch_order(plan.protocol, spec, self._batches.key, 0, plan.batch_size, plan.valid).flatten()
        chunks = rows.unflatten(0, (-1, plan.batch_size))[: self._most]
        zeros = plan.problem.zero_carry(plan.batch_size, device=plan.device)
        state = self._carry.state._replace(carry=zeros)
        split = "test" if self._split == "test" else "train"
        with closing(self._batches.chunks(split, chunks, key, False)) as found:
            for part, chosen_rows in found:
                x, y = self._gather(part, chosen_rows, ())
                batch = Batch(x, y, {}, state)
                yield batch
                if zeros:  # it goes on, as in an evaluation; the moments are those of the run
                    with torch.no_grad():
                        after = plan.problem.loss_and_state(self._carry.params, batch)[1]
                    state = state._replace(carry=after.carry)
