"""What the figures draw: the curves of a setting, their mean and its band, against epochs, steps, seconds or calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from deepobs_func.analysis.choosing import Setting, settings_of
from deepobs_func.analysis.parsing import QUANTITIES
from deepobs_func.errors import ConfigError, option, unknown

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepobs_func.analysis.results import Results

    Array = NDArray[np.float64]

AGAINST: Mapping[str, str] = {
    "epoch": "epoch",
    "step": "step",
    "seconds": "seconds of training",
    "gradients": "gradient evaluations",
    "cost": "gradient equivalents",
}
"""What curves are drawn against, and the label of the axis."""
BANDS: Mapping[str, str] = {
    "sd": "one standard deviation",
    "quartiles": "middle half of the seeds",
    "range": "all seeds",
    "none": "none",
}
"""Around a mean over seeds: how far the seeds lie apart. None of them says how sure the mean is."""


class Series(NamedTuple):
    """The curves of a setting.

    Attributes:
        optimizer, setting: whose they are.
        x: `(epochs,)`, the mean over the seeds of what they are drawn against.
        runs: `(epochs, seeds)`.
        mean, low, high: `(epochs,)`; the band is NaN for a single seed, and all are where a seed is not finite.
        ended: how many of the seeds end with a value that is not finite.
    """

    optimizer: str
    setting: str
    x: Array
    runs: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    ended: int

    @property
    def seeds(self) -> int:
        """How many."""
        return self.runs.shape[1]


def label(quantity: str) -> str:
    """A column of `Results.epochs` as the label of an axis.

    >>> label("test_accuracy")
    'test accuracy'
    """
    return quantity.replace("valid_", "validation_").replace("_", " ")


def check_against(against: str, band: str) -> None:
    """Checks what curves are drawn against, and their band.

    Raises:
        ConfigError: one is none of `AGAINST`, or of `BANDS`.
    """
    if against not in AGAINST:
        raise ConfigError(f"{option('against')}: {unknown('axis', against, AGAINST)}")
    if band not in BANDS:
        raise ConfigError(f"{option('band')}: {unknown('band', band, BANDS)}")


def series(
    results: Results,
    problem: str,
    optimizer: str,
    quantity: str | None = None,
    *,
    against: str = "epoch",
    band: str = "sd",
    mode: str = "most",
) -> Series | None:
    """The curves of the setting that stands for an optimizer on a problem.

    Args:
        results: what was read.
        problem, optimizer: names.
        quantity: a column of `results.epochs`; None for that by which the problem is judged.
        against: one of `AGAINST`.
        band: `"sd"`, one standard deviation of a sample; `"quartiles"`; `"range"`, from the smallest to the largest
            seed; `"none"`.
        mode: how the setting is chosen, as in `Results.best`.

    Returns:
        None where no run of the optimizer on the problem is complete, or has the quantity or the axis.

    Raises:
        ConfigError: there is no such axis, band, mode, problem, optimizer or quantity.
    """
    check_against(against, band)
    setting = chosen(results, problem, optimizer, mode)
    if setting is None:
        return None
    runs, _ = results.curve(problem, optimizer, quantity, setting.setting)
    order = sorted(setting.runs, key=lambda run: results.row(run)["seed"])
    x = np.mean([_axis(results, run, against, len(runs)) for run in order], axis=0)
    if np.isnan(runs).all() or np.isnan(x).all():
        return None
    mean, low, high = middle(runs, band)
    ended = int((~np.isfinite(runs[-1])).sum())
    return Series(optimizer, setting.setting, x, runs, mean, low, high, ended)


def chosen(results: Results, problem: str, optimizer: str, mode: str = "most") -> Setting | None:
    """The setting that stands for an optimizer on a problem; None where it has no complete run."""
    found = settings_of(results, problem, optimizer)
    best = results.best(problem, optimizer, mode) if found else None
    return next((each for each in found if each.setting == best), None)


def has(results: Results, problem: str, quantity: str | None) -> bool:
    """Whether any run of a problem has a quantity, a column of `results.epochs`; None is always there.

    Raises:
        ConfigError: no run of any problem could have it.
    """
    if quantity is None:
        return True
    if quantity not in QUANTITIES:
        raise ConfigError(f"{option('metric')}: {unknown('metric', quantity, QUANTITIES)}")
    runs = results.runs.index[results.runs["problem"] == problem]
    return not bool(results.epochs.loc[results.epochs["run"].isin(runs), quantity].isna().all())


def middle(runs: Array, band: str) -> tuple[Array, Array, Array]:
    """The mean over seeds and its band; NaN, both, where a seed is not finite.

    Args:
        runs: `(epochs, seeds)`.
        band: one of `BANDS`.

    Returns:
        Mean, lower and upper end, `(epochs,)` each.
    """
    finite = np.where(np.isfinite(runs).all(axis=1, keepdims=True), runs, np.nan)
    mean = finite.mean(axis=1)
    if band == "none" or runs.shape[1] < 2:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    if band == "sd":
        width = finite.std(axis=1, ddof=1)
        return mean, mean - width, mean + width
    low, high = np.quantile(finite, _SHARES[band], axis=1)
    return mean, low, high


_SHARES = {"range": (0.0, 1.0), "quartiles": (0.25, 0.75)}


def _axis(results: Results, run: int, against: str, length: int) -> Array:
    """What a run is drawn against, at each evaluation; NaN after its end, or where it is not known."""
    if against in _RECORDED:
        found = results.values(run, against)[:length]
        return np.concatenate((found, np.full(length - len(found), np.nan)))
    each = results.row(run)["steps_per_epoch"] if against == "step" else 1.0
    return np.arange(length, dtype=np.float64) * float(each)


_RECORDED = ("seconds", "gradients", "cost")
