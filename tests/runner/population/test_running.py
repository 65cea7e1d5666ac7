"""A population: each member is the run that it would be alone, however they train, whatever ends them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from deepobs_func import RunConfig, problems, run, run_population
from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures
from deepobs_func.problems.problem import Problem
from deepobs_func.records import RunRecord
from deepobs_func.runner import Execution, PopulationInterrupted, run_members, structure
from tests.runner.small import config, small_problem
from tests.runner.small_nets import PROBLEMS, augmented
from tests.runner.streamed import as_stream

VMAP, LOOP, PAIRS = (Execution(way=way, members=members) for way, members in (("vmap", 99), ("loop", 1), ("loop", 2)))
ALONE = Execution()
WAYS = {"vmap": VMAP, "loop": LOOP, "pairs": PAIRS, "alone": ALONE}
OPTIMIZERS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "sgd": ("sgd", [{}]),
    "momentum": ("momentum", [{"momentum": 0.5}, {"momentum": 0.9}]),
    "nesterov": ("nesterov", [{}]),
    "adam": ("adam", [{"beta1": 0.5}, {"epsilon": 1e-4}]),
    "rmsprop": ("rmsprop", [{}]),
    "adahessian": ("adahessian", [{}]),
    "torch": ("torch.optim.Adamax", [{}]),
}


def apart(one: RunRecord, other: RunRecord) -> float:
    """The largest relative difference of what two records hold; they hold the same otherwise."""
    assert (one.status, one.extra.get("divergence")) == (other.status, other.extra.get("divergence"))
    assert one.extra["run_id"] == other.extra["run_id"]
    assert one.extra.get("calls", {}).get("gradients") == other.extra.get("calls", {}).get("gradients")
    far = 0.0
    for name in ("train_losses", "test_losses", "valid_losses", "minibatch_train_losses", "test_accuracies"):
        mine, theirs = getattr(one, name) or [], getattr(other, name) or []
        assert len(mine) == len(theirs)
        for a, b in zip(mine, theirs, strict=True):
            assert math.isfinite(a) == math.isfinite(b)
            far = max([far, *([abs(a - b) / max(abs(b), 1e-30)] if math.isfinite(b) and name[-4:] != "cies" else [])])
            assert name[-4:] != "cies" or abs(a - b) <= 0.02
    return far


_OWN: dict[tuple[str, int], tuple[Problem | None, RunRecord]] = {}
"""By configuration and problem, which is kept so that its id is no other's."""


def own(config: RunConfig, problem: Problem | None = None) -> RunRecord:
    """The record of a run by itself, made once for all ways of a population."""
    key = (repr(config), id(problem))
    if key not in _OWN:
        _OWN[key] = problem, run(config, problem, execution=ALONE).record
    return _OWN[key][1]


def compared(made: RunConfig, problem: Problem | None, execution: Execution, **axes: Any) -> float:
    """How far members are from their own runs."""
    population = run_population(made, problem=problem, execution=execution, **axes)
    return max(apart(member.record, own(member.config, problem)) for member in population.members)


@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_the_seconds_of_members_are_shares_of_the_whole(way: str) -> None:
    start = time.perf_counter()
    given = {"seeds": [1, 2], "lrs": [0.1, 0.2, 0.3], "execution": replace(WAYS[way], members=99)}
    members = run_population(config(epochs=2), problem=small_problem(), **given).members
    whole = time.perf_counter() - start
    timings = [member.record.extra["timings"] for member in members if member.record]
    assert len(timings) == 6
    assert all(len(each["train"]) == 2 and min(each["train"]) > 0 for each in timings)
    assert sum(each["warm_up"] + sum(each["train"]) + sum(each["evaluate"]) for each in timings) <= whole


@pytest.mark.large
def test_a_member_is_its_own_run_for_a_net_of_torch_s_layers() -> None:
    """Each seed starts at values of its own; masks, running statistics and their count are the member's."""

    def net() -> nn.Module:
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))

    problem = problems.from_module(net, measures.cross_entropy, small_problem().dataset, name="small", batch_size=32)
    made = config(optimizer="momentum", epochs=3, train_log_interval=1)
    assert compared(made, problem, VMAP, seeds=[1, 2], lrs=[0.01, 0.1]) < 1e-5


@pytest.mark.parametrize("way", ["vmap", *(pytest.param(way, marks=pytest.mark.large) for way in ("loop", "pairs"))])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_member_is_its_own_run_for_every_optimizer(optimizer: str, way: str) -> None:
    name, sets = OPTIMIZERS[optimizer]
    if name.startswith("torch.") and way == "vmap":
        way = "alone"  # an optimizer of torch has no vmapped step
    made = config(optimizer=name, epochs=3, train_log_interval=1)
    assert compared(made, small_problem(), WAYS[way], seeds=[1, 2], lrs=[0.01, 0.1], hyperparameters=sets) < 1e-5


@pytest.mark.parametrize("way", ["vmap", "pairs"])
@pytest.mark.parametrize("kind", [kind for kind in PROBLEMS if kind not in ("linear", "quadratic", "two_d")])
def test_a_member_is_its_own_run_on_every_kind_of_net(kind: str, way: str) -> None:
    problem = PROBLEMS[kind]()
    made = config(problem=problem.name, optimizer="adam", epochs=2, train_log_interval=1)
    assert compared(made, problem, WAYS[way], seeds=[1, 2], lrs=[1e-3, 1e-2]) < 1e-5


CONFIGURED: dict[str, dict[str, Any]] = {
    "schedule": {"schedule": "cosine", "warm_up": 0.5},
    "steps": {"lr_sched_epochs": (1, 2), "lr_sched_factors": (0.5, 0.1)},
    "clipping": {"clip_norm": 0.1},
    "clipping of values": {"clip_value": 0.01},
    "decay": {"weight_decay": 0.1},
    "validation": {"valid": 32},
    "protocol": {"protocol": "deepobs-1.1.2"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
}


@pytest.mark.parametrize("way", ["vmap", "pairs"])
@pytest.mark.parametrize("what", CONFIGURED)
def test_a_member_is_its_own_run_however_it_is_configured(what: str, way: str) -> None:
    made = config(optimizer="momentum", epochs=3, train_log_interval=2, **CONFIGURED[what])
    # sums of products are rounded to 8 bits, or 11, in another order
    tolerance = 1e-2 if what in ("bf16", "fp16") else 1e-5
    assert compared(made, small_problem(), WAYS[way], seeds=[3, 4], lrs=[0.01, 0.1]) < tolerance


@pytest.mark.large
@pytest.mark.parametrize("protocol", ["default", "deepobs-1.1.2"])
def test_each_seed_has_its_augmentation(protocol: str) -> None:
    made = config(problem="augmented", optimizer="momentum", protocol=protocol, data="synthetic", train_log_interval=1)
    for way in ("vmap", "pairs"):
        assert compared(made, augmented(), WAYS[way], seeds=[1, 2], lrs=[1e-2, 1e-3]) < 1e-5


def test_members_share_what_is_read(tmp_path: Path) -> None:
    read = tmp_path / "read"  # a list would be part of the problem's digest

    def seen(batch: Any) -> None:
        with read.open("a") as file:
            file.write("x")

    problem = as_stream(small_problem(), seen=seen)
    made = config(epochs=1, workers=0)
    population = run_population(made, problem=problem, lrs=[0.1, 0.2, 0.3], execution=LOOP)
    shared = read.stat().st_size
    for member in population.members:
        assert apart(member.record, run(member.config, problem, execution=ALONE).record) == 0
    assert shared < read.stat().st_size - shared


@pytest.mark.parametrize("way", ["vmap", pytest.param("loop", marks=pytest.mark.large), "alone"])
def test_problems_without_data(way: str) -> None:
    for name, rate in (("quadratic_deep", 1e-3), ("two_d_branin", 1e-4)):
        made = RunConfig(name, "momentum", rate, epochs=1, output_dir=None)
        assert compared(made, None, WAYS[way], seeds=[1, 2], lrs=[rate, 2 * rate]) < 1e-5


def test_seeds_of_unequal_numbers_of_members() -> None:
    made = [config(seed=1, lr=lr, epochs=1) for lr in (0.1, 0.2, 0.3)] + [
        config(seed=seed, epochs=1) for seed in (5, 6)
    ]
    for member, own in zip(run_members(made, problem=small_problem(), execution=VMAP), made, strict=True):
        assert (member.config.seed, member.config.lr) == (own.seed, own.lr)
        assert apart(member.record, run(own, small_problem(), execution=ALONE).record) < 1e-5


@pytest.mark.parametrize("way", ["vmap", "pairs"])
@pytest.mark.parametrize("on_divergence", ["stop", "continue"])
def test_members_that_diverge_disturb_no_other(way: str, on_divergence: str) -> None:
    made = RunConfig("quadratic_deep", "sgd", 1.0, epochs=6, output_dir=None, on_divergence=on_divergence)
    rates = [1e-3, 1e-2, 0.5, 3.0, 1e10, 1e30]  # of which the last diverge one after the other
    population = run_population(made, seeds=[1, 2], lrs=rates, execution=WAYS[way])
    assert {member.status for member in population.members} == {"finished", "diverged"}
    for member in population.members:
        assert apart(member.record, own(member.config)) < 1e-5
        assert (member.params is None) == (member.status == "diverged" and on_divergence == "stop")


def test_members_that_have_diverged_are_left_out() -> None:
    made = RunConfig("quadratic_deep", "sgd", 1.0, epochs=6, output_dir=None)
    sizes: list[int] = []
    run_population(made, lrs=[1e-3, 1e20, 1e30], execution=VMAP, watch=lambda epoch, alive: sizes.append(alive))
    assert sizes[0] == 3
    assert sizes[-1] == 1


def results(population: Any) -> list[Any]:
    """What must be equal, bit for bit."""
    return [
        (m.record.train_losses, m.record.test_losses, m.record.minibatch_train_losses, m.record.extra.get("divergence"))
        for m in population.members
    ]


@pytest.mark.parametrize(
    ("way", "at"),
    [
        *(("vmap", "step"), ("pairs", "epoch")),
        *(pytest.param(*both, marks=pytest.mark.large) for both in (("vmap", "epoch"), ("pairs", "step"))),
        *(pytest.param("alone", at, marks=pytest.mark.large) for at in ("epoch", "step")),
    ],
)
def test_an_interrupted_population_goes_on_bit_for_bit(
    way: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    axes: dict[str, Any] = {"seeds": [1, 2], "lrs": [0.01, 0.1, 1e30], "execution": WAYS[way]}
    made, problem = config(optimizer="adam", epochs=4, train_log_interval=1), PROBLEMS["dropout and batch norm"]()
    made = replace(made, problem=problem.name, on_divergence="stop")
    whole = run_population(made, problem=problem, **axes)
    kept = replace(made, output_dir=str(tmp_path / "results"))
    _interrupt(monkeypatch, way, at)
    with pytest.raises(PopulationInterrupted) as interrupted:
        run_population(kept, problem=problem, **axes)
    assert interrupted.value.checkpoint is not None
    monkeypatch.undo()
    again = run_population(kept, problem=problem, resume=True, **axes)
    assert repr(results(again)) == repr(results(whole))
    assert not list((tmp_path / "results.state").rglob("*.safetensors"))
    files = sorted((tmp_path / "results").rglob("*.json"))
    assert len(files) == 6
    assert repr(results(run_population(kept, problem=problem, resume=True, **axes))) == repr(results(whole))
    assert sorted((tmp_path / "results").rglob("*.json")) == files  # nothing was written twice


def _interrupt(monkeypatch: pytest.MonkeyPatch, way: str, at: str) -> None:
    """Lets a signal come in the middle of the run, once."""
    if way == "alone":
        _after(monkeypatch, "deepobs_func.runner.training.Iteration", "_evaluate" if at == "epoch" else "_event", 9)
    else:
        name = "deepobs_func.runner.population.ways." + ("Together" if way == "vmap" else "InTurn")
        _after(monkeypatch, name, "evaluate" if at == "epoch" else "reports", 3 if at == "epoch" else 5)


def _after(monkeypatch: pytest.MonkeyPatch, cls: str, method: str, number: int) -> None:
    module, _, name = cls.rpartition(".")
    owner, calls = getattr(sys.modules[module], name), 0
    original: Callable[..., Any] = getattr(owner, method)

    def counted(self: Any, *arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *arguments)

    monkeypatch.setattr(owner, method, counted)


def test_a_crash_while_records_are_written_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepobs_func.runner.population import running

    made = config(epochs=2, output_dir=str(tmp_path / "results"), checkpoint_every=1)
    axes: dict[str, Any] = {"seeds": [1, 2, 3], "problem": small_problem(), "execution": VMAP}
    original, written = running.records.write_anywhere, []

    def dies(record: RunRecord, output_dir: str) -> Any:
        if written:
            raise SystemExit
        written.append(record)
        return original(record, output_dir)

    monkeypatch.setattr(running.records, "write_anywhere", dies)
    with pytest.raises(SystemExit):
        run_population(made, **axes)
    monkeypatch.undo()
    again = run_population(made, resume=True, **axes)
    assert [member.status for member in again.members] == ["finished"] * 3
    assert len(list((tmp_path / "results").rglob("*.json"))) == 3
    fresh = run_population(replace(made, output_dir=None), **axes)
    assert results(again) == results(fresh)


class Fails(torch.optim.SGD):
    """Fails at its third step where its learning rate is 0.5."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        if self.param_groups[0]["lr"] == 0.5 and self.steps == 3:
            raise RuntimeError("the third step")
        return super().step(closure)


@pytest.mark.parametrize("way", ["vmap", "loop", "alone"])
def test_a_member_that_fails_costs_itself_alone(way: str, tmp_path: Path) -> None:
    made = config(optimizer="fails", output_dir=str(tmp_path / "results"), epochs=2)
    population = run_population(
        made, problem=small_problem(), optimizer=Fails, lrs=[0.1, 0.5, 0.2], execution=WAYS[way]
    )
    assert [member.status for member in population.members] == ["finished", "failed", "finished"]
    assert "the third step" in population.members[1].error
    assert len(list((tmp_path / "results").rglob("*.json"))) == 2
    (partial,) = (tmp_path / "results.state").rglob("*.json.partial")
    assert json.loads(partial.read_text())["deepobs_func"]["status"] == "failed"


def test_the_record_says_how_a_member_was_trained(tmp_path: Path) -> None:
    made = config(output_dir=str(tmp_path), epochs=1)
    population = run_population(made, problem=small_problem(), lrs=[0.1, 0.2], execution=VMAP)
    first, second = (json.loads(member.record.path.read_text())["deepobs_func"] for member in population.members)
    assert first["execution"]["way"] == "vmap"
    assert first["population"]["id"] == second["population"]["id"]
    assert (first["population"]["members"], first["population"]["place"], second["population"]["place"]) == (2, 0, 1)
    alone = run(
        replace(made, output_dir=None, lr=0.1),
        small_problem(),
        execution=Execution.read(population.members[0].record.path),
    )
    assert alone.record.extra["execution"]["way"] == "alone"
    assert alone.record.extra["execution_id"] != first["execution_id"]
    assert alone.record.extra["run_id"] == first["run_id"]


def test_callbacks_see_each_run() -> None:
    seen: list[float] = []
    run_population(
        config(epochs=1), problem=small_problem(), lrs=[0.1, 0.2], callbacks=[lambda e: seen.append(e.plan.config.lr)]
    )
    assert set(seen) == {0.1, 0.2}


MISTAKES: list[tuple[Sequence[RunConfig], str]] = [
    ([], "at least one run"),
    ([config(), config()], "Two runs are the same"),
    ([config(), config(epochs=7, seed=1)], "differ in epochs"),
    ([config(), config(optimizer="adam")], "differ in optimizer"),
]


@pytest.mark.parametrize(("configs", "says"), MISTAKES)
def test_mistakes_are_found_before_anything_is_trained(configs: Sequence[RunConfig], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run_members(configs, problem=small_problem())


@pytest.mark.parametrize("more", [{}, {"seeds": [1, 2]}])
def test_rates_whose_folders_have_one_name_are_refused(tmp_path: Path, more: dict[str, Any]) -> None:
    kept = config(output_dir=str(tmp_path))
    with pytest.raises(ConfigError, match=r"same folder .* lr 0\.1, .* lr 0\.100000000001, "):
        run_population(kept, problem=small_problem(), lrs=[0.1, 0.2, 0.100000000001], **more)
    assert not list(tmp_path.rglob("*.json"))


def test_an_empty_axis_is_a_mistake() -> None:
    with pytest.raises(ConfigError, match="lrs"):
        run_population(config(), problem=small_problem(), lrs=[])


def test_the_structure_is_all_but_seed_rate_and_numbers() -> None:
    made = RunConfig("mnist_mlp", "newton_cg", 0.1, output_dir=None)
    assert structure(made) == structure(replace(made, lr=0.2, seed=3, hyperparams={"damping": 3.0}))
    assert structure(made) != structure(replace(made, hyperparams={"cg_steps": 3}))
    assert structure(made) != structure(replace(made, batch_size=3))
    torchs = RunConfig("mnist_mlp", "torch.optim.SGD", 0.1, hyperparams={"momentum": 0.1, "nesterov": True})
    assert structure(torchs) == structure(replace(torchs, hyperparams={"momentum": 0.2, "nesterov": True}))
    assert structure(torchs) != structure(replace(torchs, hyperparams={"momentum": 0.1, "nesterov": False}))


@pytest.mark.large  # that its id is the same there is in `runner/test_digest.py`; numbers and folders are above
def test_a_member_is_its_run_in_another_process(tmp_path: Path) -> None:
    made = RunConfig("quadratic_deep", "momentum", 1e-3, epochs=2, output_dir=str(tmp_path / "here"), compile="off")
    population = run_population(made, seeds=[5, 6], lrs=[1e-3, 2e-3], execution=VMAP)
    arguments = ["run", "quadratic_deep", "--optimizer", "momentum", "--lr", "2e-3", "--seed", "6", "--epochs", "2"]
    there = ["--compile", "off", "--output-dir", str(tmp_path / "there")]
    command = [sys.executable, "-m", "deepobs_func", *arguments, *there]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (path,) = (tmp_path / "there").rglob("*.json")
    (member,) = (m for m in population.members if (m.config.seed, m.config.lr) == (6, 2e-3))
    assert member.record.path is not None
    assert member.record.path.relative_to(tmp_path / "here").parent == path.relative_to(tmp_path / "there").parent
    alone = json.loads(path.read_text())
    assert alone["deepobs_func"]["run_id"] == member.record.extra["run_id"]
    mine = torch.tensor(member.record.train_losses + member.record.test_losses + member.record.minibatch_train_losses)
    theirs = torch.tensor(alone["train_losses"] + alone["test_losses"] + alone["minibatch_train_losses"])
    assert torch.allclose(mine, theirs, rtol=1e-5, atol=0)


def test_a_block_ends_when_all_have_diverged() -> None:
    made = RunConfig("quadratic_deep", "sgd", 1.0, epochs=50, output_dir=None)
    epochs: list[int] = []
    population = run_population(made, lrs=[1e30, 1e31], execution=VMAP, watch=lambda epoch, alive: epochs.append(epoch))
    assert [member.status for member in population.members] == ["diverged"] * 2
    assert max(epochs) < 5
