"""What a step costs: by class, factory, value and name, and a planted slow one."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from deepobs_func import tree
from deepobs_func.backend.allocations import allocations
from deepobs_func.cli import cli
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers import Optimizer
from deepobs_func.runner import runtime
from deepobs_func.runner.runtime import Entrant, estimate_runtime

SLEEP = 0.01
SGD = Entrant("sgd", {}, "sgd")


def slow(lr: float) -> Optimizer:
    """Plain SGD, with a pause in each step."""

    def update(oracle: Any, opt_state: Any, params: Any) -> tuple[Any, Any]:
        time.sleep(SLEEP)
        return tree.sub(params, tree.scale(lr, oracle.grad())), opt_state

    return Optimizer(lambda params, key: {"all": torch.zeros(1000)}, update, compiles=False)


@pytest.mark.large
def test_a_planted_pause_is_found() -> None:
    found = estimate_runtime([slow, torch.optim.Adam], "quadratic_deep", rounds=3, threads=1)
    baseline, mine, adam = found.costs
    assert (baseline.name, mine.name, adam.name) == ("sgd", "slow", "Adam")
    assert (baseline.ratio, baseline.low, baseline.high) == (1.0, 1.0, 1.0)
    assert mine.seconds >= SLEEP
    assert mine.ratio > 3
    assert mine.low <= mine.ratio <= mine.high
    assert mine.state_bytes == 4000
    assert adam.state_bytes >= 800  # two moments of 100 parameters
    assert mine.run_seconds == pytest.approx(mine.seconds * 7 * 100)
    assert all(cost.peak_bytes > 0 < cost.allocated for cost in found.costs)
    assert (found.problem, found.threads, found.batch_size) == ("quadratic_deep", 1, 128)


@pytest.mark.large
def test_settings_and_labels_tell_two_of_one_name_apart() -> None:
    entrants = [Entrant("adam", {"lr": 1e-3}, "fast"), Entrant("adam", label="slow"), "sgd"]
    found = estimate_runtime(entrants, "quadratic_deep", rounds=3, threads=1, epochs=2)
    assert [cost.name for cost in found.costs] == ["sgd", "fast", "slow"]
    for wrong, said in ((["adam", "adam"], "there twice"), (["adamm"], "adam"), ([Entrant("adam", {"x": 1})], "x")):
        with pytest.raises(ConfigError, match=said):
            estimate_runtime(wrong, "quadratic_deep", rounds=3)
    for options in ({"rounds": 2}, {"threads": 0}):
        with pytest.raises(ConfigError, match="whole number from"):
            estimate_runtime(["adam"], "quadratic_deep", **options)


CALLS = {"gradients": 1.0, "products": 0.5, "evaluations": 1.0}
COST = runtime.Cost("sgd", 2e-3, 1.0, 1.0, 1.0, 120.0, 2_000_000, 12, 0, False, {"gradients": 1.0}, 1.0, 1.0)
MINE = runtime.Cost("mine,x=1", 8e-3, 4.0, 3.5, 4.25, 36_000.0, 3_500_000, 40, 800, True, CALLS, 7 / 3, 1.75)


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measured(*args: Any, **options: Any) -> runtime.Runtimes:
        asked.append((args, options))
        return runtime.Runtimes("mnist_mlp", 128, 100, "cpu", 1, 15, (COST, MINE))

    monkeypatch.setattr(runtime, "estimate_runtime", measured)
    args = ["estimate-runtime", "mine,x=1", "--threads", "1"]
    shown = CliRunner().invoke(cli, args, catch_exceptions=False).output.splitlines()
    assert shown[0] == "mnist_mlp, batch size 128, cpu, 1 thread(s), 15 rounds"
    assert " ".join(shown[1].split()).endswith(
        "times sgd quartiles ms a step whole run calls a step gradients peak MB times allocations state MB"
    )
    assert " ".join(shown[2].split()) == "sgd 1.00 1.00-1.00 2 2.0 min 1g 1 2 1.00 12 0"
    assert (
        " ".join(shown[3].split()) == "mine,x=1 (compiled) 4.00 3.50-4.25 8 10.0 h 1g 0.5p 1e 2.33 3.5 1.75 40 0.0008"
    )
    (others, problem), options = asked[0]
    assert (others, problem, options["baseline"]) == ([Entrant("mine", {"x": 1}, "mine,x=1")], "mnist_mlp", SGD)
    assert (options["threads"], options["data"], options["compile"]) == (1, "synthetic", "off")
    plain = json.loads(CliRunner().invoke(cli, [*args, "--json"], catch_exceptions=False).output)
    assert plain["costs"][1]["ratio"] == 4.0


@pytest.mark.large
def test_calls_a_step_in_gradient_equivalents() -> None:
    """Newton-CG with three products of conjugate gradients; the update of Sophia is every second step."""
    given = ["torch.optim.SGD", Entrant("sophia_h", {"update_every": 2}), Entrant("newton_cg", {"cg_steps": 3})]
    sgd, torch_sgd, sophia, newton = estimate_runtime(given, "quadratic_deep", rounds=3, threads=1).costs
    assert sgd.calls["gradients"] == torch_sgd.calls["gradients"] == 1.0
    assert sgd.equivalents == torch_sgd.equivalents == sgd.peak_ratio == 1.0
    assert sophia.calls["products"] == pytest.approx(0.5, abs=0.3)  # of at least six steps
    assert sophia.equivalents == pytest.approx(1 + 2 * sophia.calls["products"])
    assert newton.calls["gradients"] == newton.calls["evaluations"] == 1.0
    assert newton.equivalents == pytest.approx(1 + 2 * newton.calls["products"] + 1 / 3)
    assert newton.peak_ratio == newton.peak_bytes / sgd.peak_bytes


def test_allocations_are_counted() -> None:
    def call() -> torch.Tensor:
        first = torch.zeros(1000)
        second = torch.zeros(2000)
        return torch.cat([first, second])

    found = allocations(call, torch.device("cpu"))
    assert found.count == 3
    assert found.peak == 4 * 6000
    assert allocations(lambda: None, torch.device("cpu")).count == 0
