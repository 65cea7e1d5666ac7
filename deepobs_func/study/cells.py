"""One optimizer on one problem: what is fixed there, and what is gone through, drawn or searched."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepobs_func.errors import ConfigError
from deepobs_func.runner.config import RunConfig, is_path, resolve
from deepobs_func.study.axes import SCHEDULE_FIELDS, SETTINGS, Fields
from deepobs_func.study.batch_sizes import AXIS, check_examples, with_batch_sizes
from deepobs_func.study.draws import draw
from deepobs_func.study.entries import Changes, Entry
from deepobs_func.study.overrides import Override
from deepobs_func.study.places import SpecError, Where, reason_of
from deepobs_func.study.spaces import Space

_STANDS_FOR_NONE = 1.0  # the learning rate of a check where a study has none


@dataclass(frozen=True)
class Cell:
    """One optimizer on one problem.

    Attributes:
        problem: its name or import path.
        label: the optimizer's name in the study.
        optimizer: its name or import path.
        spaces: of the learning rate, `"lr"`, and of the hyperparameters that are given. The rate may be missing, for a
            tuner that has its own.
        schedules: of the learning rate, as fields of a `RunConfig`.
        settings: other fields of the `RunConfig`.
        samples: how often a sweep draws from the distributions; None where that is not said.
        output_dir: of the study.
        places: where a value stands in the specification, by field, `hyperparams.NAME` for a hyperparameter.
    """

    problem: str
    label: str
    optimizer: str
    spaces: Mapping[str, Space]
    schedules: tuple[Fields, ...]
    settings: Fields
    samples: int | None
    output_dir: str
    places: Mapping[str, Where] = field(default_factory=dict, compare=False, repr=False)

    @property
    def drawn(self) -> dict[str, Space]:
        """The distributions."""
        return {name: each for name, each in self.spaces.items() if each.drawn}

    @property
    def size(self) -> int:
        """How many settings a sweep has here: learning rates, hyperparameters and schedules, without the seeds.

        Raises:
            SpecError: it is not said how often a distribution is drawn from, or there is no learning rate.
        """
        self._check_spaces()
        listed = math.prod(len(each.grid()) for each in self.spaces.values() if not each.drawn)
        return listed * (self.samples or 1) * len(self.schedules)

    def values(self, seed: int) -> list[dict[str, Any]]:
        """The learning rates and hyperparameters of a sweep: all that are listed, with all that are drawn.

        Args:
            seed: of the draws.

        Returns:
            The values by name, `"lr"` among them.

        Raises:
            SpecError: as `size`; or there are fewer values than are to be drawn.
        """
        self._check_spaces()
        listed = {name: each.grid() for name, each in self.spaces.items() if not each.drawn}
        drawn: list[dict[str, Any]] = [{}]
        if self.drawn:
            try:
                drawn = draw(self.drawn, self.samples or 1, seed, self.label)
            except ConfigError as error:
                raise SpecError(self.place("samples"), str(error)) from error
        grid = (dict(zip(listed, each, strict=True)) for each in itertools.product(*listed.values()))
        return [{name: (each | more)[name] for name in self.spaces} for each in grid for more in drawn]

    def config(self, values: Mapping[str, Any], schedule: Fields | None = None, seed: int = 42) -> RunConfig:
        """The configuration of a run, not yet resolved.

        Args:
            values: of the learning rate and the hyperparameters, by name.
            schedule: one of `schedules`; by default the first one.
            seed: of the run.
        """
        hyperparams = {name: value for name, value in values.items() if name != "lr"}
        fields = {**self.settings, **(self.schedules[0] if schedule is None else schedule)}
        return RunConfig(
            self.problem,
            self.optimizer,
            lr=values["lr"],
            hyperparams=hyperparams,
            seed=seed,
            output_dir=self.output_dir,
            **fields,
        )

    def check(self, config: RunConfig, schedule: int = 0) -> RunConfig:
        """The same configuration, resolved, where that needs no import of a user's own module.

        Args:
            config: one of this cell.
            schedule: which of `schedules` it has.

        Raises:
            SpecError: the configuration cannot be run; the error has the place of the value that is wrong.
        """
        try:
            return config if is_path(config.problem) else resolve(config)
        except ConfigError as error:
            raise self.error(error, schedule) from error

    def check_first(self) -> None:
        """Checks one configuration of each schedule, so that a wrong setting is found before anything is expanded.

        Raises:
            SpecError: see `check`.
        """
        values = {name: each.extremes()[0] for name, each in self.spaces.items()}
        for index, schedule in enumerate(self.schedules):
            self.check(self.config({"lr": _STANDS_FOR_NONE} | values, schedule), index)

    def check_made(self) -> None:
        """Checks what only the made problem tells, of one by import path, whose module is imported here.

        Raises:
            SpecError: its batch sizes do not see as many examples, see `batch_sizes.check_examples`.
        """
        if not is_path(self.problem) or self.places.get("batch_size") != AXIS:
            return
        from deepobs_func.runner.plan import problem_at

        sizes = [each["batch_size"] for each in self.schedules]
        check_examples(self.problem, problem_at(self.problem).dataset, list(dict.fromkeys(sizes)), self.settings)

    def place(self, name: str | None, schedule: int = 0) -> Where:
        """Where a field's value stands; of one that is not said, the optimizer."""
        if name in SCHEDULE_FIELDS and name not in self.settings and f"schedules.{schedule}" in self.places:
            return self.places[f"schedules.{schedule}"]
        return self.places.get(name or "", self.places[""])

    def error(self, error: ConfigError, schedule: int = 0) -> SpecError:
        """An error of a configuration, with its place, and the problem where its message does not have it."""
        is_problem = is_path(self.problem) and error.field is None and repr(self.problem) in str(error)
        where = self.place("problem" if is_problem else error.field, schedule)
        text = reason_of(error, where)
        told = self.problem in text or error.field not in SETTINGS
        return SpecError(where, text if told else f"{text} This is {self.label} on {self.problem}.")

    def _check_spaces(self) -> None:
        if "lr" not in self.spaces:
            raise SpecError(self.places[""], f"{self.label} has no learning rate; give lr, here or for all optimizers.")
        if self.drawn and self.samples is None:
            name, each = next(iter(self.drawn.items()))
            raise SpecError(
                self.place(name if name == "lr" else f"hyperparams.{name}"),
                f"{each} is a distribution, and a sweep needs to know how often to draw: give samples beside it. "
                "`deepobs tune` searches it.",
            )


def make_cell(
    problem: str,
    where: Where,
    entry: Entry,
    override: Override,
    *,
    lr: Space | None,
    schedules: Sequence[Fields],
    batch_sizes: Sequence[int] = (),
    settings: Fields,
    output_dir: str,
) -> Cell:
    """One optimizer on one problem, of what a study says in general and in particular.

    Args:
        problem: its name or import path.
        where: the place of the problem.
        entry: the optimizer.
        override: what is said of the problem.
        lr, schedules, batch_sizes, settings, output_dir: of the study. What is said of an optimizer goes before
            it, what is said of a problem before that, and what is said of the optimizer on the problem before all.

    Raises:
        SpecError: two things do not go together.
    """
    here = override.optimizers.get(entry.label, Changes())
    places: dict[str, Where] = {"": entry.where, "problem": where, "lr": ("lr",)}
    places |= {name: (name,) for name in settings}
    chosen = tuple(schedules)
    places |= {f"schedules.{index}": ("schedules", index) for index in range(len(chosen))}
    fields = dict(settings)
    for layer in (entry.changes, override, here):
        fields |= layer.settings
        places |= {name: layer.places[f"settings.{name}"] for name in layer.settings}
        if layer.schedules is not None:
            chosen = layer.schedules
            places |= {name: place for name, place in layer.places.items() if name.startswith("schedules.")}
    spaces = ({} if lr is None else {"lr": lr}) | dict(entry.changes.spaces) | dict(here.spaces)
    for layer in (entry.changes, here):
        places |= {name if name == "lr" else f"hyperparams.{name}": layer.places[name] for name in layer.spaces}
    samples = _samples(spaces, here.samples or entry.changes.samples, places, entry, here)
    _check_schedules(fields, chosen, places)
    chosen = with_batch_sizes(chosen, batch_sizes, fields, places, problem)
    first = {"lr": spaces["lr"]} if "lr" in spaces else {}
    return Cell(
        problem, entry.label, entry.optimizer, first | spaces, chosen or ({},), fields, samples, output_dir, places
    )


def _samples(
    spaces: Mapping[str, Space], given: int | None, places: dict[str, Where], entry: Entry, here: Changes
) -> int | None:
    """How often the distributions are drawn from, together."""
    layer = here if here.samples is not None else entry.changes
    if given is not None:
        places["samples"] = layer.places.get("samples", entry.where)
        if not any(each.drawn for each in spaces.values()):
            raise SpecError(
                places["samples"], f"{given}: {entry.label} has no distribution to draw from; leave it out."
            )
    for name, each in spaces.items():
        own: int | None = getattr(each, "samples", None)
        where = places[name if name == "lr" else f"hyperparams.{name}"]
        if own is not None and given is not None and own != given:
            raise SpecError(
                where,
                f"samples {own}: an optimizer's distributions are drawn from together, here {given} times; say one.",
            )
        if own is not None:
            given = own
            places.setdefault("samples", where)
    return given


def _check_schedules(fields: Fields, chosen: Iterable[Fields], places: Mapping[str, Where]) -> None:
    """A setting that every schedule replaces is a mistake."""
    if any(chosen) and "schedule" in fields:
        raise SpecError(places["schedule"], f"{fields['schedule']}: there are schedules too; add it to them.")
