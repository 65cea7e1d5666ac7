"""Performance profiles and the score of AlgoPerf: how often, and how nearly, an optimizer is the fastest to a target.

Source: Dolan and More, 2002; AlgoPerf's documentation, section "Scoring", and its `scoring/performance_profile.py` of
September 2025 (mlcommons/algorithmic-efficiency, commit 2c90454).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike

from deepobs_func.analysis.samples import Values, values
from deepobs_func.errors import DataError, option, unknown

if TYPE_CHECKING:
    import pandas as pd

MOST = 4.0  # times the fastest: beyond, an optimizer counts as one that did not arrive; the end of the integral
POINTS = 100  # of the profile, between 1 and MOST
Times = Mapping[str, Mapping[str, float]]
Cut = Literal["best", "reference"]


def time_of(times: ArrayLike) -> float:
    """The time of an optimizer on a problem: the median over its seeds (studies), infinity for one that did not arrive.

    Two middle ones of which one is infinite have an infinite median.

    Raises:
        DataError: there is no time, or one is negative.

    >>> time_of([30.0, 10.0, float("inf")])
    30.0
    """
    found = values(times, "times")
    if (found < 0).any():
        raise DataError("A time is negative.")
    return float(np.median(np.where(np.isnan(found), np.inf, found)))


def ratios(times: Times, reference: str | Mapping[str, float] | None = None, cut: Cut | None = None) -> pd.DataFrame:
    """How many times the fastest, or a reference, each optimizer takes on each problem.

    `r = t / min over optimizers of t`. A time of more than 4 times the fastest is infinite, and so is that of an
    optimizer that never arrived or did not run. Where no one arrived, all are infinite.

    Args:
        times: `times[optimizer][problem]`, the medians over seeds.
        reference: an optimizer, or the time for each problem, that takes the place of the fastest. An optimizer that is
            faster has a ratio below 1. Where an optimizer as reference did not arrive, who did has a ratio of 0, as in
            AlgoPerf's code.
        cut: whether 4 times the `"best"` or 4 times the `"reference"` is too long. With a reference it is the reference
            by default, so that a score does not depend on who else takes part; AlgoPerf's code takes the best.

    Returns:
        A frame of an optimizer a row and a problem a column.

    Raises:
        DataError: there is no optimizer, no such reference, or a time that is negative or, of a reference, 0.
    """
    import pandas as pd

    table = pd.DataFrame({name: dict(row) for name, row in times.items()}, dtype=float).T
    if table.empty:
        raise DataError("There is no optimizer with a time: give at least one.")
    if (table < 0).any(axis=None):
        raise DataError("A time is negative.")
    table = table.fillna(np.inf)
    fastest = table.min(axis=0)
    by = fastest if reference is None else _reference(table, reference)
    cut = cut or ("best" if reference is None else "reference")
    if cut not in ("best", "reference"):
        raise DataError(f"{option('cut')} {cut!r}: it must be best or reference.")
    limit = MOST * (fastest if cut == "best" else by)
    arrived = np.isfinite(table) & (table <= limit)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = table / by
    found = found.mask((table == 0) & (by == 0), 1.0)  # both at once
    return found.where(arrived, np.inf)


def profiles(
    times: Times,
    reference: str | Mapping[str, float] | None = None,
    cut: Cut | None = None,
    points: int = POINTS,
) -> pd.DataFrame:
    """The performance profile: the share of problems on which an optimizer takes at most `tau` times the fastest.

    Args:
        times, reference, cut: as for `ratios`.
        points: how many values `tau` has, from 1 to 4.

    Returns:
        A frame of an optimizer a row and a `tau` a column.

    Raises:
        DataError: as for `ratios`, or there are fewer than two points.
    """
    if points < 2:
        raise DataError(f"{option('points')} {points}: it must be a whole number from 2.")
    found, taus = ratios(times, reference, cut), np.linspace(1.0, MOST, points)
    import pandas as pd

    shares = (found.to_numpy()[:, :, None] <= taus).mean(axis=1)
    return pd.DataFrame(shares, index=found.index, columns=taus)


def scores(
    times: Times,
    reference: str | Mapping[str, float] | None = None,
    cut: Cut | None = None,
    points: int | None = POINTS,
) -> dict[str, float]:
    """AlgoPerf's benchmark score: the area under the profile from 1 to 4, over 3. The fastest everywhere has 1.

    Args:
        times, reference, cut: as for `ratios`.
        points: of the trapezoidal rule, 100 in AlgoPerf's code; None for the integral itself,
            `mean over problems of (4 - max(r, 1)) / 3`.

    Returns:
        The score of each optimizer, in the order of `times`.

    Raises:
        DataError: as for `profiles`.

    >>> scores({"a": {"p": 10.0, "q": 20.0}, "b": {"p": 25.0, "q": 10.0}}, points=None)
    {'a': 0.8333333333333334, 'b': 0.75}
    """
    if points is None:
        areas = (MOST - ratios(times, reference, cut).clip(1.0, MOST)).mean(axis=1) / (MOST - 1.0)
        return {str(name): float(area) for name, area in areas.items()}
    profile = profiles(times, reference, cut, points)
    areas = profile.to_numpy()
    steps = np.diff(profile.columns.to_numpy(dtype=float))
    found = ((areas[:, 1:] + areas[:, :-1]) / 2.0) @ steps / (MOST - 1.0)
    return {str(name): float(area) for name, area in zip(profile.index, found, strict=True)}


def score_by_target(
    times_at: Callable[[float], Times],
    tightness: Iterable[float],
    reference: str | None = None,
    points: int | None = POINTS,
) -> pd.DataFrame:
    """How the score moves as targets tighten.

    Args:
        times_at: from how tight the targets are to the times to them, for instance 0 for those of chance and 1 for the
            published ones; see `tightened`.
        tightness: the values to look at.
        reference: an optimizer instead of the fastest.
        points: as for `scores`.

    Returns:
        A frame of an optimizer a row and a tightness a column.

    Raises:
        DataError: as for `scores`.
    """
    import pandas as pd

    return pd.DataFrame({each: scores(times_at(each), reference, points=points) for each in tightness})


def tightened(start: float, target: float, tightness: float) -> float:
    """A target between the metric at the start (tightness 0) and a target (1), or beyond it.

    >>> tightened(0.0, 0.8, 1.25)
    1.0
    """
    return start + tightness * (target - start)


def speedups(times: Times, reference: str) -> dict[str, float]:
    """The geometric mean over problems of `t_reference / t`, AlgoPerf's alternative score.

    Args:
        times: as for `ratios`.
        reference: an optimizer.

    Returns:
        The mean of each optimizer; 0 for one that failed on a problem, NaN where both it and the reference failed.

    Raises:
        DataError: there is no such optimizer.
    """
    import pandas as pd

    table = pd.DataFrame({name: dict(row) for name, row in times.items()}, dtype=float).T.fillna(np.inf)
    by = _reference(table, reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(by.to_numpy(dtype=float) / table.to_numpy(dtype=float))
        means: Values = np.exp(logs.mean(axis=1))
    return {str(name): float(mean) for name, mean in zip(table.index, means, strict=True)}


def _reference(table: pd.DataFrame, reference: str | Mapping[str, float]) -> pd.Series:
    """Its time for each problem."""
    import pandas as pd

    if isinstance(reference, str):
        if reference not in table.index:
            raise DataError(unknown("optimizer", reference, map(str, table.index)))
        return table.loc[reference]
    missing = [str(name) for name in table.columns if name not in reference]
    if missing:
        raise DataError(f"The reference has no time for {', '.join(missing)}.")
    found = pd.Series(reference, dtype=float)[table.columns]
    if not (found > 0).all():
        raise DataError("A time of the reference is not positive.")
    return found
