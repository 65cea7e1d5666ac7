"""A study as a value: problems x optimizers x schedules x seeds. Imports no torch for names of this package."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from deepobs_func.errors import ConfigError, unknown
from deepobs_func.runner.config import RunConfig
from deepobs_func.runner.config_types import path
from deepobs_func.study.axes import (
    LISTING,
    SETTINGS,
    Fields,
    problem_axis,
    schedule_axis,
    seed_axis,
    settings_axis,
    whole,
)
from deepobs_func.study.batch_sizes import batch_axis
from deepobs_func.study.cells import Cell, make_cell
from deepobs_func.study.distinct import FileKey, file_key
from deepobs_func.study.entries import Entry, entries, rates
from deepobs_func.study.limits import Limits, limits
from deepobs_func.study.overrides import Override, overrides
from deepobs_func.study.places import Origin, SpecError, Where, at, name_of, told_by
from deepobs_func.study.spaces import Space

MOST_RUNS = 1_000_000


class Planned(NamedTuple):
    """A run of a study, before it is run.

    Attributes:
        config: its configuration.
        cell: the optimizer on the problem, by its index in `Study.cells`.
        setting: which learning rate, hyperparameters and schedule of the cell it has, from 0.
    """

    config: RunConfig
    cell: int
    setting: int


@dataclass(frozen=True, init=False)
class Study:
    """Many runs: problems x optimizers x schedules x seeds.

    Args:
        problems: names, the sets `small`, `large`, `all` and those by data set (`mnist`, `two_d`), import paths, or
            functions that make problems.
        optimizers: a mapping from a name to what is said of it: `lr`, hyperparameters, `class` (where the name is no
            optimizer's), `schedules`, `samples`, `settings`; or a list of names, import paths, classes, functions. Each
            learning rate and hyperparameter is a value, a list, a grid or a distribution (`study.spaces`).
        lr: the learning rates of optimizers that say none.
        schedules: of the learning rate: `constant`, `cosine`, `linear`, `exponential`, `steps`, `published`, or
            mappings of `schedule`, `warm_up`, `decay_factor`, `lr_sched_epochs`, `lr_sched_factors`.
        batch_sizes: a list, with each of which every setting is run on as many examples; by default those of the
            settings.
        seeds: how many, from 42 on, or a list.
        overrides: by problem: settings, `schedules`, and what is said of an optimizer there.
        budget: `Limits`, or a mapping of its fields.
        output_dir: the results tree.
        retries: how often a failed run is run again.
        jobs: how many runs go on at once; None leaves it to who runs the study.
        draw_seed: of the values that are drawn from distributions.
        settings: fields of a `RunConfig` for all runs.
        origin: the file, for messages.
        notes: what of the file has no part in the study, and why.
        more: settings too, e.g. `epochs=5`.

    Attributes:
        problems: names and import paths, in order.
        optimizers: their entries.
        lr, schedules, batch_sizes, seeds, overrides, budget, output_dir, retries, jobs, draw_seed, settings,
        notes: as above, in full. `schedules` is None where the settings decide.
        origin: the file.
        places: of the problems.

    Raises:
        SpecError: something is wrong; the message has its place, and its line where it comes from a file.

    >>> study = Study(["quadratic_deep", "two_d_beale"], {"sgd": {"lr": [0.1, 0.01]}}, seeds=10, epochs=5)
    >>> len(study.runs), study.runs[0].lr, study.runs[0].seed
    (40, 0.1, 42)
    """

    problems: tuple[str, ...]
    optimizers: tuple[Entry, ...]
    lr: Space | None
    schedules: tuple[Fields, ...] | None
    batch_sizes: tuple[int, ...] | None
    seeds: tuple[int, ...]
    overrides: Mapping[str, Override]
    budget: Limits
    output_dir: str
    retries: int
    jobs: int | None
    draw_seed: int
    settings: Fields
    notes: tuple[str, ...] = field(compare=False)
    origin: Origin | None = field(compare=False, repr=False)
    places: Mapping[str, Where] = field(compare=False, repr=False, init=False)

    def __init__(
        self,
        problems: Any,
        optimizers: Any,
        *,
        lr: Any = None,
        schedules: Any = None,
        batch_sizes: Any = None,
        seeds: Any = 1,
        overrides: Any = None,
        budget: Any = None,
        output_dir: str | Path = "results",
        retries: int = 1,
        jobs: int | None = None,
        draw_seed: int = 42,
        settings: Any = None,
        notes: tuple[str, ...] = (),
        origin: Origin | None = None,
        **more: Any,
    ) -> None:
        given = {
            "problems": problems,
            "optimizers": optimizers,
            "lr": lr,
            "schedules": schedules,
            "batch_sizes": batch_sizes,
            "seeds": seeds,
            "overrides": overrides,
            "budget": budget,
            "output_dir": output_dir,
            "retries": retries,
            "jobs": jobs,
            "draw_seed": draw_seed,
            "settings": settings,
            "more": more,
        }
        with told_by(origin):
            for name, value in _in_full(given).items():
                object.__setattr__(self, name, value)
            object.__setattr__(self, "notes", tuple(notes))
            object.__setattr__(self, "origin", origin)
            for cell in self.cells:
                cell.check_first()

    @staticmethod
    def read(path: str | Path) -> Study:
        """The study of a YAML file: ours, or one of the PyTorch port.

        Args:
            path: of the file.

        Returns:
            The study, with its file.

        Raises:
            ConfigError: the file is no readable YAML, or no study; the message has the line.
        """
        from deepobs_func.study.yaml_spec import read

        return read(path)

    @functools.cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Each optimizer on each problem, in order: problem by problem."""
        with told_by(self.origin):
            return tuple(
                make_cell(
                    problem,
                    self.places.get(problem, ("problems",)),
                    entry,
                    self.overrides.get(problem, Override()),
                    lr=self.lr,
                    schedules=self.schedules or (),
                    batch_sizes=self.batch_sizes or (),
                    settings=self.settings,
                    output_dir=self.output_dir,
                )
                for problem in self.problems
                for entry in self.optimizers
            )

    @functools.cached_property
    def planned(self) -> tuple[Planned, ...]:
        """The runs, each with its place in the study, checked; see `runs`."""
        with told_by(self.origin):
            self._check_size()
            return tuple(self._distinct(self._expanded()))

    @property
    def runs(self) -> tuple[RunConfig, ...]:
        """The configurations of all runs, checked.

        Problem by problem, then by optimizer, schedule, hyperparameters and seed.

        Raises:
            SpecError: one cannot be run, two are the same or would share a folder, or there are more than the budget
                allows.
        """
        return tuple(each.config for each in self.planned)

    @property
    def size(self) -> int:
        """How many runs there are; counted, not expanded."""
        with told_by(self.origin):
            return sum(cell.size for cell in self.cells) * len(self.seeds)

    def table(self) -> list[dict[str, Any]]:
        """What there is to run, as plain data: one row for each optimizer on each problem.

        Returns:
            Rows of `problem`, `optimizer`, `settings` (how many, schedules counted), `seeds` and `runs`.

        >>> Study("quadratic_deep", {"sgd": {"lr": [0.1, 0.01]}}, seeds=3).table()
        [{'problem': 'quadratic_deep', 'optimizer': 'sgd', 'settings': 2, 'seeds': 3, 'runs': 6}]
        """
        seeds = len(self.seeds)
        with told_by(self.origin):
            return [
                {
                    "problem": cell.problem,
                    "optimizer": cell.label,
                    "settings": cell.size,
                    "seeds": seeds,
                    "runs": cell.size * seeds,
                }
                for cell in self.cells
            ]

    def plain(self) -> dict[str, Any]:
        """The study as plain data: what its YAML would be in full. `Study(**study.plain())` is an equal study."""
        optional = {
            "lr": None if self.lr is None else self.lr.plain(),
            "schedules": None if self.schedules is None else [dict(each) for each in self.schedules],
            "batch_sizes": self.batch_sizes and list(self.batch_sizes),
            "overrides": {name: each.plain() for name, each in self.overrides.items()} or None,
            "budget": self.budget.plain() or None,
            "jobs": self.jobs,
        }
        return {
            "problems": list(self.problems),
            "optimizers": {each.label: {"class": each.optimizer} | each.changes.plain() for each in self.optimizers},
            "seeds": list(self.seeds),
            "output_dir": self.output_dir,
            "retries": self.retries,
            "draw_seed": self.draw_seed,
            **{name: value for name, value in optional.items() if value is not None},
            **self.settings,
        }

    def _check_size(self) -> None:
        """Refuses more than the budget allows, before anything is expanded."""
        trials, runs = self.budget.trials, self.budget.runs
        for cell in self.cells:
            if trials is not None and cell.size > trials:
                raise SpecError(
                    ("budget", "trials"),
                    f"{cell.label} on {cell.problem} has {cell.size} settings, more than {trials}. Give fewer.",
                )
        most = MOST_RUNS if runs is None else runs
        if self.size > most:
            where: Where = () if runs is None else ("budget", "runs")
            raise SpecError(where, f"The study has {self.size} runs, more than {most}. Give fewer settings or seeds.")

    def _expanded(self) -> Iterator[tuple[Planned, FileKey]]:
        """The runs of one seed, and where their records lie."""
        for index, cell in enumerate(self.cells):
            values = cell.values(self.draw_seed)
            pairs = ((at_schedule, each) for at_schedule in range(len(cell.schedules)) for each in values)
            for number, (schedule, each) in enumerate(pairs):
                config = cell.config(each, cell.schedules[schedule], seed=self.seeds[0])
                cell.check(config, schedule)
                try:
                    key = file_key(config)
                except SpecError:
                    raise
                except ConfigError as error:
                    raise cell.error(error, schedule) from error
                if number == 0:
                    cell.check_made()
                yield Planned(config, index, number), key

    def _distinct(self, expanded: Iterator[tuple[Planned, FileKey]]) -> Iterator[Planned]:
        """All runs, where no two of them are the same or share a folder."""
        folders: dict[Path, Planned] = {}
        identities: dict[str, Planned] = {}
        for each, key in expanded:
            for first, what in (
                (identities.get(key.identity), "is the same run as"),
                (folders.get(key.folder), f"would lie in the same folder ({key.folder}) as"),
            ):
                if first is not None:
                    raise SpecError(self._place(each), f"{self._told(each)} {what} {self._told(first)}. Leave one out.")
            folders[key.folder] = identities[key.identity] = each
            for seed in self.seeds:
                yield each._replace(config=replace(each.config, seed=seed))

    def _place(self, planned: Planned) -> Where:
        return self.cells[planned.cell].place("")

    def _told(self, planned: Planned) -> str:
        """A run in words, with its place."""
        cell, config = self.cells[planned.cell], planned.config
        where = self._place(planned)
        line = None if self.origin is None else self.origin.line(where)
        values = {"lr": config.lr, **config.hyperparams}
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        place = (name_of(where) if self.origin is None else self.origin.name(where)) + (
            f", line {line}" if line else ""
        )
        return f"setting {planned.setting} of {cell.label} on {cell.problem} ({place}: {shown})"


KEYS = tuple(f.name for f in fields(Study) if f.name not in ("settings", "notes", "origin", "places"))
"""The keys of a study's YAML, besides the settings."""


def _in_full(given: dict[str, Any]) -> dict[str, Any]:
    """The fields of a study, of its arguments."""
    settings = settings_axis(given["settings"] or {}, ("settings",))
    for name in given["more"]:
        if name not in SETTINGS:
            raise SpecError((name,), unknown("key of a study", name, (*KEYS, *SETTINGS), listing=LISTING))
    settings |= settings_axis(given["more"], ())
    problems = problem_axis(given["problems"])
    optimizers = entries(given["optimizers"])
    schedules = given["schedules"]
    output_dir = given["output_dir"]
    with at(("output_dir",)):
        if output_dir is None:
            raise ConfigError("A study writes its records; give a folder.")
        output_dir = path("output_dir", output_dir)
    return {
        "problems": tuple(problems),
        "places": problems,
        "optimizers": optimizers,
        "lr": None if given["lr"] is None else rates(given["lr"]),
        "schedules": None if schedules is None else tuple(each for each, _ in schedule_axis(schedules)),
        "batch_sizes": None if given["batch_sizes"] is None else batch_axis(given["batch_sizes"]),
        "seeds": seed_axis(given["seeds"]),
        "overrides": overrides(given["overrides"], list(problems), optimizers),
        "budget": limits(given["budget"]),
        "output_dir": output_dir,
        "retries": whole(given["retries"], ("retries",), least=0),
        "jobs": None if given["jobs"] is None else whole(given["jobs"], ("jobs",), least=1),
        "draw_seed": whole(given["draw_seed"], ("draw_seed",), least=0),
        "settings": settings,
    }
