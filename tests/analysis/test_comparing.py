"""Optimizers against each other: the numbers are the verdicts' own, the words are clear."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from deepobs_func.analysis import Results, compare, gather, load, verdicts
from deepobs_func.errors import ConfigError
from tests.analysis.trees import record, write


def fill(root: Path, **finals: list[float]) -> Path:
    for name, values in finals.items():
        for seed, value in enumerate(values):
            write(root, record(optimizer=name, seed=seed, accuracies=[0.1, 0.5, value]))
    return root


def test_a_planted_winner(tmp_path: Path) -> None:
    good, bad = [0.95, 0.96, 0.94, 0.95], [0.9, 0.91, 0.89, 0.9]
    (found,) = compare(load(fill(tmp_path, bad=bad, good=good))).problems
    assert [each.optimizer for each in found.entrants] == ["good", "bad"]
    assert found.entrants[0].finals == tuple(good)
    (verdict,) = found.verdicts
    assert verdict.winner == "good"
    assert verdict.difference == verdicts.compare(good, bad, higher_is_better=True).difference
    text = str(compare(load(tmp_path)))
    assert "mnist_mlp: test accuracy after the last epoch, mean over the seeds" in text
    assert "good              0.9500  0.0082      4  lr 1.00e-01" in text
    assert "good is better than bad: difference 0.05 [" in text


def test_a_loss_is_better_the_lower_it_is(tmp_path: Path) -> None:
    for seed in range(3):
        write(tmp_path, record("mnist_vae", "a", seed=seed, losses=[9.0, 5.0 + seed / 100], accuracies=None))
        write(tmp_path, record("mnist_vae", "b", seed=seed, losses=[9.0, 4.0 + seed / 100], accuracies=None))
    (found,) = compare(load(tmp_path)).problems
    assert found.entrants[0].optimizer == "b"
    assert found.verdicts[0].winner == "b"


def test_a_tie_within_delta(tmp_path: Path) -> None:
    values = [0.9, 0.901, 0.899, 0.9005]
    results = load(fill(tmp_path, a=values, b=[value + 1e-4 for value in values]))
    assert compare(results, delta=0.01).problems[0].verdicts[0].answer == "tie"
    assert compare(results).problems[0].verdicts[0].answer == "undecided"


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    text = str(compare(load(fill(tmp_path, a=[0.9], b=[0.8, 0.81]))))
    assert "a - b: 0.09500, no interval: one seed" in text
    assert "One seed of a: run more" in text


def test_p_values_are_adjusted_for_all_pairs_of_a_problem(tmp_path: Path) -> None:
    groups = {"a": [0.9, 0.91, 0.92], "b": [0.8, 0.81, 0.82], "c": [0.7, 0.72, 0.74]}
    (found,) = compare(load(fill(tmp_path, **groups))).problems
    assert found.verdicts == tuple(verdicts.compare_all(groups, higher_is_better=True))


def test_paired_by_seed(tmp_path: Path) -> None:
    results = load(fill(tmp_path, a=[0.9, 0.8, 0.7], b=[0.89, 0.79, 0.69, 0.2]))
    (verdict,) = compare(results, paired=True).problems[0].verdicts
    assert verdict.winner == "a"
    write(tmp_path / "none", record(optimizer="a", seed=1), record(optimizer="b", seed=2))
    with pytest.raises(ConfigError, match="no seed in common on mnist_mlp"):
        compare(load(tmp_path / "none"), paired=True)


def test_a_run_that_diverged_has_no_verdict(tmp_path: Path) -> None:
    write(tmp_path, record("quadratic_deep", "a", losses=[1.0, math.nan], accuracies=None, status="diverged"))
    write(tmp_path, *(record("quadratic_deep", "b", seed=seed, losses=[1.0, 0.5], accuracies=None) for seed in (1, 2)))
    text = str(compare(load(tmp_path)))
    assert "a          not finite" in text
    assert "no interval: 1 of 3 values are not finite" in text


def test_one_without_a_complete_run_is_named(tmp_path: Path) -> None:
    fill(tmp_path, a=[0.9, 0.8], b=[0.7, 0.6])
    write(tmp_path, record(optimizer="c", losses=[1.0], accuracies=[0.1], status="interrupted"))
    assert "c has no complete run: 1 interrupted." in str(compare(load(tmp_path)))


def test_nothing_to_compare(tmp_path: Path) -> None:
    write(tmp_path, record(optimizer="a"), record("mnist_2c2d", "b"))
    with pytest.raises(ConfigError, match=r"complete runs of two optimizers \(mnist_2c2d: b; mnist_mlp: a\)"):
        compare(load(tmp_path))


def test_two_names_in_a_tree(tmp_path: Path) -> None:
    fill(tmp_path, a=[0.9], b=[0.8], c=[0.7])
    results, names = gather(["a", "c"], tmp_path)
    assert names == ["a", "c"]
    assert [each.optimizer for each in compare(results, names).problems[0].entrants] == ["a", "c"]


def test_two_trees(tmp_path: Path) -> None:
    fill(tmp_path / "old", mine=[0.8, 0.81], adam=[0.7])
    fill(tmp_path / "new", mine=[0.9, 0.91])
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    results, names = gather([old, new], tmp_path / "results")
    assert names == ["adam", f"mine ({old})", f"mine ({new})"]
    assert compare(results, names).problems[0].entrants[0].optimizer == f"mine ({new})"


def test_a_name_and_a_folder_and_the_published(tmp_path: Path) -> None:
    write(tmp_path / "results", record("fmnist_2c2d", "adam"))
    write(tmp_path / "others", record("fmnist_2c2d", "lion"), record("mnist_mlp", "lion"))
    folder = str(tmp_path / "others/fmnist_2c2d/lion")
    results, names = gather(["adam", folder, "published"], tmp_path / "results")
    assert names == ["adam", "lion", "adam (published)", "momentum (published)", "sgd (published)"]
    assert len(compare(results, names).problems) == 8
    assert [each.optimizer for each in gather_all(tmp_path / "results")] == ["adam", *load("published").optimizers]


def gather_all(root: Path) -> list:
    results, names = gather([], root, baselines="published")
    assert names == []
    found = compare(results.select(problem="fmnist_2c2d"), names).problems[0]
    return sorted(found.entrants, key=lambda each: each.optimizer)


def test_a_name_that_is_nowhere(tmp_path: Path) -> None:
    fill(tmp_path, adam=[0.9])
    with pytest.raises(ConfigError, match=r"'adm'\. Did you mean 'adam'\? Nor is there a file or folder adm"):
        gather(["adm"], tmp_path)


def test_a_name_of_several(tmp_path: Path) -> None:
    for number, name in enumerate(("alpha", "beta")):
        write(tmp_path, record(optimizer="Mine", status=None, lr=number + 1.0, hyperparams={name: 0.1}))
    with pytest.raises(ConfigError, match=r"Several optimizers are called Mine: Mine \(alpha\), Mine \(beta\)"):
        gather(["Mine"], tmp_path)
    assert gather(["Mine (beta)"], tmp_path)[1] == ["Mine (beta)"]


def test_the_published_ones(sample: Results) -> None:
    found = {each.problem: each for each in compare(sample).problems}
    winners = {verdict.winner for verdict in found["tolstoi_char_rnn"].verdicts}
    assert winners == {"GradientDescentOptimizer", None}
    assert len(found) == 8
