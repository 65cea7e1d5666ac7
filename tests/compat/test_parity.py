"""Equality with the reference, figure by figure, and that the comparison sees a difference."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from deepobs_func import problems
from deepobs_func.cli import cli, main
from deepobs_func.compat import parity
from deepobs_func.errors import ConfigError, DataError
from tests.problems.test_registry import LARGE_NAMES, NAMES

# fmnist has the nets and the recipe of mnist
DEEPOBS = problems.SETS["deepobs"]
SLOW = ("cifar100_allcnnc", "mnist_vae", "svhn_wrn164", *(n for n in DEEPOBS if n in LARGE_NAMES))
CASES = [n for n in DEEPOBS if n in NAMES and not n.startswith("fmnist") and n not in SLOW]
CASES += [pytest.param(n, marks=pytest.mark.large) for n in SLOW]


@pytest.mark.parametrize("name", CASES)
def test_every_golden_figure_holds(name: str) -> None:
    figures = parity.check(name)
    assert [figure for figure in figures if not figure.holds] == []
    assert {"eval", "penalty", "train", "grad"} <= {figure.name for figure in figures}


def test_fashion_mnist_has_the_figures_of_mnist() -> None:
    for net in ("logreg", "mlp", "2c2d", "vae"):
        ours, theirs = parity.read_golden(f"fmnist_{net}"), parity.read_golden(f"mnist_{net}")
        assert ours["eval"]["losses"] == theirs["eval"]["losses"]
        assert problems.spec_of(f"fmnist_{net}").net == problems.spec_of(f"mnist_{net}").net


def test_there_are_figures_for_every_problem() -> None:
    for name in DEEPOBS:
        golden = parity.read_golden(name)
        assert golden["num_trainable_params"] == problems.spec_of(name).parameters
        assert golden["eval"]["weight_decay_default"] == problems.spec_of(name).weight_decay
        regularized = len(golden["eval"]["regularized_variables"])
        problem = problems.get(name)
        assert regularized == (0 if problem.weight_decay is None else len(problem.regularized))


@pytest.mark.large
def test_each_difference_is_seen(tmp_path: Path) -> None:
    """And nothing else: what was not changed still holds."""
    golden = parity.read_golden("svhn_wrn164")
    golden["eval"]["losses"][0] *= 1.0001
    golden["eval"]["regularizer"] = 0.5
    golden["train_nodropout"]["updated_state"][1]["l2"] = 4.0
    golden["grad"][3]["l2"] *= 1.001
    (tmp_path / "svhn_wrn164.json").write_text(json.dumps(golden))
    differ = [f.name for f in parity.check("svhn_wrn164", tmp_path) if not f.holds]
    assert differ == ["eval", "penalty", "moments", "grad"]


def test_a_missing_golden_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no readable golden file mnist_mlp\.json"):
        parity.check("mnist_mlp", tmp_path)


@pytest.mark.parametrize("names", [["digits_mlp"], ["two_d_beale", "mnist_convnext"]])
def test_a_problem_without_figures_is_refused_before_any_is_computed(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*args: str) -> str:
        monkeypatch.setattr(sys, "argv", ["deepobs", "check-parity", *args])
        with pytest.raises(SystemExit) as end:
            main()
        told = capsys.readouterr()
        assert (end.value.code, told.out) == (2, "")
        return told.err

    told = refused(*names)
    assert f"Problem '{names[-1]}': the package holds the reference's figures of DeepOBS's 26 problems" in told
    assert "deepobs list --set deepobs" in told
    with pytest.raises(ConfigError, match="--golden"):
        parity.check(names[-1])
    told = refused(names[-1], "--golden", str(tmp_path))
    assert f"{tmp_path}: no readable golden file {names[-1]}.json" in told


def test_the_command_prints_a_line_a_problem_and_fails_on_a_difference(tmp_path: Path) -> None:
    result = CliRunner().invoke(cli, ["check-parity", "two_d_beale", "quadratic_deep"])
    assert result.exit_code == 0
    first, second = result.output.splitlines()
    assert first.startswith("equal   two_d_beale: eval ")
    assert second.startswith("equal   quadratic_deep: eval ")
    golden = parity.read_golden("two_d_beale")
    golden["eval"]["losses"][0] *= 2
    (tmp_path / "two_d_beale.json").write_text(json.dumps(golden))
    result = CliRunner().invoke(cli, ["check-parity", "two_d_beale", "--golden", str(tmp_path)])
    assert result.exit_code == 1
    assert "DIFFERS two_d_beale" in result.output
    assert "allowed: 1e-05" in result.output
