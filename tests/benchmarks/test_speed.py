"""The benchmarks of speed run on small problems, and their reports say what is missed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import augmentation, epochs, recording, report, scaling, start, steps
from benchmarks.ours import Paused
from benchmarks.peak import Peak, operations
from benchmarks.plain_loops import InMemory, WithLoader
from benchmarks.shares import data_for, shortened
from benchmarks.tables import Target
from deepobs_func import problems
from deepobs_func.datasets.loading import load
from deepobs_func.problems.problem import Problem

Run = dict[str, Any]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in this process, and nothing compiled."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(recording, "in_a_new_process", lambda measure, *arguments: measure(*arguments))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    yield
    torch.set_num_threads(threads)


MEASURED = [
    pytest.param(epochs, "two_d_rosenbrock", {"synthetic", "source", "share", "auto"}, marks=pytest.mark.large),
    pytest.param(steps, "mnist_logreg", {"batch_size", "device", "channels_last"}, marks=pytest.mark.large),
    pytest.param(steps, "mnist_2c2d", {"batch_size", "device", "channels_last"}, marks=pytest.mark.large),
    pytest.param(augmentation, "cifar10_3c3d", {"batch_size", "device"}, marks=pytest.mark.large),
    pytest.param(scaling, "members of mnist_logreg", {"sizes", "device"}, marks=pytest.mark.large),
]


@pytest.mark.parametrize(("measured", "problem", "fields"), MEASURED, ids=lambda each: getattr(each, "__name__", None))
@pytest.mark.usefixtures("here")
def test_it_measures_prints_and_writes(
    measured: Any, problem: str, fields: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording.main(
        measured.BENCHMARK,
        measured.__doc__,
        ["--problems", problem, "--quick", "--data", "synthetic", "--results", str(tmp_path)],
    )
    (run,) = json.loads((tmp_path / f"{measured.BENCHMARK.name}.json").read_text())
    assert set(run) == {"problem", "threads", "rounds", "quick", "environment", "rows"} | fields
    assert f"**{problem}**, 1 thread(s)" in capsys.readouterr().out
    assert all(row.get("ratio", 1) > 0 for row in run["rows"])
    assert problem in report.summary(measured.BENCHMARK.name, tmp_path)


def test_start_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert start.first_step("quadratic_deep", "off", torch.get_num_threads()) > 0

    def pretended(command: list[str], environment: dict[str, str]) -> tuple[float, str]:
        compiled = "on" in command
        cached = compiled and (Path(environment["XDG_CACHE_HOME"]) / "used").exists()
        if compiled:
            (Path(environment["TORCHINDUCTOR_CACHE_DIR"]) / "used").touch()
        return 0.5, f"noise\n{4.0 if cached else 10.0}\n"

    monkeypatch.setattr(start, "_seconds", pretended)
    run = {"problem": "mnist_mlp", "threads": 1, **start.measure("mnist_mlp", recording.Settings(quick=True))}
    assert "MISSED: of the cold first step takes the cached one: 0.4" in start.report(run)
    recording.write(tmp_path / "start.json", run)
    assert report.missed(tmp_path).startswith("start, mnist_mlp, 1 thread(s): MISSED")


def row(by: str, value: float, **more: Any) -> Run:
    return {"by": by, "reference": by == "ours, compiled", "ratio": value, "quartiles": [value, value], **more}


def of_an_epoch(problem: str, memory: float, loader: float) -> Run:
    values = {
        "ours, compiled": 1.0,
        "in memory": memory,
        "DataLoader as in the port": loader,
        "DataLoader, 2 workers": 99,
    }
    rows = [row(by, value, seconds=value) for by, value in values.items()]
    return {
        "problem": problem,
        "threads": 1,
        "synthetic": problem != "mnist_mlp",
        "share": 0.5,
        "auto": "ours, compiled",
        "rows": rows,
    }


def test_the_verdict_on_an_epoch() -> None:
    assert [target.met for target in epochs.targets(of_an_epoch("mnist_mlp", 1.2, 3.4))] == [True, True]
    assert [target.met for target in epochs.targets(of_an_epoch("mnist_mlp", 1.05, 3.2))] == [False, False]
    assert [target.met for target in epochs.targets(of_an_epoch("two_d_beale", 2.0, 9.0))] == [False]
    (target,) = epochs.targets(of_an_epoch("cifar10_3c3d", 0.9, 9.0))
    assert not target.met
    text = epochs.report(of_an_epoch("cifar10_3c3d", 0.9, 9.0))
    assert "stand-in data" in text
    assert "50% of an epoch" in text
    assert "MISSED" in text
    assert "stand-in" not in epochs.report(of_an_epoch("mnist_mlp", 1.2, 3.4))
    table = epochs.summary([of_an_epoch("mnist_mlp", 1.2, 3.4), of_an_epoch("cifar10_3c3d", 0.9, 9.0)])
    assert "| mnist_mlp | 1 | 2 s (compiled) | 1.20 | 3.4 | 1.00 (compiled) | met |" in table
    assert "| cifar10_3c3d (stand-in data) | 1 | 2 s (compiled) | 0.90 | 9.0 | 1.00 (compiled) | missed |" in table


def test_the_summary_of_an_epoch_is_of_what_auto_gives() -> None:
    run = of_an_epoch("quadratic_deep", 1.8, 99.0)
    run["rows"].append(row("ours, eager", 2.0, seconds=2.0))
    run["auto"] = "ours, eager"
    assert "| 1 | 4 s (eager) | 0.90 | 49.5 | 0.50 (compiled) | missed |" in epochs.summary([run])


def test_the_verdict_on_a_step() -> None:
    def run(time: float, memory: float) -> Run:
        values = {"ours, eager": 2.0, "ours, compiled": time, "module, eager": 1.5, "module, compiled, loop": 1.0}
        rows = [
            row(by, value, milliseconds=value, memory_ratio=memory, peak_mebibytes=1.0, achieved=0.5)
            for by, value in values.items()
        ]
        return {"problem": "mnist_mlp", "threads": 1, "batch_size": 128, "rows": rows}

    assert [target.met for target in steps.targets(run(1.04, 1.0))] == [True, True]
    assert [target.met for target in steps.targets(run(1.06, 1.2))] == [False, False]
    assert "MISSED: times the memory of the compiled module: 1.2" in steps.report(run(1.0, 1.2))
    assert "| 50.0% |" in steps.report(run(1.0, 1.0))
    assert "| 50% |" in steps.summary([run(1.0, 1.0)])
    assert str(Target("it took", 2.0, 1.0, least=False)) == "MISSED: it took 2, should be at most 1"


def test_operations_are_those_of_the_products_forward_and_backward() -> None:
    """Of logistic regression two products, the logits and the gradient of the weights."""
    cpu = torch.device("cpu")
    assert operations(problems.get("mnist_logreg"), 8, cpu) == 2 * 2 * 8 * 784 * 10
    side = 32
    most = Peak(cpu, side)
    most()
    assert most.operations == 2 * side**3


@pytest.fixture
def short() -> Problem:
    """Sixteen batches of logistic regression."""
    return shortened(problems.get("mnist_logreg"), 0.035)


def test_a_share_keeps_the_proportions(short: Problem) -> None:
    spec = short.dataset
    assert (spec.train_size, spec.test_size) == (2100, 350)
    assert shortened(problems.get("tolstoi_char_rnn"), 1e-6).dataset.train_size == 50 * 50 + 1
    assert data_for(short, "/nowhere") == "synthetic"


@pytest.mark.parametrize("make", [InMemory, lambda *given: WithLoader(*given, workers=0)])
def test_a_plain_epoch_has_all_whole_batches(short: Problem, make: Callable[..., InMemory | WithLoader]) -> None:
    loop = make(short, load(short.dataset, "synthetic"))
    assert [len(x) for x, _ in loop.training()] == [128] * 16
    assert [sum(len(x) for x, _ in part) for part in loop.evaluation()] == [256, 256]
    found = loop.epoch()
    assert len(found) == 2 + 2 * 2  # two losses of sixteen, and a loss and an accuracy of each split


def test_ours_goes_on_when_it_is_told_to(short: Problem) -> None:
    run = Paused(short, "synthetic", "off", share=25)  # 2 epochs of 50
    assert run.execution["compile"] is False
    assert all(run.epoch() > 0 for _ in range(5))
    run.stop()


def test_fits() -> None:
    assert scaling.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
