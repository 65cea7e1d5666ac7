"""What `benchmarks.gpu` does around a GPU, and its parts at tiny sizes on the CPU."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu, gpu_parts, gpu_report
from tests.gpu.conftest import AtOnce

CPU = torch.device("cpu")
OUTPUT = """
tests/gpu/test_runs.py::test_a[one] PASSED                     [ 10%]
[gw3] [ 20%] PASSED tests/gpu/test_runs.py::test_a[two]
[gw1] [ 30%] FAILED tests/gpu/test_runs.py::test_b
[gw1] [ 30%] PASSED tests/gpu/test_runs.py::test_c
tests/gpu/test_runs.py::test_c ERROR                           [ 40%]
[gw2] [ 50%] PASSED tests/gpu/test_runs.py::test_d
FAILED tests/gpu/test_runs.py::test_b - AssertionError
"""


def test_what_the_output_of_the_tests_says_as_far_as_it_goes() -> None:
    b, c = (f"tests/gpu/test_runs.py::test_{letter}" for letter in "bc")
    assert gpu.verdicts(OUTPUT) == {"passed": 3, "failed": [b, c]}
    assert gpu.verdicts("nothing") == {"passed": 0, "failed": []}


@pytest.mark.parametrize(
    "part",
    [pytest.param(part, marks=pytest.mark.large) if index else part for index, part in enumerate(gpu_parts.PARTS)],
)
def test_a_part_waits_for_its_turn_before_it_measures(part: str) -> None:
    measure, names = gpu_parts.PARTS[part]
    turns: list[str] = []
    rows = measure("mnist_logreg", CPU, True, lambda: turns.append("ready"))
    assert turns == ["ready"]
    assert rows
    assert not [row for row in rows if "error" in row]
    assert all(value > 0 for row in rows for name, value in row.items() if name in ("milliseconds", "seconds"))
    assert set(names) <= set(gpu_parts.problems.names())


def test_the_peak() -> None:
    found = gpu_parts.peak(CPU, True)
    assert set(found) == {"gigabytes", "launch_microseconds", "float32", "bf16"}
    assert all(value > 0 for value in found.values())


def row(by: str, milliseconds: float) -> dict[str, Any]:
    return {"by": by, "precision": "float32", "milliseconds": milliseconds, "flops": 10**9, "bytes": 10**6}


RESULTS: dict[str, Any] = {
    "name": "a GPU",
    "tiny": False,
    "environment": {"torch": "2.11.0"},
    "tests": {"passed": 7, "failed": ["tests/gpu/test_runs.py::test_b"]},
    "peak": {"gigabytes": 1000.0, "launch_microseconds": 4.0, "float32": 10.0, "tf32": 100.0},
    "steps": {
        "mnist_mlp": {"rows": [row("ours, compiled", 0.2), row("module, compiled", 0.4), {"by": "x", "error": "E: e"}]},
        "mnist_vae": {"error": "time was up"},
    },
    "epochs": {
        "mnist_mlp": {
            "rows": [
                {"by": "ours", "seconds": 0.5, "execution": {"compile": True, "cuda_graphs": True}},
                {"by": "plain loop", "seconds": 1.0},
            ]
        }
    },
    "populations": {"mnist_mlp": {"rows": [{"members": 4, "compile": True, "milliseconds": 1.0, "of_a_member": 0.25}]}},
}


def test_the_report_says_shares_of_the_peak_and_what_failed(tmp_path: Path) -> None:
    assert gpu_report.share(row("", 0.2), RESULTS["peak"]) == pytest.approx(0.5)  # 1e9 operations at 10 TFLOP/s: 0.1 ms
    assert gpu_report.share({**row("", 0.2), "bytes": 10**8}, RESULTS["peak"]) == pytest.approx(0.5)
    report = gpu_report.report(RESULTS)
    assert "7 tests passed, 1 failed." in report
    assert "| mnist_mlp | ours, compiled | float32 | 0.2 | 0.50 | 50.0% |" in report
    assert "| mnist_mlp | 0.5 s (compiled, graph) | 1 s | 2.00 |" in report
    assert "| mnist_mlp | 4 | compiled | 1 | 250 |" in report
    for line in ("FAILED tests/gpu/test_runs.py::test_b", "steps mnist_mlp x: E: e", "steps mnist_vae : time was up"):
        assert line in report
    assert "Not run: probes." in report
    assert "Not measured yet" in gpu_report.summary(tmp_path)
    (tmp_path / "gpu-a.json").write_text(json.dumps(RESULTS))
    assert gpu_report.summary(tmp_path) == report


def test_a_peak_that_was_measured_beside_other_programs_is_left_out() -> None:
    report = gpu_report.report({**RESULTS, "peak_is_shared": True, "notes": ["Said of it."]})
    assert "**a GPU**, torch 2.11.0." in report
    assert "peak" not in report
    assert "Said of it." in report
    assert "| mnist_mlp | ours, compiled | float32 | 0.2 | 0.50 |\n" in report


class Terminal:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write_line(self, line: str) -> None:
        self.lines.append(line)

    def flush(self) -> None:
        self.lines.append("flushed")


def test_a_failure_of_a_gpu_test_is_printed_at_once(pytestconfig: pytest.Config) -> None:
    """And says nothing that would be taken for a verdict."""

    class Plugins:
        terminal = Terminal()

        def get_plugin(self, name: str) -> Terminal:
            assert name == "terminalreporter"
            return self.terminal

    class Config:
        pluginmanager = Plugins()

    shown = AtOnce(Config())  # type: ignore[arg-type]  # what it asks of one
    how: dict[str, Any] = {"location": ("a.py", 1, "test"), "keywords": {}, "when": "call"}
    name = "tests/gpu/test_runs.py::test_a"
    shown.pytest_runtest_logreport(pytest.TestReport(nodeid=name, outcome="passed", longrepr=None, **how))
    assert Plugins.terminal.lines == []
    shown.pytest_runtest_logreport(pytest.TestReport(nodeid=name, outcome="failed", longrepr="E   1 == 2", **how))
    text, last = Plugins.terminal.lines
    assert last == "flushed"
    assert name in text
    assert "E   1 == 2" in text
    assert gpu.verdicts(text) == {"passed": 0, "failed": []}
    assert pytestconfig.pluginmanager.get_plugin("terminalreporter") is not None  # the name by which pytest has it


def test_a_deterministic_execution_is_of_a_deterministic_run() -> None:
    """The two must say the same."""
    problem = gpu_parts.problems.get("quadratic_deep")
    step = gpu_parts.Stepping(problem, CPU, gpu_parts.Execution(deterministic=True))
    step()
    assert step._training.execution.deterministic


def test_the_parts_are_measured_one_by_one_and_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "_begun", in_this_process)
    gpu.main(
        [
            *("--device", "cpu", "--tiny", "--only", "peak", "steps", "--problems", "quadratic_deep", "nowhere"),
            *("--results", str(tmp_path), "--seconds", "100"),
        ]
    )
    (path,) = tmp_path.iterdir()
    found = json.loads(path.read_text())
    assert [row["by"] for row in found["steps"]["quadratic_deep"]["rows"]] == ["module, eager", "ours, eager"]
    assert "nowhere" in found["steps"]["nowhere"]["error"]
    assert "of the peak" in capsys.readouterr().out


class Thread(threading.Thread):
    """In the place of a process."""

    def kill(self) -> None:
        self.join()


def in_this_process(part: str, problem: str, device: str, tiny: bool) -> gpu.Job:
    ours, theirs = multiprocessing.Pipe()
    thread = Thread(target=gpu._worker, args=(part, problem, device, tiny, theirs), daemon=True)
    thread.start()
    return gpu.Job(part, problem, thread, ours)
