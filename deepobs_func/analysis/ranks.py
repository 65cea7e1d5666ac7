"""Ranks over problems: which optimizers differ over all of them, and the data of a critical-difference diagram."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from deepobs_func.analysis.samples import LEVEL, Values, check_level, ordered
from deepobs_func.analysis.signed_ranks import signed_ranks
from deepobs_func.analysis.statistics import holm
from deepobs_func.errors import DataError, option

PostHoc = Literal["wilcoxon", "nemenyi"]
Scores = Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Ranking:
    """Optimizers over several problems.

    Attributes:
        names: the optimizers, the best mean rank first.
        mean_ranks: from 1, the best; ties share the mean of their ranks.
        p_friedman: that all are alike; NaN for fewer than three optimizers or two problems.
        critical_difference: of mean ranks, for `"nemenyi"`; NaN otherwise.
        p_values: adjusted p-value of each pair.
        groups: the largest sets of neighbours in rank that cannot be told apart, the bars of the diagram.
        problems: that were ranked.
        left_out: problems that not all optimizers have, which are not ranked.
        post_hoc: the test of pairs.
    """

    names: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    p_friedman: float
    critical_difference: float
    p_values: dict[tuple[str, str], float]
    groups: tuple[tuple[str, ...], ...]
    problems: tuple[str, ...]
    left_out: tuple[str, ...]
    post_hoc: str


def rank(scores: Scores, *, higher_is_better: bool, level: float = LEVEL, post_hoc: PostHoc = "wilcoxon") -> Ranking:
    """Ranks optimizers on each problem, and tests whether they differ over all of them.

    Friedman's test asks whether all are alike. Pairs are compared by Wilcoxon's signed ranks over problems, adjusted by
    Holm (its answer on a pair does not depend on who else takes part), or by Nemenyi's critical difference
    `CD = q sqrt(k (k + 1) / (6 N))`, q from the studentized range over `sqrt(2)`. If Friedman's test does not reject,
    all are one group.

    Args:
        scores: `scores[optimizer][problem]`, one number each: a mean over seeds, or a time to a target. Infinite is the
            worst or best; NaN counts as missing. For `"wilcoxon"`, the sizes of differences are compared over problems:
            give metrics of one scale.
        higher_is_better: as of accuracies; for metrics of mixed direction, negate those of one.
        level: one minus the level of the tests.
        post_hoc: `"wilcoxon"` or `"nemenyi"`.

    Returns:
        The ranking.

    Raises:
        DataError: there are fewer than two optimizers, no problem that all have, or an option is none.

    Source: Friedman, 1937; Nemenyi, 1963; Demsar, JMLR 2006; Benavoli, Corani and Mangili, JMLR 2016; by SciPy.
    """
    names, level = ordered(list(scores), "optimizers", 2), check_level(level)
    if post_hoc not in ("wilcoxon", "nemenyi"):
        raise DataError(f"{option('post_hoc')} {post_hoc!r}: it must be wilcoxon or nemenyi.")
    every = list(dict.fromkeys(problem for row in scores.values() for problem in row))
    shared = [p for p in every if all(not math.isnan(scores[name].get(p, math.nan)) for name in names)]
    if not shared:
        raise DataError("No problem has a value of every optimizer; there is nothing to rank.")
    from scipy.stats import rankdata

    table = np.array([[scores[name][problem] for problem in shared] for name in names], dtype=np.float64)
    table = -table if higher_is_better else table
    means = rankdata(table, axis=0).mean(axis=1)
    order = sorted(range(len(names)), key=lambda index: (means[index], names[index]))
    p_friedman, distance = _friedman(table), math.nan
    if post_hoc == "nemenyi":
        distance = critical_difference(len(names), len(shared), level)
        p_values = _nemenyi(names, means, len(shared))
    else:
        p_values = _wilcoxon(names, table)
    alike = {pair for pair, p in p_values.items() if not p <= 1.0 - level}
    if not math.isnan(p_friedman) and p_friedman > 1.0 - level:
        alike = set(p_values)
    return Ranking(
        names=tuple(names[index] for index in order),
        mean_ranks=tuple(float(means[index]) for index in order),
        p_friedman=p_friedman,
        critical_difference=distance,
        p_values=p_values,
        groups=_groups([names[index] for index in order], alike),
        problems=tuple(shared),
        left_out=tuple(problem for problem in every if problem not in shared),
        post_hoc=post_hoc,
    )


def critical_difference(optimizers: int, problems: int, level: float = LEVEL) -> float:
    """Nemenyi's critical difference of mean ranks, `q sqrt(k (k + 1) / (6 N))`.

    Args:
        optimizers: k, 2 or more.
        problems: N.
        level: one minus the level of the test.

    Returns:
        The difference from which on two mean ranks differ.

    >>> round(critical_difference(4, 14, 0.95), 3)  # q = 2.569 (Demsar, table 5)
    1.254
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(level, optimizers, np.inf)) / math.sqrt(2.0)
    return q * math.sqrt(optimizers * (optimizers + 1) / (6.0 * problems))


def _friedman(table: Values) -> float:
    if len(table) < 3 or table.shape[1] < 2:
        return math.nan
    if (table == table[0]).all():
        return 1.0
    from scipy.stats import friedmanchisquare

    return float(friedmanchisquare(*table).pvalue)


def _nemenyi(names: list[str], means: Values, problems: int) -> dict[tuple[str, str], float]:
    from scipy.stats import studentized_range

    k = len(names)
    error = math.sqrt(k * (k + 1) / (12.0 * problems))  # of the studentized range, whose q is sqrt(2) times Nemenyi's
    return {
        (names[i], names[j]): float(studentized_range.sf(abs(means[i] - means[j]) / error, k, np.inf))
        for i, j in itertools.combinations(range(k), 2)
    }


def _wilcoxon(names: list[str], table: Values) -> dict[tuple[str, str], float]:
    pairs, found = list(itertools.combinations(range(len(names)), 2)), []
    for i, j in pairs:
        with np.errstate(invalid="ignore"):
            found.append(signed_ranks(np.where(table[i] == table[j], 0.0, table[i] - table[j])))
    return {(names[i], names[j]): p for (i, j), p in zip(pairs, holm(found), strict=True)}


def _groups(names: list[str], alike: set[tuple[str, str]]) -> tuple[tuple[str, ...], ...]:
    """The largest runs of neighbours in which every pair is alike, of two or more."""
    found: list[tuple[str, ...]] = []
    for start in range(len(names)):
        end = start + 1
        while end < len(names) and all(
            (names[i], names[end]) in alike or (names[end], names[i]) in alike for i in range(start, end)
        ):
            end += 1
        run = tuple(names[start:end])
        if len(run) > 1 and not any(set(run) <= set(other) for other in found):
            found.append(run)
    return tuple(found)
