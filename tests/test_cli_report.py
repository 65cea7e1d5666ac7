"""`deepobs report` and `deepobs plot`: files are written, and mistakes are told in a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deepobs_func import cli
from deepobs_func.cli.report import KINDS
from tests.analysis import made

LEVELS = {"quadratic_deep": {"adam": 0.2, "sgd": 0.4}, "mine": {"adam": 0.3, "sgd": 0.25}}
STEPS = {"every": 10, "bn": None, "steps": [0, 10]}
QUANTITIES = {"position": [[0.0, 1.0], [1.0, 1.0]], "hess_max_ev": [2.0, 1.0], "hess_trace": [3.0, 1.0]}
QUANTITIES |= {"grad_norm/layer": [[1.0, 2.0], [0.5, 1.0]], "hess_spectrum": [[[0.0, 1.0], [0.5, 0.5]]] * 2}
OF_ONE = ("tracked", "panel", "trajectories", "spectrum", "layers", "densities")  # which one problem has alone


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = made.benchmark(LEVELS, seeds=2)
    records += [made.record("quadratic_deep", name, [1.0, 0.5], lr=1.0) for name in ("adam", "sgd")]
    records += [
        made.record(
            "two_d_beale", "adam", [1.0, 0.5], tracked={**STEPS, "layers": ["a", "b"], "quantities": QUANTITIES}
        )
    ]
    larger = made.record("quadratic_deep", "adam", [1.0, 0.5])
    larger.batch_size = 256
    records += [larger]
    return made.write(tmp_path_factory.mktemp("tree") / "results", records)


def call(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["deepobs", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


@pytest.mark.parametrize(  # the figures themselves are tested in `analysis/figures`
    "kind",
    [
        kind if index % 4 == 0 or kind == OF_ONE[0] else pytest.param(kind, marks=pytest.mark.large)
        for index, kind in enumerate(KINDS)
    ],
)
def test_every_kind_of_figure(tree: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figure.svg"
    chosen = [] if kind in OF_ONE else ["--problem", "quadratic_deep,mine"]
    assert call("plot", kind, str(tree), "--out", str(out), *chosen) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_text(encoding="utf-8").startswith("<?xml")


def test_report(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "report.html"
    assert call("report", str(tree), "--out", str(out), "--title", "My title", "--optimizer", "adam", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"file": str(out), "bytes": out.stat().st_size, "runs": 7, "unread": []}
    page = out.read_text(encoding="utf-8")
    assert "<h1>My title</h1>" in page
    assert "sgd" not in page.partition("<script")[0].partition("</style>")[2]


def test_results_is_the_folder_by_default(tree: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tree.parent)
    assert call("report") == 0
    assert (tree.parent / "report.html").is_file()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plot", "curve", "TREE"], "Unknown kind of figure 'curve'. Did you mean 'curves'?"),
        (["plot", "curves", "TREE", "--out", "x.jpg"], "--out 'x.jpg': the name of a figure ends in .png"),
        (["plot", "curves", "TREE", "--against", "epochs"], "--against: Unknown axis 'epochs'. Did you mean 'epoch'?"),
        (["plot", "curves", "TREE", "--metric", "test_acc"], "--metric: Unknown metric 'test_acc'. Did you mean"),
        (["plot", "tracked", "TREE", "--quantity", "hess_max"], "--quantity: Unknown tracked quantity 'hess_max'."),
        (["plot", "profiles", "TREE", "--against", "second"], "--against: Unknown clock 'second'."),
        (["plot", "targets", "published", "--against", "gradients"], "--against gradients: no run has recorded it"),
        (["report", "TREE", "--problem", "mnist"], "Unknown problem 'mnist'."),
        (["report", "EMPTY"], "There is no run in EMPTY."),
        (["plot", "curves", "EMPTY"], "There is no run in EMPTY."),
        (["report", "nowhere"], "nowhere does not exist."),
        (["report", "TREE", "--mode", "last"], "--mode"),
    ],
)
def test_mistakes(
    tree: Path,
    tmp_path: Path,
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    assert call(*(str(tree) if word == "TREE" else word for word in words)) == 2
    assert told in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["EMPTY"]


@pytest.mark.parametrize(("package", "command"), [("plotly", "report"), ("jinja2", "report"), ("matplotlib", "plot")])
def test_a_missing_package_names_its_extra(
    tree: Path,
    tmp_path: Path,
    package: str,
    command: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from deepobs_func.analysis.reports import page

    page._parts.cache_clear()
    page._environment.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.chdir(tmp_path)
    assert call(*(["plot", "curves"] if command == "plot" else ["report"]), str(tree)) == 2
    assert f"needs {package}" in capsys.readouterr().err
    page._parts.cache_clear()
    page._environment.cache_clear()
