"""DeepOBS's table: the published values, DeepOBS's own rules, and what cannot be in a table."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import records
from deepobs_func.analysis import Results, benchmark_table, best_settings, compare, load, published, table_text
from deepobs_func.analysis.choosing import MODES
from deepobs_func.analysis.reports import write_report
from deepobs_func.analysis.tables import best_text
from deepobs_func.errors import ConfigError
from tests.analysis import deepobs_rules
from tests.analysis.conftest import TARGETS, Tree
from tests.analysis.test_published import FIGURES, assert_rounds_to
from tests.analysis.trees import NAMES, record, write


def assert_equals_deepobs(results: Results, by_rules: deepobs_rules.Tree, mode: str) -> None:
    expected = deepobs_rules.table(by_rules, mode)
    rows = [row for row in benchmark_table(results, mode).to_dict("records") if row["seeds"]]
    assert {(row["problem"], row["optimizer"]) for row in rows} == set(expected)
    for row in rows:
        entry = expected[row["problem"], row["optimizer"]]
        assert row["performance"] == pytest.approx(entry.performance, rel=1e-9)
        assert row["tuneability"] == entry.tuneability, (row["problem"], row["optimizer"])
        assert row["speed"] == pytest.approx(entry.speed)


def test_the_published_values_from_the_published_files(published_trees: list[Tree]) -> None:
    for tree in published_trees:
        rows = {(row["problem"], row["optimizer"]): row for row in benchmark_table(tree.results).to_dict("records")}
        for (problem, optimizer), typed in FIGURES.items():
            row = rows[problem, NAMES[optimizer]]
            for value, text in zip((row["lr"], row["performance"], row["sd"], row["speed"]), typed, strict=True):
                assert_rounds_to(value, text)
            assert (row["seeds"], row["settings"]) == (10, 36)
            *_, tuned, seed = row["note"].split("; ")
            assert tuned.endswith("were run, and what is shown was chosen on the test set")
            assert seed.startswith("the tuning seed 42 of ")
        assert len(rows) == len(FIGURES) == 24


@pytest.mark.parametrize(
    "mode", [mode if mode == "most" else pytest.param(mode, marks=pytest.mark.large) for mode in MODES]
)
def test_all_modes_are_deepobs_s(published_trees: list[Tree], mode: str) -> None:
    for tree in published_trees:
        assert_equals_deepobs(tree.results, tree.by_rules, mode)


@pytest.mark.large
def test_the_best_rates_of_mode_most_are_the_published_ones(published_trees: list[Tree]) -> None:
    for tree in published_trees:
        table = best_settings(tree.results)
        most = table[table["mode"] == "most"]
        for row in most.to_dict("records"):
            (optimizer,) = (ours for ours, theirs in NAMES.items() if theirs == row["optimizer"])
            assert_rounds_to(row["lr"], FIGURES[row["problem"], optimizer][0])
        assert len(most) == 24
        assert set(table["mode"]) == set(MODES)


@pytest.mark.large
def test_a_tree_of_ours_is_read_by_deepobs(tmp_path: Path) -> None:
    """The eight published problems, and runs that ended in every way there is: only whole ones are in the tree."""
    root = tmp_path / "results"
    for number, problem in enumerate(published.problems()):
        with_accuracy = problem not in deepobs_rules.BY_LOSS
        for optimizer in ("sgd", "my.Optimizer"):
            for seed in (42, 43):
                curve = [0.9 + 0.01 * number, 0.5 + 0.001 * seed, 0.4 + 0.002 * seed]
                run = record(problem, optimizer, seed=seed, losses=curve, accuracies=curve if with_accuracy else None)
                records.write(run, root)
            nan = record(problem, optimizer, lr=10.0, status="diverged", losses=[1.0, math.nan, math.nan])
            records.write(replace(nan, test_accuracies=[0.1] * 3 if with_accuracy else None), root)
            for status in ("interrupted", "failed", "stopped"):
                short = {"losses": [1.0], "accuracies": [0.1] if with_accuracy else None, "status": status}
                records.write(record(problem, optimizer, lr=1.0, **short), root)
                records.write(record(f"{problem}_{status}", optimizer, **short), root)
    results, by_rules = load(root), deepobs_rules.read(root, TARGETS)
    for mode in MODES:
        assert_equals_deepobs(results, by_rules, mode)
    assert {problem for problem, _ in by_rules} == set(published.problems())
    assert set(results.runs["status"]) == {"finished", "diverged", "interrupted", "failed", "stopped"}
    assert results.unread == []


curves = st.lists(st.sampled_from([0.1, 0.3, 0.30000001, 1.0, 2.0, math.inf, math.nan]), min_size=3, max_size=3)


@given(runs=st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3]), curves), min_size=1, max_size=6))
@settings(max_examples=10)
def test_any_runs_are_chosen_as_deepobs_chooses(tmp_path_factory: pytest.TempPathFactory, runs: list) -> None:
    """Losses with infinity and NaN anywhere; where DeepOBS finds a best setting at all, ours has the same value."""
    root = tmp_path_factory.mktemp("tree")
    for seed, (lr, curve) in enumerate(runs):
        write(root, record("quadratic_deep", lr=lr, seed=seed, losses=curve, accuracies=None))
    results = load(root)
    for mode in ("final", "best"):
        aggregates = [
            deepobs_rules.aggregate(folder, "quadratic_deep", TARGETS["quadratic_deep"])
            for folder in (root / "quadratic_deep" / "sgd").iterdir()
        ]
        values = [min(each.means) if mode == "best" else each.means[-1] for each in aggregates]
        (row,) = (row for row in best_settings(results).to_dict("records") if row["mode"] == mode)
        if any(value < math.inf for value in values):
            assert row["value"] == pytest.approx(deepobs_rules_value(aggregates, mode))
        else:
            assert not row["value"] < math.inf


def deepobs_rules_value(aggregates: list[deepobs_rules.Aggregate], mode: str) -> float:
    chosen = deepobs_rules.choose(aggregates, mode, by_loss=True)
    return min(chosen.means) if mode == "best" else chosen.means[-1]


def test_of_equally_many_runs_the_better_setting_counts(tmp_path: Path) -> None:
    write(
        tmp_path, *(record(lr=lr, accuracies=[0.1, 0.2, final]) for lr, final in ((0.1, 0.7), (0.2, 0.9), (0.3, 0.8)))
    )
    (row,) = benchmark_table(load(tmp_path)).to_dict("records")
    assert (row["lr"], row["seeds"]) == (0.2, 1)
    assert row["note"] == (
        "sgd has one seed, so that nothing is known of its spread; "
        "several settings of sgd were run, and what is shown was chosen on the test set; "
        "the tuning seed 42 of sgd is among the reported ones"
    )
    assert math.isnan(row["sd"])


def test_a_target_that_nobody_reaches_counts_one_more_than_the_last_epoch(tmp_path: Path) -> None:
    write(tmp_path, *(record("fmnist_2c2d", seed=seed, accuracies=[0.1, 0.2, 0.3]) for seed in (1, 2)))
    (row,) = benchmark_table(load(tmp_path)).to_dict("records")
    assert (row["speed"], row["reached"]) == (3.0, 0)
    assert row["note"].startswith("2 of 2 seeds did not reach the target of 0.919809, and count as 3 epochs")


def test_speed_needs_a_target_of_the_metric(tmp_path: Path) -> None:
    write(tmp_path, record("mnist_mlp"), record("fmnist_2c2d"))
    assert benchmark_table(load(tmp_path))["speed"].isna().tolist() == [False, True]
    assert benchmark_table(load(tmp_path), metric="test_loss")["speed"].isna().all()


def test_trials_of_a_study_give_way_to_its_reported_seeds(tmp_path: Path) -> None:
    study = {"study": {"budget": "random-20", "role": "tuning", "tuning_seed": 42, "reported_seeds": [43, 44]}}
    finals = {42: 0.99, 43: 0.5, 44: 0.6}
    write(tmp_path, *(record(seed=seed, accuracies=[0.1, 0.2, value], extra=study) for seed, value in finals.items()))
    write(tmp_path, *(record(lr=9.0, seed=42, accuracies=[0.1, 0.2, 0.7], extra=study) for _ in range(1)))
    (row,) = benchmark_table(load(tmp_path)).to_dict("records")
    assert (row["lr"], row["seeds"], row["performance"]) == (0.1, 2, pytest.approx(0.55))
    assert load(tmp_path).runs["reported"].tolist().count(False) == 2


def test_a_problem_without_a_complete_run_has_a_row_that_says_so(tmp_path: Path) -> None:
    write(tmp_path, record(), record(optimizer="adam", losses=[1.0], accuracies=[0.1], status="interrupted"))
    adam, sgd = benchmark_table(load(tmp_path)).to_dict("records")
    assert adam["note"] == "no complete run: 1 interrupted"
    assert math.isnan(adam["performance"])
    assert sgd["performance"] == 0.9


def test_an_empty_tree_and_one_without_a_complete_run(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert load(tmp_path / "empty").problems == []
    with pytest.raises(ConfigError, match="There is no run to look at"):
        benchmark_table(load(tmp_path / "empty"))
    write(tmp_path / "results", record(status="stopped"), record(seed=1, status="failed"))
    with pytest.raises(ConfigError, match="No run is complete: 1 failed, 1 stopped"):
        best_settings(load(tmp_path / "results"))


def test_a_metric_that_a_problem_does_not_have(sample: Results) -> None:
    results = sample.select(problem="mnist_vae")
    with pytest.raises(ConfigError, match=r"test_accuracy: no run of mnist_vae has one\. It has train_loss, test_loss"):
        benchmark_table(results, metric="test_accuracy")
    with pytest.raises(ConfigError, match=r"Unknown metric 'test_los'\. Did you mean 'test_loss'"):
        benchmark_table(results, metric="test_los")
    with pytest.raises(ConfigError, match="Unknown mode 'worst'"):
        benchmark_table(results, mode="worst")


@pytest.mark.parametrize(("format", "line"), [("text", "fmnist_2c2d  AdamOptimizer  "), ("md", "| fmnist_2c2d | Adam")])
def test_a_table_to_read(sample: Results, format: str, line: str) -> None:
    table = benchmark_table(sample.select(problem="fmnist_2c2d"))
    text = table_text(table, format)
    assert line in text
    assert "lr 2.51e-04, beta1 0.9, beta2 0.999, epsilon 1e-08" in text
    assert "0.9234" in text


def marked(root: Path) -> Results:
    """Runs that have everything to be said of them."""
    write(root, *(record(seed=seed) for seed in (1, 2, 3)), record(lr=0.2, seed=1))
    about = {"protocol": "default", "environment": {"torch": "2.13", "platform": "moon"}, "data": {"synthetic": True}}
    write(
        root,
        *(
            record(optimizer="adam", seed=seed, losses=(2.0, 1.0, 0.9, 0.8), accuracies=None, extra=about)
            for seed in (1, 2)
        ),
    )
    write(
        root,
        record(
            optimizer="adam",
            seed=2,
            status="diverged",
            losses=(2.0, math.inf, math.inf, math.nan),
            accuracies=None,
            extra=about,
        ),
    )
    return load(root)


MARKS = (
    "stand-in data in 3 of 6 runs: not a result",
    "1 of 3 runs of adam diverged",
    "adam lacks the seed 3",
    "adam was run several times with the seeds 2, and the last run of each counts",
    "different numbers of epochs: adam 3, sgd 2",
    "unequal numbers of settings were tried: adam 1, sgd 2",
    "several settings of sgd were run, and what is shown was chosen on the test set",
    "the tuning seed 1 of sgd is among the reported ones",
    "different protocols: adam default, sgd deepobs-1.1.2",
    "different data: adam synthetic, sgd files",
    "different versions",
    "different machines, so that seconds do not compare",
)


def test_what_is_to_be_known_stands_in_every_table(tmp_path: Path) -> None:
    """The marks of honesty, in each format of the tables, in a comparison and in the report."""
    results = marked(tmp_path / "results")
    table, best = benchmark_table(results, metric="test_loss"), best_settings(results, metric="test_loss")
    page = write_report(results, tmp_path / "report.html").read_text(encoding="utf-8")
    told = {
        **{format: table_text(table, format) for format in ("text", "md", "csv")},
        "wide": table_text(table, wide=True),
        "best": best_text(best),
        "compare": str(compare(results, metric="test_loss")),
        "page": page,
    }
    for name, text in told.items():
        assert [mark for mark in MARKS if mark not in text] == [], name
    assert "note &" in table_text(table, "latex")
    rows = {line.split()[1]: line for line in told["text"].splitlines()[1:3]}
    assert rows["adam"].rstrip().endswith("1, 2, 3, 4, 5, 6, 7, 8, 9, 10")


def test_csv_has_all_digits_and_columns(sample: Results) -> None:
    table = benchmark_table(sample)
    titles, *rows = csv.reader(io.StringIO(table_text(table, "csv")))
    assert titles == list(table)
    assert [float(row[titles.index("performance")]) for row in rows] == table["performance"].tolist()


def test_csv_has_numbers_alone_in_their_cells_and_whole_notes(tmp_path: Path) -> None:
    """A reader of a CSV file has no list of notes below the table."""
    results = marked(tmp_path / "results")
    table, best = benchmark_table(results, metric="test_loss"), best_settings(results, metric="test_loss")
    _, *rows = csv.reader(io.StringIO(table_text(table, "csv", wide=True)))
    assert [row[1] for row in rows] == ["performance", "speed", "tuneability", "note"]
    assert rows[0][2:] == ["-", "0.500000"]
    assert rows[3][2:] == table["note"].tolist()
    titles, *rows = csv.reader(io.StringIO(best_text(best, "csv")))
    assert [row[titles.index("note")] for row in rows] == best["note"].tolist()


def test_latex_escapes_and_has_deepobs_s_layout(sample: Results) -> None:
    text = table_text(benchmark_table(sample.select(problem="fmnist_2c2d")), "latex", wide=True)
    assert r"\toprule" in text
    assert r"problem &  & AdamOptimizer & GradientDescentOptimizer & MomentumOptimizer \\" in text
    assert r"fmnist\_2c2d & performance & 0.9234 [1, 2] & 0.9227 [1, 2] & 0.9214 [3, 1, 2] \\" in text
    assert r"fmnist\_2c2d & speed & 40.1 & 40.6 & 59.1 \\" in text
