"""The demonstration, made small: both tables, both figures, and no word of a result on stand-in data."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from deepobs_func import datasets, demo, problems, records
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.records import RunRecord
from deepobs_func.runner import RunConfig, run
from tests.datasets.idx_files import write_files

SMALL_MNIST = replace(datasets.spec("mnist"), train_size=384, test_size=256)
PNG = b"\x89PNG\r\n\x1a\n"


class Shown(NamedTuple):
    text: str
    folder: Path

    @property
    def rows(self) -> list[str]:
        """The bodies of the tables."""
        words = ("agrees", "differs", "is better", "no verdict at")
        return [line for line in self.text.splitlines() if line.rstrip().endswith(words) or "no verdict at" in line]

    @property
    def flat(self) -> str:
        """Without line breaks, wherever a long line was broken."""
        return " ".join(self.text.split())


def run_small(config: RunConfig) -> RunRecord:
    """One epoch, on a few hundred images."""
    problem = problems.get(config.problem)
    if problem.dataset.name == "mnist":
        problem = replace(problem, dataset=SMALL_MNIST)
    return run(replace(config, epochs=1, device="cpu"), problem)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SEEDS", range(42, 44))
        patch.setattr(demo, "MLP_SEEDS", range(42, 44))
        patch.setattr(demo, "MLP_EPOCHS", 1)
        yield


@pytest.fixture
def single_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SEEDS", range(42, 43))
    monkeypatch.setattr(demo, "MLP_SEEDS", range(42, 43))


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time."""

    def nothing(*args: Any, **kwargs: Any) -> None:
        pass

    monkeypatch.setattr(demo.figures, "against_published", nothing)
    monkeypatch.setattr(demo.figures, "training", nothing)
    monkeypatch.setattr(demo, "_report", nothing)


def show(data: str, folder: Path) -> Shown:
    console = Console(file=io.StringIO(), width=200)
    demo.demo(console, data, folder / "demo", lambda configs: [run_small(config) for config in configs])
    assert isinstance(console.file, io.StringIO)
    return Shown(console.file.getvalue(), folder)


@pytest.fixture(scope="module")
def on_stand_in(small: None, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    return show("synthetic", tmp_path_factory.mktemp("demo"))


@pytest.mark.large
def test_table_against_the_published_runs(on_stand_in: Shown) -> None:
    assert all(word in on_stand_in.text for word in ("published", "in band", "Welch's t-test", "Holm's adjustment"))
    for optimizer, lr, published in (
        ("sgd", "0.0158", "87.397 ± 0.169"),
        ("momentum", "0.00251", "87.045 ± 0.025"),
        ("adam", "0.0398", "87.112 ± 0.024"),
    ):
        (row,) = [row for row in on_stand_in.rows if optimizer in row and lr in row and published in row]
        assert "differs" in row  # after one of the hundred epochs


@pytest.mark.large
def test_table_of_each_pair(on_stand_in: Shown) -> None:
    pairs = [row for row in on_stand_in.rows if " - " in row]
    for row, pair in zip(pairs, ["sgd - momentum", "sgd - adam", "momentum - adam"], strict=True):
        assert pair in row
        assert "is better" in row or "no verdict" in row


@pytest.mark.large
def test_stand_in_is_said_to_be_no_result(on_stand_in: Shown) -> None:
    (line,) = [line for line in on_stand_in.text.splitlines() if line.startswith("mnist_mlp:")]
    assert "the synthetic stand-in, so these numbers are no result" in line
    assert "published to compare with" in line


@pytest.mark.large
def test_files(on_stand_in: Shown) -> None:
    """Two figures, a report, and records under `results/` alone."""
    folder = on_stand_in.folder
    files = {path for path in folder.rglob("*") if path.is_file()}
    outside = {path for path in files if not path.is_relative_to(folder / "demo" / "results")}
    figures = {folder / "demo" / "quadratic_deep.png", folder / "demo" / "mnist_mlp.png"}
    assert outside == {*figures, folder / "demo" / "report.html"}
    assert all(path.read_bytes().startswith(PNG) for path in figures)
    page = (folder / "demo" / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert all(name in page for name in ("mnist_mlp", "stand-in data", "adam (published)"))
    kept = [records.read(path) for path in files - outside]
    assert sorted(record.testproblem for record in kept) == ["mnist_mlp"] * 6 + ["quadratic_deep"] * 6
    assert all(record.synthetic == (record.testproblem == "mnist_mlp") for record in kept)


@pytest.mark.usefixtures("single_seed")
def test_what_is_missing_is_said_and_a_single_seed_has_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MNIST is stood in for, and nothing is drawn. The p-value is NaN, which neither agrees nor differs."""

    def no_network(spec: DatasetSpec, folder: Path) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("deepobs_func.datasets.download.idx", no_network)
    monkeypatch.setattr(demo, "DRAWING", ("matplotlib", "no_such_package"))
    shown = show(str(tmp_path / "nowhere"), tmp_path)
    assert "the synthetic stand-in, so these numbers are no result. MNIST is not in" in shown.flat
    assert "no route to host" in shown.flat
    assert "take the stand-in: --data synthetic." in shown.flat
    assert "No figures and no report: no_such_package not installed." in shown.flat
    assert "pip install 'deepobs-func[report]'" in shown.flat
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".html")]
    assert len(shown.rows) == 6
    assert not [row for row in shown.rows if any(word in row for word in ("differs", "agrees", "better"))]


@pytest.mark.large
@pytest.mark.usefixtures("no_figures", "single_seed")
def test_real_files_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path / "data" / "mnist", SMALL_MNIST)
    monkeypatch.setattr(datasets, "spec", lambda name: SMALL_MNIST)
    shown = show(str(tmp_path / "data"), tmp_path).flat
    assert f"MNIST from {tmp_path / 'data'}" in shown
    assert "stand-in" not in shown
    assert not any(records.read(path).synthetic for path in tmp_path.rglob("*.json"))


@pytest.mark.large  # each process imports torch
def test_processes_give_the_runs_in_order() -> None:
    """And the same numbers as here: in a process of one thread."""
    configs = [RunConfig("two_d_beale", "sgd", 1e-5, epochs=1, seed=seed, output_dir=None) for seed in (1, 2, 3)]
    with demo.processes() as map_runs:
        records_there = list(map_runs(configs))
    assert [record.random_seed for record in records_there] == [1, 2, 3]
    assert [record.test_losses for record in records_there] == [run(config).test_losses for config in configs]
