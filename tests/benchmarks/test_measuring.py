"""Turns, peaks of memory and verdicts."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.memory import peak_bytes
from benchmarks.probes_report import missed, modern, report
from benchmarks.timing import Times, interleaved

Row = dict[str, object]


class Machine:
    """A clock that only its tasks move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.done: list[str] = []

    def task(self, name: str, seconds: float) -> Callable[[], None]:
        def call() -> None:
            self.now += seconds
            self.done.append(name)

        return call


@pytest.fixture(autouse=True)
def nothing_to_collect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Collecting what all tests before left takes seconds a turn."""
    monkeypatch.setattr("benchmarks.timing.gc.collect", lambda: 0)


def test_functions_take_turns() -> None:
    machine = Machine()
    calls = {"plain": machine.task("plain", 1.0), "dear": machine.task("dear", 2.5)}
    times = interleaved(calls, 4, lambda: machine.now)
    assert machine.done == ["plain", "dear"] * 5  # once to see what they take
    assert times["dear"].median == 2.5
    assert times["dear"].ratio(times["plain"]) == 2.5
    assert times["dear"].spread(times["plain"]) == (2.5, 2.5)


def test_short_functions_are_repeated_and_long_ones_sit_out() -> None:
    machine = Machine()
    calls = {"short": machine.task("short", 0.25), "long": machine.task("long", 4.0)}
    times = interleaved(calls, 10, lambda: machine.now, least=1.0, budget=20.0)
    assert machine.done.count("short") == 1 + 4 * 10
    assert machine.done.count("long") == 1 + 5
    assert sorted(times["long"].seconds) == [0, 2, 4, 6, 8]
    assert times["short"].median == 0.25


def test_the_spread_takes_the_turn_before_where_the_other_sat_out() -> None:
    often, seldom = Times({0: 1.0, 1: 2.0, 2: 4.0}), Times({0: 1.0, 2: 2.0})
    assert often.spread(seldom) == (1.5, 2.0)  # of 1, 2, 2
    assert seldom.spread(often) == (0.625, 0.875)  # of 1, 0.5


def test_the_spread_compares_within_a_round() -> None:
    plain, other = Times({0: 1.0, 1: 2.0, 2: 4.0}), Times({0: 2.0, 2: 8.0})
    assert other.spread(plain) == (2.0, 2.0)
    assert other.ratio(plain) == 2.0  # that of the medians is 2.5, outside


def test_peaks_of_memory() -> None:
    held = torch.ones(1000)

    def call() -> torch.Tensor:
        a = held + 1
        b = a + 1
        del a
        return torch.cat([b, b])  # (2000,) beside b

    assert peak_bytes(call) == pytest.approx(4 * 3000, abs=200)  # the allocator rounds up
    assert peak_bytes(lambda: held.add_(0)) == pytest.approx(0, abs=200)


def row(quantity: str, by: str, mode: str, ratio: float, memory: float = 1.0) -> Row:
    key = {"quantity": quantity, "by": by, "mode": mode}
    time = {"ratio": ratio, "quartiles": [ratio, ratio], "milliseconds": 10 * ratio}
    return {**key, **time, "memory_ratio": memory, "peak_mebibytes": memory}


def run(problem: str, *changed: Row) -> dict[str, object]:
    """A run in which everything of ours takes as long as a gradient, but for what is given."""
    quantities = ("grad", "sq_norms", "sum_of_squares", "variance", "gram", "dots", "hvp", "ggnvp")
    rows = [row(quantity, "ours", mode, 1.0) for quantity, mode in itertools.product(quantities, ("eager", "compiled"))]
    replaced = {(each["quantity"], each["by"], each["mode"]) for each in changed}
    kept = [each for each in rows if (each["quantity"], each["by"], each["mode"]) not in replaced]
    return {"problem": problem, "threads": 1, "batch_size": 128, "rows": [*kept, *changed]}


def test_a_bound_holds_in_the_better_mode() -> None:
    eager, compiled = row("sq_norms", "ours", "eager", 1.8), row("sq_norms", "ours", "compiled", 1.7)
    assert missed(run("mnist_mlp", eager)) == []
    assert missed(run("mnist_mlp", eager, compiled)) == ["squared norms: 1.70 gradients, should be 1.5 at most"]
    assert missed(run("mnist_2c2d", eager, compiled)) == []


def test_memory_and_other_libraries_count() -> None:
    rows = [row("gram", "ours", mode, 1.0, memory=2.5) for mode in ("eager", "compiled")]
    assert missed(run("mnist_mlp", *rows)) == ["Gram matrix: 2.50 times the memory, should be 2.0"]
    found = run("mnist_mlp", row("hvp", "curvlinops", "eager", 0.5))
    assert missed(found) == ["Hessian product: curvlinops takes less time, by a factor of 2.00"]
    assert "MISSED Hessian product" in report(found)
    assert missed(run("mnist_mlp", row("hvp", "curvlinops", "eager", 1.5))) == []


def test_nets_of_today_are_judged_in_eager_code() -> None:
    rows = [row("grad", "ours", "eager", 1.0), row("sq_norms", "ours", "eager", 1.9), row("hvp", "ours", "eager", 3.1)]
    rows += [row("sq_norms", "vmap(grad)", "eager", 6.0), row("sq_norms", "Opacus", "eager", 2.5)]
    found = {"problem": "cifar100_vit", "threads": 1, "batch_size": 64, "rows": rows}
    assert missed(found) == ["Hessian product: 3.10 gradients, should be 3.0 at most"]
    assert "| Hessian product | 3.10" in report(found)
    step = {"by": "ours, compiled", "ratio": 0.9, "quartiles": [0.8, 1.0]}
    (line,) = modern([found, run("mnist_mlp")], [{"problem": "cifar100_vit", "threads": 1, "rows": [step]}]).split(
        "\n"
    )[2:]
    assert line.startswith(
        "| cifar100_vit (stand-in batch) | 10 ms | 0.90 (0.80-1.00) | 1.90 | 6.00 | 2.50 | 3.10 | - |"
    )


@pytest.mark.bench
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_the_probes_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import probes

    output = tmp_path / "results" / "probes.json"
    probes.main(["--problems", "mnist_logreg", "--quick", "--output", str(output)])
    (found,) = json.loads(output.read_text())
    assert {each["by"] for each in found["rows"]} == {"ours", *probes.probes_report.OTHERS}
    assert all(each["milliseconds"] > 0 for each in found["rows"])
    assert "**mnist_logreg**, 1 thread(s)" in capsys.readouterr().out
    again, other = {**found, "rows": []}, {**found, "problem": "mnist_mlp"}
    assert probes.merged(probes.merged([found], other), again) == [again, other]
