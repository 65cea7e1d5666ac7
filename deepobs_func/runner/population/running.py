"""Many runs of one structure as one training: seeds x learning rates x hyperparameters.

    population = run_population(config, seeds=range(10), lrs=[1e-3, 1e-2])
    for member in population.members:
        print(member.config.seed, member.config.lr, member.record.test_losses[-1])

Each member is a run like any other: it has its own file, its own `run_id`, and the numbers that it would have alone,
rounding aside.
"""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from deepobs_func import records
from deepobs_func.backend.memory import keep_freed_memory
from deepobs_func.errors import ConfigError, option
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import signals
from deepobs_func.runner.agreeing import agreed, check_kept
from deepobs_func.runner.callbacks import Callback
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.keeping import checkpoint_folder, finished, newest
from deepobs_func.runner.log import Log
from deepobs_func.runner.loop import RunInterrupted, go_on_or_start, run
from deepobs_func.runner.plan import Plan, make_plan
from deepobs_func.runner.population import keeping
from deepobs_func.runner.population.block import Block
from deepobs_func.runner.population.choice import blocks, choose_way, most_together
from deepobs_func.runner.population.keeping import Found, Kept, population_id
from deepobs_func.runner.population.members import (
    Member,
    Population,
    PopulationInterrupted,
    check_members,
    is_number,
)
from deepobs_func.runner.population.way import Shared
from deepobs_func.runner.probe_entries import write_record
from deepobs_func.runner.recording import make_record
from deepobs_func.runner.series import Series
from deepobs_func.runner.signals import SHIELD
from deepobs_func.runner.step import Carry

Watch = Callable[[int, int], None]
"""`(epochs that are complete, members that train)`, called after each evaluation of members that train side by side."""


def run_population(
    config: RunConfig,
    *,
    seeds: Sequence[int] | None = None,
    lrs: Sequence[float] | None = None,
    hyperparameters: Sequence[Mapping[str, Any]] | None = None,
    problem: Problem | None = None,
    optimizer: Any = None,
    callbacks: Sequence[Callback] = (),
    execution: Execution | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> Population:
    """Trains the product of seeds, learning rates and hyperparameters as one, and records each run by itself.

    Args:
        config: what is common to all runs.
        seeds, lrs: by default the configuration's own.
        hyperparameters: sets of them, each in place of those of the configuration that it names.
        problem, optimizer: your own, as for `run`.
        callbacks: see each run's events; with some, each run goes by itself, as it does with `micro_batch`.
        execution: how, e.g. `Execution(way="vmap", members=8)`; by default measured.
        resume: whether to go on from the last checkpoint, and to leave out what is finished.
        watch: called after each evaluation of members that train side by side.

    Returns:
        The runs. One that fails costs itself alone: its `error` says why.

    Raises:
        ConfigError, DataError: the population cannot start; nothing was trained.
        PopulationInterrupted: Ctrl-C, SIGTERM or SIGHUP. `resume=True` goes on from its checkpoint.

    >>> config = RunConfig("quadratic_deep", "momentum", lr=1e-3, epochs=2, output_dir=None)
    >>> population = run_population(config, seeds=[1, 2], lrs=[1e-3, 1e-2])
    >>> [(member.config.seed, member.config.lr, member.status) for member in population.members]
    [(1, 0.001, 'finished'), (1, 0.01, 'finished'), (2, 0.001, 'finished'), (2, 0.01, 'finished')]
    """
    for name, values in (("seeds", seeds), ("lrs", lrs), ("hyperparameters", hyperparameters)):
        if values is not None and not len(values):
            raise ConfigError(f"{option(name)} is empty, so that there is no run. Leave it out, or give some.")
    configs = [
        dataclasses.replace(config, seed=seed, lr=lr, hyperparams={**config.hyperparams, **chosen})
        for seed in (seeds if seeds is not None else [config.seed])
        for lr in (lrs if lrs is not None else [config.lr])
        for chosen in (hyperparameters if hyperparameters is not None else [{}])
    ]
    how: dict[str, Any] = {"execution": execution, "resume": resume, "watch": watch}
    return Population(tuple(run_members(configs, problem=problem, optimizer=optimizer, callbacks=callbacks, **how)))


def run_members(
    configs: Sequence[RunConfig],
    *,
    problem: Problem | None = None,
    optimizer: Any = None,
    callbacks: Sequence[Callback] = (),
    execution: Execution | None = None,
    resume: bool = False,
    watch: Watch | None = None,
    together: bool = False,
    about: Mapping[str, Mapping[str, Any]] | None = None,
    series: Series | None = None,
) -> list[Member]:
    """Trains runs of one `structure` as a population.

    Args:
        configs: of the runs, which are all different.
        problem, optimizer, callbacks, execution, resume, watch: as for `run_population`.
        together: whether, when it is resumed, members that are finished train again beside those that are not, so that
            the numbers of these do not depend on where it was interrupted; what is written stays as it is.
        about: what the records state of a study, by run id.
        series: the study that the runs are part of; by default they are one.

    Returns:
        The runs, in the order of the configurations.

    Raises:
        ConfigError, DataError: the population cannot start; nothing was trained.
        PopulationInterrupted: as for `run_population`.
    """
    keep_freed_memory()
    plans = [make_plan(config, problem, optimizer) for config in configs]
    _share_code(plans)
    check_members(configs, plans)
    with signals.caught(), SHIELD.raised():
        running = _Running(plans, (problem, optimizer), callbacks, resume=resume, watch=watch)
        running.together, running.about = together, about or {}
        running.series = series or Series(len(plans))
        return running.run(execution)


def _share_code(plans: Sequence[Plan]) -> None:
    """Digests the problem once: its data may be large. With hyperparameters that are code, each run has its own."""
    first = plans[0] if plans else None
    for plan in plans[1:]:
        assert first is not None, "there are some"
        alike = plan.problem == first.problem and plan.chosen.code is first.chosen.code
        if alike and all(map(is_number, (*plan.chosen.hyperparams.values(), *first.chosen.hyperparams.values()))):
            vars(plan)["code"] = first.code


def _by_itself(plan: Plan) -> bool:
    """Whether a run is executed in a way that a population has not."""
    return bool(plan.config.track or plan.micro_batch or plan.config.activation_checkpointing)


class _Running:
    """A population under way, block after block."""

    def __init__(
        self,
        plans: Sequence[Plan],
        given: tuple[Any, Any],
        callbacks: Sequence[Callback],
        *,
        resume: bool,
        watch: Watch | None,
    ) -> None:
        self._plans, self._given, self._callbacks, self._watch = list(plans), given, callbacks, watch
        self._resume, self._output_dir = resume, plans[0].config.output_dir
        self._ended: dict[int, Member] = {}
        self._shared: Shared | None = None
        self.together, self.series = False, Series(len(plans))
        self.about: Mapping[str, Mapping[str, Any]] = {}

    def run(self, execution: Execution | None) -> list[Member]:
        """Trains all that are not finished."""
        if execution is not None:
            execution = agreed(self._plans[0], execution)
        restored = self._look_back()
        for _, found in restored:
            check_kept(self._plans[0], found.execution, found.path)
        for members, found in restored:
            self._block(members, found.execution, found)
        left = [index for index in range(len(self._plans)) if index not in self._ended]
        by_themselves = self._need_a_run_of_their_own(left)
        for member in by_themselves:
            self._alone(member, execution)
        if self.together and left:
            left = list(range(len(self._plans)))
        left = [member for member in left if member not in by_themselves]
        for members, chosen in self._blocks(left, execution):
            if not self._ended.keys() >= set(members):
                self._block(members, chosen)
        return [self._ended[index] for index in range(len(self._plans))]

    @property
    def _data(self) -> Shared:
        """What all share, loaded once."""
        if self._shared is None:
            with SHIELD.raised(False):
                self._shared = Shared.of(self._plans[0])
        return self._shared

    def _look_back(self) -> list[tuple[list[int], Found]]:
        """Notes what is finished, and finds what can go on."""
        if not self._resume or self._output_dir is None:
            return []
        for index, plan in enumerate(self._plans):
            done = finished(make_record(plan, Log()), self._output_dir, plan.config)
            if done is not None:
                self._ended[index] = Member(done, plan)
        if len(self._ended) == len(self._plans):
            return []
        places = {plan.run_id: index for index, plan in enumerate(self._plans)}
        restored: list[tuple[list[int], Found]] = []
        taken = set(self._ended)
        for found in keeping.found(self._plans, self._output_dir):
            members = [places[run_id] for run_id in found.run_ids]
            open_ones = set(members) - set(self._ended)
            if open_ones and not open_ones & taken:
                taken |= open_ones
                restored.append((members, found))
        return restored

    def _need_a_run_of_their_own(self, left: Sequence[int]) -> list[int]:
        """Runs that are watched step by step, that take batches in pieces, or that were begun by themselves."""
        if self._callbacks or _by_itself(self._plans[0]):
            return list(left)
        if not self._resume or self._output_dir is None:
            return []
        return [index for index in left if self._was_begun(self._plans[index])]

    def _was_begun(self, plan: Plan) -> bool:
        assert self._output_dir is not None, "asked only where something is kept"
        return bool(newest(checkpoint_folder(make_record(plan, Log()), self._output_dir)))

    def _blocks(self, left: list[int], execution: Execution | None) -> Iterator[tuple[list[int], Execution]]:
        """Which members train side by side, and how."""
        if not left:
            return
        shared, plans = self._data, [self._plans[index] for index in left]
        params, state = shared.plan.problem.init(shared.key(plans[0].config.seed))
        key = shared.key(plans[0].config.seed)
        most = most_together(plans[0], Carry(params, plans[0].optimizer.init(params, key), state))
        given = execution is not None and execution.way == "vmap"
        if execution is not None and given:
            most = min(most, execution.members)
        parts = list(blocks(plans, most))
        chosen = execution
        if chosen is None:
            try:
                with SHIELD.raised(False):
                    chosen = choose_way(shared, [plans[index] for index in parts[0]], self.series)
            except Exception:  # of one member, whose own it is to fail
                for index in left:
                    if index not in self._ended:
                        self._alone(index, None)
                return
        for part in parts:
            yield [left[index] for index in part], chosen

    def _block(self, members: Sequence[int], execution: Execution, found: Found | None = None) -> None:
        """Trains some members side by side, and writes them; by themselves where that fails."""
        if execution.way == "alone":
            for member in members:
                if member not in self._ended:
                    self._alone(member, execution)
            return
        plans = [self._plans[index] for index in members]
        kept = None if self._output_dir is None else Kept(plans, self._output_dir)
        block: Block | None = None
        try:
            with SHIELD.raised(False):
                block = Block(self._data, plans, execution, warm=found is None)
                if found is not None:
                    found.restore(block)
            for epoch in block.run():
                if kept is not None:
                    kept.at_epoch(block)
                if self._watch is not None:
                    self._watch(epoch, len(block.alive))
        except KeyboardInterrupt as interrupt:
            with signals.ignored():
                path = kept.save(block) if kept is not None and block is not None else None
            raise PopulationInterrupted(self._so_far(), path) from interrupt
        except Exception:  # of one member, whose own it is to fail
            for member in members:
                if member not in self._ended:
                    self._alone(member, execution)
            return
        with signals.ignored():
            self._end(members, block, kept)

    def _end(self, members: Sequence[int], block: Block, kept: Kept | None) -> None:
        """Writes the members of a block that are not written yet."""
        alive = block.alive
        about = {"id": population_id(block.plans), "members": len(block.plans)}
        for place, (member, plan, log) in enumerate(zip(members, block.plans, block.logs(), strict=True)):
            if member in self._ended:
                continue
            record = make_record(plan, log, block.execution)
            record.extra["population"] = about | {"place": place}
            if plan.run_id in self.about:
                record.extra["study"] = dict(self.about[plan.run_id])
            record.extra["execution_id"] = records.execution_id({**about, "alone": record.extra["execution_id"]})
            self._ended[member] = Member(
                self._written(record), plan, block.way.eval_params(place) if place in alive else None
            )
        if kept is not None:
            kept.end()

    def _written(self, record: RunRecord) -> RunRecord:
        record.extra["environment"]["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        if self._output_dir is not None:
            record.path, record.note = write_record(record, self._output_dir)
        return record

    def _alone(self, member: int, execution: Execution | None) -> None:
        """A member by itself, as `run` does it; what it raises is its own."""
        plan, (problem, optimizer) = self._plans[member], self._given
        alone = None if execution is None else execution.alone
        config, source = plan.config, plan.source.get("problem", "value")
        if source != "value":
            config = dataclasses.replace(config, problem=source)
        try:
            done = (go_on_or_start if self._resume and self.together else run)(
                config,
                problem,
                optimizer,
                self._callbacks,
                execution=alone,
                resume=self._resume,
                about=self.about.get(plan.run_id),
                series=self.series,
            )
        except RunInterrupted as interrupt:
            raise PopulationInterrupted(self._so_far(), interrupt.checkpoint) from interrupt
        except Exception as error:  # costs this run alone
            record = make_record(plan, Log(), alone)
            record.extra |= {"status": "failed", "error": f"{type(error).__name__}: {error}"}
            self._ended[member] = Member(record, plan, error=traceback.format_exc())
        else:
            trained = done.training is not None and done.state is not None
            self._ended[member] = Member(done.record, plan, done.params if trained else None)

    def _so_far(self) -> list[Member]:
        return [self._ended[index] for index in sorted(self._ended)]
