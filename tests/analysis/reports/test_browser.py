"""The report in a real headless Chromium: nothing is asked of any host, all is drawn, and ranks are Python's.

Debian's chromium, which `.ci/run` installs; a machine without one fails here.
"""

from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from deepobs_func.analysis import load
from deepobs_func.analysis.reports import Choice, rank_overall, rank_problem, write_report
from deepobs_func.analysis.reports.collecting import ProblemData, collect
from deepobs_func.analysis.reports.scoring import differences, score_by_tightness, score_rows
from deepobs_func.analysis.results import Results
from deepobs_func.analysis.tuning_curves import margin, tuning_curve, win_probability
from tests.analysis import made

pytestmark = pytest.mark.large

WIDTHS = (1400, 390)
ODD = '</script><script>alert("x")</script>'
NAMES = ("adam", "sgd", "mine.Übung", "优化器", ODD, "a%{x}$b$", "b&amp;<b>")
LEVELS = {
    "mnist_mlp": {name: 0.1 + 0.03 * place for place, name in enumerate(NAMES)},
    "quadratic_deep": {name: 0.5 - 0.02 * place for place, name in enumerate(NAMES)},
    "mine_only": {"adam": 0.3, "sgd": 0.3},
}


def records() -> list[Any]:
    found = made.benchmark(LEVELS, seeds=5, accuracy=("mnist_mlp",))
    found += made.benchmark({"quadratic_deep": {"one_seed": 0.2}}, seeds=1)
    found.append(made.record("quadratic_deep", "all_diverge", [1.0, math.inf, math.nan], seed=42))
    found.append(made.record("quadratic_deep", "all_diverge", [1.0, 0.9, math.nan], seed=43))
    found += [stopped("sgd", [1.0, 0.9, 0.45], 99), stopped("all_stopped", [1.0, 0.4], 42)]
    found.append(stopped("all_stopped", [1.0, 0.9, 0.8, 0.79], 43))
    quantities = {"grad_norm": [9.0, 0.1], "alpha": [-1.0, 0.5]}
    for name, lr in itertools.product(("adam", "sgd"), (0.01, 1.0)):
        found.append(made.record("mnist_mlp", name, [0.1, 0.5 + lr / 10], seed=42, lr=lr, accuracy=True))
    tracked = {"tracked": {"every": 10, "steps": [0, 10], "quantities": quantities}}
    found.append(made.record("mine_only", "adam", [1.0] + [0.3] * 6, seed=60, **tracked))
    return found


def stopped(name: str, curve: list[float], seed: int) -> Any:
    """A run that a callback ended: it counts in times alone."""
    return replace(made.record("quadratic_deep", name, curve, seed=seed, status="stopped"), num_epochs=6)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = made.write(tmp_path_factory.mktemp("tree"), records())
    (folder / "broken.json").write_text('{"train_losses": [', encoding="utf-8")
    return load(folder)


@pytest.fixture(scope="module")
def problems(results: Results) -> tuple[ProblemData, ...]:
    return collect(results)


@pytest.fixture(scope="module")
def report(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html", sources=["tree"])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    assert chromium, "there is no chromium: apt-get install chromium"
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


class Watched:
    """A page, and what it said and asked for."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.said, self.requests = page, [], []
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(url)
        page.wait_for_selector("body[data-ready=yes]", timeout=30_000)

    def all_drawn(self) -> int:
        """How many plots there are, once all are drawn."""
        self.page.evaluate("deepobs.drawAll()")
        self.page.wait_for_function(
            "[...document.querySelectorAll('.plot')].every((each) => each.dataset.drawn === 'yes')"
        )
        return self.page.evaluate("document.querySelectorAll('figure:not([hidden]) .plot .main-svg').length")

    def choose(self, field: str, value: str) -> None:
        self.page.select_option(f"#{field}", value)


@pytest.fixture
def watched(browser: Browser, report: Path) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    found = Watched(context.new_page(), report.as_uri())
    yield found
    assert found.said == []
    assert found.requests == [report.as_uri()]
    context.close()


def number(value: Any) -> float:
    """What JavaScript hands over for a number."""
    return math.nan if value is None else float(value)


def assert_ranks_are_pythons(watched: Watched, problems: tuple[ProblemData, ...], choice: Choice) -> None:
    """Every number of every table, and the verdict over all problems."""
    found = watched.page.evaluate("""() => {
        const { found } = deepobs.state;
        const bare = ({ shown, ...row }) => row;
        return { ...found, placed: found.placed.map(([name, rows]) => [name, rows.map(bare)]) };
    }""")
    placed = dict(found["placed"])
    for problem in problems:
        expected = rank_problem(problem, choice)
        rows = placed.get(problem.name, [])
        assert [row["optimizer"] for row in rows] == [row.optimizer for row in expected]
        for row, want in zip(rows, expected, strict=True):
            assert (row["rank"], row["lowest"], row["highest"]) == (want.rank, want.lowest, want.highest), problem.name
            assert (row["seeds"], row["reached"], row["answer"]) == (want.seeds, want.reached, want.answer)
            assert number(row["value"]) == pytest.approx(want.value, rel=1e-12, nan_ok=True)
            assert number(row["low"]) == pytest.approx(want.low, rel=1e-12, nan_ok=True)
            assert number(row["high"]) == pytest.approx(want.high, rel=1e-12, nan_ok=True)
            assert number(row["pLeader"]) == pytest.approx(want.p_leader, rel=1e-7, abs=1e-12, nan_ok=True)
    standing = rank_overall(problems, choice)
    assert tuple(found["shared"]) == standing.problems
    names = ("optimizer", "meanRank", "lowest", "highest", "first", "notWorse", "problems")
    assert [tuple(row[name] for name in names) for row in found["table"]] == [tuple(row) for row in standing.rows]
    assert number(found["pFriedman"]) == pytest.approx(standing.p_friedman, rel=1e-9, nan_ok=True)
    assert_scores_are_pythons(watched, problems, choice)


def assert_scores_are_pythons(watched: Watched, problems: tuple[ProblemData, ...], choice: Choice) -> None:
    """The scores, how they move, and who cannot be told apart over all problems."""
    found, told = (watched.page.evaluate(f"deepobs.state.overall.{part}") for part in ("profiles", "told"))
    for row, want in zip(found["rows"], score_rows(problems, choice), strict=True):
        names = ("optimizer", "rank", "fastest", "arrived", "problems")
        assert tuple(row[name] for name in names) == tuple(getattr(want, name) for name in names)
        assert row["score"] == pytest.approx(want.score, abs=1e-12)
    if found["rows"] and (choice.hidden or choice.targets):  # of the others it takes too long
        moves = watched.page.evaluate("[...Scoring.byTightness(deepobs.report, deepobs.choice)]")
        expected = score_by_tightness(problems, choice)
        assert [name for name, _ in moves] == list(expected.index)
        np.testing.assert_allclose([row for _, row in moves], expected.to_numpy(), atol=1e-12)
    ranking = differences(problems, choice)
    assert (told is None) == (ranking is None)
    if ranking is not None:
        assert tuple(told["names"]) == ranking.names
        assert told["meanRanks"] == pytest.approx(ranking.mean_ranks)
        assert tuple(map(tuple, told["groups"])) == ranking.groups
        assert number(told["pFriedman"]) == pytest.approx(ranking.p_friedman, rel=1e-9, nan_ok=True)
        pairs = {frozenset((a, b)): p for a, b, p in told["pairs"]}
        assert pairs == pytest.approx({frozenset(pair): p for pair, p in ranking.p_values.items()}, rel=1e-12)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_opens_without_an_error_or_a_request_and_draws_every_plot(
    browser: Browser, report: Path, width: int, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    watched = Watched(context.new_page(), report.as_uri())
    shown = watched.page.locator("figure:not([hidden]) .plot")
    assert watched.all_drawn() >= shown.count() == 11  # see PLOTS
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    background = watched.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")
    assert watched.said == []
    assert watched.requests == [report.as_uri()]
    context.close()


def test_the_page_as_written_says_what_the_script_says(watched: Watched, browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(report.as_uri())
    for index in ("text", *range(3)):
        assert plain.text_content(f"#verdict-{index}") == watched.page.text_content(f"#verdict-{index}")
    assert plain.locator("#table-1 tbody tr").count() == watched.page.locator("#table-1 tbody tr").count()
    context.close()


def test_ranks_follow_measure_and_metric(watched: Watched, problems: tuple[ProblemData, ...]) -> None:
    for quantity in ("", "test_loss", "train_loss", "test_accuracy"):
        watched.choose("quantity", quantity)
        for measure in ("final", "best", "time"):
            watched.choose("measure", measure)
            assert_ranks_are_pythons(watched, problems, Choice(measure, quantity))


def test_ranks_follow_target_and_clock(watched: Watched, problems: tuple[ProblemData, ...]) -> None:
    """The lowest one is a target that nobody reaches."""
    watched.choose("measure", "time")
    (index,) = (i for i, each in enumerate(problems) if each.name == "quadratic_deep")
    for clock in ("epoch", "seconds", "gradients"):
        watched.choose("clock", clock)
        at_the_end = problems[index].shown[0].curves["test_loss"][-1, 0]  # a value that is equal to the target
        for target in (0.8, 0.42, 0.4, at_the_end, -1.0):
            watched.page.fill(f"#target-{index}", repr(float(target)))
            choice = Choice("time", clock=clock, targets={"quadratic_deep": target})
            assert_ranks_are_pythons(watched, problems, choice)
        assert "No optimizer reached the target" in (watched.page.text_content(f"#verdict-{index}") or "")
        watched.page.fill(f"#target-{index}", "")
        assert_ranks_are_pythons(watched, problems, Choice("time", clock=clock))


def test_tuning_curves_and_who_wins_are_pythons(watched: Watched) -> None:
    a, b = [0.3, math.nan, 0.1, 0.9, 0.5, 0.2], [0.4, 0.15, 0.35, 0.2]
    text = {"a": [each if math.isfinite(each) else None for each in a], "b": b}
    for higher in (True, False):
        found = watched.page.evaluate(
            """([{ a, b }, margin, higher]) => {
            const mine = a.map((value) => value ?? NaN);
            return [Trials.curve(mine, margin, higher), Trials.wins(mine, b, higher)];
        }""",
            [text, margin(len(a), 0.95), higher],
        )
        expected = tuning_curve(a, higher_is_better=higher)
        for name in ("median", "expected", "low", "high"):
            np.testing.assert_allclose([row[name] for row in found[0]], getattr(expected, name), rtol=1e-12)
        np.testing.assert_allclose(found[1], win_probability(a, b, higher_is_better=higher), rtol=1e-12)


def test_equal_values_have_that_mean(watched: Watched) -> None:
    """As in test_ranking: else collapsed networks are told apart by the rounding of a sum."""
    found = watched.page.evaluate("""() => [0.1, 0.7, 1234.56].map((value) => Array.from({ length: 30 }, (_, size) => {
        const many = Array(size + 2).fill(value);
        return [Numbers.mean(many) === value, Numbers.welch(many, [value, value])];
    }))""")
    assert found == [[[True, 1]] * 30] * 3


def test_a_tracked_quantity_is_chosen(watched: Watched) -> None:
    (select,) = watched.page.query_selector_all("select.tracked")
    select.select_option("alpha")
    watched.all_drawn()
    index = (select.get_attribute("id") or "").rpartition("-")[2]
    title = watched.page.evaluate(f"document.getElementById('tracked-{index}').layout.yaxis.title.text")
    assert title == "alpha"


def test_hidden_optimizers_leave_ranks_and_plots(watched: Watched, problems: tuple[ProblemData, ...]) -> None:
    box = watched.page.locator("#optimizers label", has_text="sgd").locator("input")
    box.uncheck()
    assert_ranks_are_pythons(watched, problems, Choice(hidden={"sgd"}))
    watched.all_drawn()
    traces = "Array.from(document.getElementById('curves-1').data, (trace) => trace.optimizer).filter(Boolean)"
    assert watched.page.evaluate(traces) == [name for name in sorted(NAMES) if name != "sgd"]
    watched.page.click("#none")
    assert watched.page.text_content("#verdict-text") == "Nothing is left to compare."
    watched.page.click("#all")
    assert_ranks_are_pythons(watched, problems, Choice())


def test_the_filter_narrows_what_is_chosen_from(watched: Watched, problems: tuple[ProblemData, ...]) -> None:
    watched.page.fill("#search", "ÜBUNG")
    assert watched.page.locator("#optimizers label:visible", has_text="Übung").count() == 1
    watched.page.click("#none")  # of those that the filter leaves
    assert_ranks_are_pythons(watched, problems, Choice(hidden={"mine.Übung"}))


def test_a_click_in_a_legend_hides_an_optimizer_everywhere(watched: Watched, problems: tuple[ProblemData, ...]) -> None:
    watched.all_drawn()
    watched.page.locator("#curves-1 .legendtoggle").first.click()
    watched.page.wait_for_function("deepobs.choice.hidden.size === 1")
    hidden = set(watched.page.evaluate("[...deepobs.choice.hidden]"))
    assert_ranks_are_pythons(watched, problems, Choice(hidden=hidden))
    assert watched.page.locator("#optimizers input[type=checkbox]:not(:checked)").count() == 1


def test_tables_sort_by_the_keyboard(watched: Watched) -> None:
    """One press sorts, another turns it round; the focus stays, and readers are told."""
    names = "#table-1 tbody th"
    watched.page.focus("#table-1 [data-key=optimizer]")
    watched.page.keyboard.press("Enter")
    up = watched.page.locator(names).all_text_contents()
    assert up == sorted(up)
    assert watched.page.get_attribute("#table-1 th:nth-child(2)", "aria-sort") == "ascending"
    assert watched.page.evaluate("document.activeElement.dataset.key") == "optimizer"
    watched.page.keyboard.press("Enter")
    assert watched.page.locator(names).all_text_contents() == up[::-1]
    assert watched.page.get_attribute("#table-1 th:nth-child(2)", "aria-sort") == "descending"


def test_the_theme_can_be_turned_and_stays(watched: Watched) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    watched.choose("theme", "dark")
    assert watched.page.evaluate(colour) == "rgb(20, 23, 27)"
    watched.page.reload()
    watched.page.wait_for_selector("body[data-ready=yes]")
    assert watched.page.evaluate(colour) == "rgb(20, 23, 27)"
    watched.requests.pop()


def test_on_paper_it_is_light_and_complete(watched: Watched) -> None:
    watched.choose("theme", "dark")
    watched.page.emulate_media(media="print")
    watched.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    watched.page.wait_for_function(
        "[...document.querySelectorAll('.plot')].every((each) => each.dataset.drawn === 'yes')"
    )
    assert watched.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not watched.page.is_visible(".controls")
    assert watched.page.pdf().startswith(b"%PDF")


def test_every_field_has_a_name_for_screen_readers(watched: Watched) -> None:
    watched.choose("measure", "time")
    unnamed = """[...document.querySelectorAll('input, select, button')]
        .filter((each) => !each.labels?.length && !each.getAttribute('aria-label') && !each.textContent.trim())
        .map((each) => each.outerHTML)"""
    assert watched.page.evaluate(unnamed) == []
    assert watched.page.locator("table:not(:has(caption))").count() == 0
    assert watched.page.locator(".plot:not([aria-label])").count() == 0
    headings = watched.page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((each) => Number(each.tagName[1]))"
    )
    assert headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))


def test_a_name_that_ends_a_script_is_text(watched: Watched) -> None:
    assert watched.page.locator("#optimizers label", has_text=ODD).count() == 1
    assert ODD in watched.page.locator("#table-1 tbody th").all_text_contents()
