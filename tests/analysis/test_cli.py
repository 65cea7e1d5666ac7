"""`deepobs show`, `compare`, `best`, `table`: by hand, with wrong input too."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.analysis.trees import record, write, write_json
from tests.command import Deepobs

RESULTS = Path("results")


def fill() -> None:
    for name, values in {"adam": [0.95, 0.96, 0.94], "sgd": [0.9, 0.91, 0.89]}.items():
        for seed, value in enumerate(values):
            write(
                RESULTS,
                record("fmnist_2c2d", name, seed=seed, accuracies=[0.1, 0.5, value], extra={"run_id": f"{seed}{name}"}),
            )


def test_the_first_verdict_takes_one_command_after_two_runs(deepobs: Deepobs) -> None:
    for optimizer in ("sgd", "momentum"):
        command = f"run two_d_beale --optimizer {optimizer} --lr 1e-6 -N 1 --compile off -q"
        ran = deepobs(*command.split())
        assert ran.code == 0
    compared = deepobs("compare")
    assert compared.code == 0
    assert "two_d_beale: test loss after the last epoch" in compared.out
    assert "no interval: one seed" in compared.out
    assert "run more, deepobs run ... --seed 43" in compared.out
    assert deepobs("compare", "momentum", "sgd").out == compared.out


def test_compare(deepobs: Deepobs) -> None:
    fill()
    assert "adam is better than sgd: difference 0.05 [" in deepobs("compare", "adam", "sgd").out
    found = json.loads(deepobs("compare", "adam", "sgd", "--json").out)
    (problem,) = found["problems"]
    assert problem["verdicts"][0]["answer"] == "A"
    assert problem["entrants"][0]["finals"] == [0.95, 0.96, 0.94]
    tie = json.loads(deepobs("compare", "--delta", "0.5", "--paired", "--json").out)
    assert tie["problems"][0]["verdicts"][0]["answer"] == "tie"


def test_compare_beside_the_published(deepobs: Deepobs) -> None:
    fill()
    out = deepobs("compare", "adam", "published", "--problem", "fmnist_2c2d", "--baselines", "published").out
    assert "adam (published)" in out
    assert "Beside the published runs, final loss within 1 %, accuracy within .5 %:" in out
    assert "fmnist_2c2d  adam       test accuracy    0.9500     0.9234     +2.66 %    0.5 %  no" in out
    found = json.loads(deepobs("compare", "adam", "published", "--baselines", "published", "--json").out)
    assert {row["quantity"] for row in found["published"]} == {"test_loss", "test_accuracy"}


def test_table(deepobs: Deepobs) -> None:
    fill()
    assert "fmnist_2c2d  adam            0.9500  0.0100    2.0  lr 1.00e-01      3" in deepobs("table").out
    rows = json.loads(deepobs("table", "--json").out)
    assert [(row["optimizer"], row["seeds"]) for row in rows] == [("adam", 3), ("sgd", 3)]
    assert deepobs("table", "results", "--format", "csv").out.startswith("problem,optimizer,performance,speed,")
    assert (
        deepobs("table", "--format", "md", "--wide").out.splitlines()[2]
        == "| fmnist_2c2d | performance | 0.9500 | 0.9000 [1] |"
    )
    assert r"\bottomrule" in deepobs("table", "--format", "latex").out
    shown = deepobs("table", "--optimizer", "sgd", "--metric", "test_loss", "--mode", "final").out
    assert "adam" not in shown
    assert "0.500000" in shown


def test_table_beside_the_published(deepobs: Deepobs) -> None:
    fill()
    out = deepobs("table", "--baselines", "published", "--problem", "fmnist_2c2d").out
    assert "fmnist_2c2d  momentum (published)       0.9214  0.0021   59.1  lr 2.51e-03, momentum 0.99 " in out
    found = json.loads(deepobs("table", "--baselines", "published", "--json").out)
    assert len(found["table"]) == 26
    assert len(found["published"]) == 4


def test_best(deepobs: Deepobs) -> None:
    fill()
    assert "fmnist_2c2d  adam              1  most   0.9500      3  lr 1.00e-01" in deepobs("best").out
    rows = json.loads(deepobs("best", "results", "--problem", "fmnist_2c2d", "--json").out)
    assert [row["mode"] for row in rows] == ["most", "final", "best"] * 2


def test_show(deepobs: Deepobs) -> None:
    fill()
    shown = deepobs("show", "1ad")
    assert "optimizer  adam" in shown.out
    assert json.loads(deepobs("show", "1ad", "--json").out)["facts"]["seed"] == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("table nowhere", "nowhere does not exist"),
        ("table empty", "There is no run to look at"),
        ("table --mode worst", "--mode: Unknown mode 'worst'"),
        ("table --format html", "--format: Unknown format 'html'"),
        ("table --problem fmnist", "Unknown problem 'fmnist'"),
        ("best --metric valid_loss", "--metric valid_loss: no run of fmnist_2c2d has one"),
        ("compare adam lion", "Unknown optimizer 'lion'"),
        ("compare adam", "No problem has complete runs of two optimizers (fmnist_2c2d: adam)"),
        ("compare --level 2", "--level 2.0"),
        ("show results", "results has 6 runs; name one"),
        ("show zzz", "zzz is neither a file of a run nor the beginning of a run's id"),
    ],
)
def test_mistakes_are_one_clear_message(deepobs: Deepobs, command: str, message: str) -> None:
    fill()
    Path("empty").mkdir()
    found = deepobs(*command.split())
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("Error: ")
    assert message in found.err


def test_what_could_not_be_read_is_said(deepobs: Deepobs) -> None:
    fill()
    path = RESULTS / "fmnist_2c2d/adam/setting/random_seed__1__x.json"
    write_json(path, '{"train_losses": [1.0, ')
    for command in ("table", "best", "compare"):
        found = deepobs(command)
        assert found.code == 0
        assert f"Not read: {path}: it is no JSON, or cut off" in found.err


def test_a_missing_extra_is_named(deepobs: Deepobs, monkeypatch: pytest.MonkeyPatch) -> None:
    fill()
    monkeypatch.setitem(sys.modules, "pandas", None)
    for command in ("table", "best", "compare", "show 0adam"):
        found = deepobs(*command.split())
        assert found.code == 2
        assert found.err == "Error: Reading results needs pandas: pip install 'deepobs-func[analysis]'\n"
