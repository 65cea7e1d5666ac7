"""The page itself: a template of Jinja2, with everything that it needs in it."""

from __future__ import annotations

import functools
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepobs_func
from deepobs_func.analysis.choosing import is_accuracy
from deepobs_func.analysis.extras import need
from deepobs_func.analysis.honesty import Caveat
from deepobs_func.analysis.parsing import CLOCK_NAMES, QUANTITIES
from deepobs_func.analysis.reports.collecting import ProblemData, caveats_of, collect, thinned
from deepobs_func.analysis.reports.packing import (
    compressed,
    good_rates,
    number,
    pack,
    provenance,
    setting_text,
    unread_rows,
)
from deepobs_func.analysis.reports.ranking import Choice, Placed, Standing, rank_all, standing_of
from deepobs_func.analysis.reports.scoring import score_rows
from deepobs_func.analysis.samples import LEVEL
from deepobs_func.errors import ConfigError, DataError, option

if TYPE_CHECKING:
    from deepobs_func.analysis.results import Results

MOST_BYTES = 8_000_000
_NUMBERS = 400_000  # of curves, at most: 4.3 MB if they cannot be compressed at all
_SCRIPTS = ("numbers.js", "ranking.js", "scoring.js", "trials.js", "plots.js", "overall.js", "page.js")
_TESTS = "Welch's t-test (times: the log-rank test) with Holm's adjustment over all pairs"


def write_report(
    results: Results, path: str | Path, *, mode: str = "most", title: str = "", sources: Sequence[str] = ()
) -> Path:
    """Writes the report of some runs: one HTML file, which makes no request.

    Args:
        results: what was read.
        path: the file.
        mode: how the setting that stands for an optimizer is chosen, as in `Results.best`.
        title: of the page.
        sources: the paths that were read, for the command in the report.

    Returns:
        The path.

    Raises:
        DataError: there is no run.
        ConfigError: there is no such mode, the file cannot be written, or a package is not installed.
    """
    path = Path(path)
    if not len(results.runs):
        unread = (
            f" {len(results.unread)} files could not be read, the first: {_first(results)}." if results.unread else ""
        )
        raise DataError(f"There is no run in {', '.join(map(str, sources)) or 'the results'}.{unread}")
    problems, most = collect(results, mode), _NUMBERS
    while True:
        page = render(results, thinned(problems, most), path.parent, mode=mode, title=title, sources=sources, path=path)
        content = page.encode("utf-8", "replace")
        if len(content) <= MOST_BYTES or most < 1000:
            break
        most //= 2
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ConfigError(f"{option('out')} {path}: {error}. Name another file.") from error
    return path


def _first(results: Results) -> str:
    return ": ".join(map(str, results.unread[0][:2]))


def render(
    results: Results,
    problems: Sequence[ProblemData],
    folder: Path,
    *,
    mode: str,
    title: str,
    sources: Sequence[str],
    path: Path,
) -> str:
    """The text of the page."""
    data, numbers = pack(results, problems)
    marks = caveats_of(results, problems)
    placed = rank_all(problems, Choice())
    standing = standing_of(placed)
    template = _environment().get_template("report.html.j2")
    named = title or _title(results)
    return str(
        template.render(
            version=deepobs_func.__version__,
            title=named,
            summary=_summary(results),
            verdict=overall_text(standing),
            warnings=[*(str(mark) for mark in marks if not mark.problem), *filter(None, [_care(marks)])],
            overall=standing.rows,
            scores=score_rows(problems),
            problems=[_shown(results, each, placed[each.name], marks) for each in problems],
            quantities=[name for name in QUANTITIES if any(name in each.quantities for each in problems)],
            clocks=[
                pair
                for pair in CLOCK_NAMES.items()
                if any(pair[0] in part.clocks for p in problems for each in p.shown for part in each.parts)
            ],
            level=f"{LEVEL:.0%}",
            tests=_TESTS,
            mode=mode,
            number=number,
            files=_count(len(results.runs), "record"),
            command=_command(sources, path, mode, title),
            provenance=[_provenance(results, each, folder) for each in problems],
            unread=unread_rows(results),
            embedded=data,
            numbers=numbers,
            **_parts(),
        )
    )


@functools.cache
def _environment() -> Any:
    jinja2 = need("jinja2", "A report")
    loader = jinja2.PackageLoader("deepobs_func.analysis.reports", "assets")
    return jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )


@functools.cache
def _parts() -> dict[str, Any]:
    """What is the same in every report. Of these texts of ours nothing is escaped; they end no element early."""
    markup = need("markupsafe", "A report").Markup
    assets = resources.files("deepobs_func.analysis.reports") / "assets"
    offline = need("plotly.offline", "A report")
    need("plotly", "A report")
    script = offline.get_plotlyjs()
    version = offline.get_plotlyjs_version()
    return {
        "css": markup((assets / "report.css").read_text(encoding="utf-8")),
        "scripts": markup("\n".join((assets / name).read_text(encoding="utf-8") for name in _SCRIPTS)),
        "plotly_js": compressed(script.encode("utf-8")),
        "plotly": version,
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _title(results: Results) -> str:
    names = results.problems
    return f"{names[0]}: optimizers compared" if len(names) == 1 else f"Optimizers on {len(names)} problems"


def _summary(results: Results) -> str:
    runs, optimizers = _count(len(results.runs), "run"), _count(len(results.optimizers), "optimizer")
    problems = _count(len(results.problems), "problem")
    unread = f"; {_count(len(results.unread), 'file')} could not be read, listed at the end" if results.unread else ""
    return f"{runs} of {optimizers} on {problems}{unread}."


def _command(sources: Sequence[str], path: Path, mode: str, title: str) -> str:
    words = ["deepobs", "report", *map(str, sources), "--out", str(path)]
    words += ["--mode", mode] if mode != "most" else []
    words += ["--title", title] if title else []
    return shlex.join(words)


def _shown(results: Results, problem: ProblemData, rows: Sequence[Placed], marks: Sequence[Caveat]) -> dict[str, Any]:
    return {
        "name": problem.name,
        "synthetic": problem.synthetic,
        "metric": problem.metric.replace("_", " "),
        "verdict": verdict_text(rows),
        "rows": rows,
        "settings": {each.optimizer: setting_text(results.row(each.runs[0])) for each in problem.shown},
        "target": "none" if math.isnan(problem.target) else f"{problem.target:g}",
        "about_target": _about_target(problem),
        "every": problem.every,
        "incomplete": [(name, _statuses(counts)) for name, counts in problem.incomplete.items()],
        "tracked": problem.tracked,
        "has_trials": any(each.trials for each in problem.shown),
        "good": [(each.optimizer, good) for each in problem.shown if (good := good_rates(each, problem.metric))],
        "tolerance": "half a percentage point" if is_accuracy(problem.metric) else "1%",
        "left_out": ", ".join(problem.left_out),
        "notes": [f"{mark.text}." for mark in marks if mark.problem == problem.name],
    }


def _care(marks: Sequence[Caveat]) -> str:
    """One line at the top on all that is marked below."""
    kinds = list(dict.fromkeys(_KINDS.get(mark.kind, mark.kind.replace("_", " ")) for mark in marks if mark.problem))
    return f"Read with care: {', '.join(kinds)}. What that concerns stands beside each problem." if kinds else ""


_KINDS = {  # of honesty.CHECKS, in words
    "synthetic": "stand-in data",
    "diverged": "runs that diverged",
    "unfinished": "runs that are not finished",
    "one_seed": "single seeds",
    "mixed_settings": "several settings",
    "training_budget": "different numbers of epochs",
    "tuning_budget": "unequal tuning",
    "tuned_on_test": "tuning on the test set",
    "tuning_seed": "tuning seeds among the reported ones",
    "protocol": "different protocols",
    "precision": "different precisions",
    "data": "different data",
    "weight_decay": "different weight decay",
    "version": "different versions",
    "machine": "different machines",
}


def _about_target(problem: ProblemData) -> str:
    metric = problem.metric.replace("_", " ")
    if math.isnan(problem.target):
        return f"of {metric}; no run has a finite end, so that there is none by default"
    origin = (
        "the published convergence performance"
        if problem.published
        else "which half of the optimizers end with or pass"
    )
    return f"of {metric}; by default {problem.target:g}, {origin}. For another metric, type one"


def _statuses(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _provenance(results: Results, problem: ProblemData, folder: Path) -> dict[str, Any]:
    rows = []
    for each in problem.shown:
        found = provenance(results, each, folder)
        found["configuration"] = json.dumps(found["configuration"], indent=1) if found["configuration"] else ""
        rows.append(
            {
                **found,
                "optimizer": each.optimizer,
                "setting": setting_text(results.row(each.runs[0])),
                "seeds": each.seeds,
                "stopped": each.stopped.seeds,
                "statuses": _statuses(each.statuses),
            }
        )
    return {"name": problem.name, "shown": rows}


def _list(names: Sequence[str]) -> str:
    shown = [*names[:5], f"{len(names) - 5} others"] if len(names) > 6 else names
    *most, last = shown
    return f"{', '.join(most)} and {last}" if most else last


def verdict_text(rows: Sequence[Placed]) -> str:
    """The verdict on a problem in words, by the last epoch.

    Args:
        rows: as `rank_problem` has them.

    Returns:
        A sentence.
    """
    if not rows:
        return "No optimizer that is shown has this metric."
    first, *others = rows
    if not math.isfinite(first.value):
        return "No optimizer has a finite mean."
    if not others:
        return f"{first.optimizer} is the only optimizer: there is nothing to compare it with."
    if first.answer == "alone":
        return f"{first.optimizer} is better than all others."
    tied = [each.optimizer for each in others if each.answer == "tied"]
    untested = [each.optimizer for each in others if each.answer == "untested"]
    parts = [f"{first.optimizer} leads"]
    parts += [f"{_list(tied)} cannot be told apart from it"] if tied else []
    parts += [f"{_list(untested)} cannot be tested against it (one seed, or a seed that diverged)"] if untested else []
    return f"{'; '.join(parts)}."


def overall_text(standing: Standing) -> str:
    """The verdict over all problems in words, by the last epoch.

    Args:
        standing: as `rank_overall` has it.

    Returns:
        A few sentences.
    """
    rows, shared, left = standing.rows, standing.problems, len(standing.left_out)
    if not shared:
        return _NOTHING_SHARED if left else "Nothing is left to compare."
    if len(rows) < 2:
        return f"{rows[0].optimizer} is the only optimizer: there is nothing to rank."
    first, *others = rows
    equal = [each.optimizer for each in others if each.mean_rank == first.mean_rank]
    names = [first.optimizer, *equal]
    lead = f"{_list(names)} share the best mean rank" if equal else f"{first.optimizer} has the best mean rank"
    p, alike = standing.p_friedman, ""
    if not math.isnan(p):
        told = "Ranks differ" if p < 1 - LEVEL else "Over all problems, ranks do not differ"
        alike = f" {told} by more than chance (Friedman's test, p {'< 0.001' if p < 0.001 else f'= {p:.3f}'})."
    more = f" {_count(left, 'other problem')} {'was' if left == 1 else 'were'} not run by all, and " if left else ""
    more += f"{'does' if left == 1 else 'do'} not count here." if left else ""
    return (
        f"{lead}, {first.mean_rank:.2f} of {len(rows)}, over {_count(len(shared), 'problem')}: {first.optimizer} is "
        f"first on {first.first}, and on {first.not_worse} no other one is better by the tests.{alike}{more}"
    )


_NOTHING_SHARED = "No problem was run by all optimizers that are shown, so that there is no ranking over problems."
