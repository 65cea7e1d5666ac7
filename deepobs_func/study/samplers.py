"""Samplers: which point of a search space is tried next. Imports no torch, and Optuna only where it is asked for.

A sampler's asks are a function of its seed and of the trials that it was told, in their order, alone: after a kill it
is made anew, the finished trials are told from their records, and it goes on as if nothing had happened.
"""

from __future__ import annotations

import importlib.util
import itertools
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from deepobs_func.errors import ConfigError, option, unknown
from deepobs_func.registry import Registry
from deepobs_func.study.spaces import Space

Spaces = Mapping[str, Space]


class Told(NamedTuple):
    """A trial that has ended.

    Attributes:
        loss: what was searched the least of; infinite for the worst.
        losses: the same after each epoch, from 1.
        pruned: whether a pruner ended it.
    """

    loss: float
    losses: Sequence[float]
    pruned: bool = False


class Sampler(Protocol):
    """What proposes trials."""

    def ask(self) -> dict[str, Any] | None:
        """The values of the next trial, by name; None where there are no more."""

    def tell(self, told: Told) -> None:
        """Takes the outcome of the first trial that was asked for and not told yet."""


@dataclass(frozen=True)
class SamplerSpec:
    """A sampler as data.

    Attributes:
        name: on the command line and in the records.
        summary: one line.
        make: the import path of `(spaces, seed, **arguments) -> Sampler`.
        adaptive: whether what it asks depends on what it was told.
        arguments: for `make`.
        needs: packages beside this one's own.
        extra: of this package, that installs them.
    """

    name: str
    summary: str
    make: str
    adaptive: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)
    needs: tuple[str, ...] = ()
    extra: str = ""


_OPTUNA = "deepobs_func.study.optuna_samplers:OptunaSampler"


def _optuna(name: str, summary: str, kind: str, *needs: str, adaptive: bool = True, **arguments: Any) -> SamplerSpec:
    packages = ("optuna", *needs)
    return SamplerSpec(name, summary, _OPTUNA, adaptive, {"kind": kind, "options": arguments}, packages, "tune")


SAMPLERS = Registry(
    "sampler",
    SamplerSpec,
    (
        SamplerSpec("grid", "every point of finite spaces, in order", f"{__name__}:Grid"),
        SamplerSpec("random", "independent draws", f"{__name__}:Random"),
        SamplerSpec("halton", "a scrambled Halton sequence", f"{__name__}:Halton"),
        _optuna("tpe", "Optuna's tree-structured Parzen estimator", "TPESampler", constant_liar=True),
        _optuna(
            "cmaes",
            "Optuna's CMA-ES",
            "CmaEsSampler",
            "cmaes",
            warn_independent_sampling=False,
        ),
        _optuna(
            "qmc",
            "Optuna's scrambled Sobol' sequence",
            "QMCSampler",
            adaptive=False,
            scramble=True,
            warn_asynchronous_seeding=False,
            warn_independent_sampling=False,
        ),
        _optuna("gp", "Optuna's Gaussian process", "GPSampler", warn_independent_sampling=False),
    ),
    group="deepobs_func.samplers",
    listing="deepobs tune --help",
)


def find_sampler(name: str) -> SamplerSpec:
    """The sampler of a name, whose packages are there.

    Raises:
        ConfigError: there is no such sampler, or a package is missing; the message has the extra that brings it.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"{option('sampler')} {name}: {unknown('sampler', name, SAMPLERS)}")
    found = SAMPLERS[name]
    check_installed(f"{option('sampler')} {name}", found.needs, found.extra)
    return found


def check_installed(what: str, needs: Sequence[str], extra: str) -> None:
    """Checks that packages are installed, and imports none.

    Args:
        what: asks for them, in the message.
        needs: their names.
        extra: the one of this package that brings them.

    Raises:
        ConfigError: one is missing.
    """
    missing = [package for package in needs if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"{what} needs {' and '.join(missing)}, which is not installed. Install it: "
            f"pip install 'deepobs-func[{extra}]'."
        )


def make_sampler(spec: SamplerSpec, spaces: Spaces, seed: int) -> Sampler:
    """Makes a sampler.

    Args:
        spec: which.
        spaces: what is searched, by name.
        seed: of its draws.

    Raises:
        ConfigError: it cannot search these spaces.
    """
    return pkgutil.resolve_name(spec.make)(spaces, seed, **spec.arguments)


class Grid(Sampler):
    """All points of finite spaces, the last one running fastest.

    Args:
        spaces: what is searched, by name; none of them makes one point.
        seed: not used.

    Raises:
        ConfigError: a space has no end.

    >>> from deepobs_func.study.spaces import Values
    >>> grid = Grid({"lr": Values((0.1, 0.01)), "momentum": Values((0.9,))}, 0)
    >>> grid.ask(), grid.ask(), grid.ask()
    ({'lr': 0.1, 'momentum': 0.9}, {'lr': 0.01, 'momentum': 0.9}, None)
    """

    def __init__(self, spaces: Spaces, seed: int) -> None:
        for name, each in spaces.items():
            if not each.finite:
                raise ConfigError(
                    f"{option('search')} {name}: {each} has no end of values, and this budget goes through all of "
                    "them. Give values, or take a budget that draws, such as random-20."
                )
        values = [each.grid() for each in spaces.values()]
        self.size: int = 1
        for column in values:
            self.size *= len(column)
        self._points = (dict(zip(spaces, point, strict=True)) for point in itertools.product(*values))

    def ask(self) -> dict[str, Any] | None:
        return next(self._points, None)

    def tell(self, told: Told) -> None:
        return None


class Random(Sampler):
    """Independent draws; a draw depends on the seed and on its number.

    Args:
        spaces: what is searched, by name.
        seed: of the draws.
    """

    def __init__(self, spaces: Spaces, seed: int) -> None:
        self._spaces, self._seed, self._asked = spaces, seed, 0

    def ask(self) -> dict[str, Any] | None:
        import numpy as np

        point = np.random.default_rng([self._seed, self._asked]).random(len(self._spaces))
        self._asked += 1
        return values_at(self._spaces, point.tolist())

    def tell(self, told: Told) -> None:
        return None


class Halton(Sampler):
    """A Halton sequence, scrambled by the seed (Owen 2017), as `scipy.stats.qmc.Halton` makes it.

    AlgoPerf shuffles the digits of the largest primes below 1000 and shifts them at random; both break the correlation
    of neighbouring dimensions that the plain sequence has, and both cover each dimension evenly.

    Args:
        spaces: what is searched, by name.
        seed: of the scrambling.
    """

    def __init__(self, spaces: Spaces, seed: int) -> None:
        import numpy as np
        from scipy.stats import qmc

        self._spaces = spaces
        self._sequence = qmc.Halton(d=max(1, len(spaces)), scramble=True, seed=np.random.default_rng(seed))

    def ask(self) -> dict[str, Any] | None:
        (point,) = self._sequence.random(1).tolist()
        return values_at(self._spaces, point)

    def tell(self, told: Told) -> None:
        return None


def values_at(spaces: Spaces, point: Sequence[float]) -> dict[str, Any]:
    """The values at a point of the unit cube; an end of 1 is taken as the number below it.

    Args:
        spaces: by name.
        point: a coordinate for each of them.

    Returns:
        The values by name.
    """
    below = 1 - 2**-53
    return {name: each.at(min(u, below)) for (name, each), u in zip(spaces.items(), point, strict=False)}
