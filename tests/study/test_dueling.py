"""Duels on made-up runs, through a pool that trains nothing; two of them real, on a small problem."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from deepobs_func.cli import cli
from deepobs_func.cli.duel import contestant, delta_of, settings_of
from deepobs_func.errors import ConfigError, UserError
from deepobs_func.runner import RunConfig
from deepobs_func.runner.plan import make_plan
from deepobs_func.study import dueling as duels
from deepobs_func.study.dueling import Delta, Dueling, Standings, duel
from tests.study.in_process import InProcess, Outcome, Pools
from tests.study.made_up import record_of

COMMON = {"epochs": 1, "output_dir": None, "compile": "off"}
A = RunConfig("quadratic_deep", "adam", 0.01, **COMMON)
B = RunConfig("quadratic_deep", "sgd", 0.01, **COMMON)
Loss = Callable[[RunConfig], float]


class Made:
    """Answers with the loss that a function of the configuration says, in another order if `shuffled`."""

    def __init__(self, loss: Loss, shuffled: bool = False, status: str = "finished") -> None:
        self.loss, self.shuffled, self.status = loss, shuffled, status
        self.waiting: list[RunConfig] = []
        self.seeds: list[int] = []
        self.closed = False

    def submit(self, config: RunConfig) -> Any:
        self.waiting.append(config)
        self.seeds.append(config.seed)
        return make_plan(config)

    def next(self) -> Outcome:
        config = self.waiting.pop(-1 if self.shuffled else 0)
        loss = self.loss(config)
        status = "diverged" if math.isnan(loss) else self.status
        return Outcome(config, make_plan(config).run_id, status, record_of(config, [9.0, loss - 1]), "it went wrong")


def loss_of(difference: float, sd: float = 0.1) -> Loss:
    """A is better by so much on average."""

    def loss(config: RunConfig) -> float:
        which = config.optimizer == "adam"
        return float(10 + np.random.default_rng([config.seed, which]).normal(-difference * which, sd))

    return loss


def fought(loss: Loss, pool: Made | None = None, jobs: int = 1, **options: Any) -> Standings:
    made = pool or Made(loss)
    return duel(Dueling(A, B, names=("adam", "sgd"), **options), lambda: nullcontext(made), jobs=jobs)


def test_a_planted_winner_is_found_early() -> None:
    found = fought(loss_of(1.0))
    assert (found.answer, found.winner, len(found.seeds)) == ("A", "adam", 4)
    assert str(found).startswith(
        "adam is better than sgd after 4 seeds: mean difference of test loss in favour of adam in ["
    )
    assert fought(loss_of(-1.0)).winner == "sgd"


def test_a_planted_tie_is_found_within_a_delta() -> None:
    found = fought(loss_of(0.0), delta=Delta(0.3))
    assert (found.answer, found.winner) == ("tie", None)
    assert "adam and sgd tie within 0.3" in str(found)
    relative = fought(loss_of(0.0), delta=Delta(0.03, relative=True))
    assert relative.answer == "tie"
    assert "tie within 3%" in str(relative)


def test_a_relative_delta_is_a_share_of_b() -> None:
    """B's mean is 10, so 1 % is about 0.1; the answers agree where the interval is not at its edge."""
    for difference in (0.0, 0.02):
        for share in (0.01, 0.02, 0.05):
            options = {"sd": 0.05}
            relative = fought(loss_of(difference, **options), delta=Delta(share, relative=True))
            absolute = fought(loss_of(difference, **options), delta=Delta(10 * share))
            assert relative.answer == absolute.answer
            assert abs(len(relative.seeds) - len(absolute.seeds)) <= 2


def test_the_budget_ends_it_undecided() -> None:
    found = fought(loss_of(0.0), delta=Delta(1e-6), seeds=range(42, 50))
    assert (found.answer, len(found.seeds)) == ("undecided", 8)
    assert found.reason == "the budget of 8 seeds is spent"
    assert found.plain()["answer"] == "undecided"


@pytest.mark.parametrize("jobs", [1, 2, 4, 7])
def test_the_answer_depends_on_neither_jobs_nor_order(jobs: int) -> None:
    alone = fought(loss_of(0.15), delta=Delta(0.05))
    many = fought(loss_of(0.15), Made(loss_of(0.15), shuffled=True), jobs=jobs, delta=Delta(0.05))
    assert (many.answer, many.seeds, many.bounds) == (alone.answer, alone.seeds, alone.bounds)


def test_no_seed_is_lost_or_run_twice() -> None:
    made = Made(loss_of(0.0))
    fought(loss_of(0.0), made, jobs=4, delta=Delta(1e-6), seeds=range(42, 50))
    assert sorted(made.seeds) == sorted([*range(42, 50)] * 2)


def test_a_run_that_diverged_has_no_mean_but_a_sign() -> None:
    lost: Loss = lambda config: math.nan if config.optimizer == "sgd" else 10.0 + config.seed / 100
    found = fought(lost)
    assert found.answer == "undecided"
    assert found.reason == "seed 42 of sgd diverged, so that there is no mean; --test sign counts it"
    signed = fought(lost, test="sign")
    assert (signed.answer, len(signed.seeds)) == ("A", 7)
    assert signed.plain()["values"][1] == [None] * 7
    assert fought(lambda config: math.nan, test="sign").answer == "tie"


def test_a_run_that_failed_ends_it() -> None:
    with pytest.raises(UserError, match="failed, seed 42: it went wrong"):
        fought(loss_of(0.0), Made(loss_of(0.0), status="failed"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"b": RunConfig("quadratic_deep", "sgd", 0.01, **COMMON | {"epochs": 2})}, "A has epochs 1 and B 2"),
        ({"b": A}, "the same"),
        ({"b": RunConfig("quadratic_deep", "adam", 0.01, {"beta1": 0.9}, **COMMON)}, "the same"),
        ({"level": 1.0}, "level"),
        ({"test": "z"}, "test"),
        ({"seeds": (42, 43)}, "nothing is certain before 4 seeds"),
        ({"metric": "accuracy"}, "quadratic_deep has none"),
        ({"metric": "speed"}, "accuracy or loss"),
    ],
)
def test_what_cannot_be_compared_is_told(changes: dict[str, Any], said: str) -> None:
    given = {"a": A, "b": B} | changes
    with pytest.raises(ConfigError, match=said):
        duel(Dueling(**given), lambda: nullcontext(Made(loss_of(0.0))))
    with pytest.raises(ConfigError, match="delta"):
        Delta(0.0)


def command(*args: str) -> Result:
    return CliRunner().invoke(cli, ["duel", *args], catch_exceptions=False)


def test_the_command_runs_a_real_duel_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice: the second time, all of it is found in the results tree."""
    pools = Pools()
    monkeypatch.setattr(duels, "_default_pool", lambda *_: lambda: pools(lambda *_: None))
    monkeypatch.setattr(InProcess, "submit", _submit)
    args = ("adam", "sgd,lr=1e-6", "-p", "quadratic_deep", "--epochs", "2", "--compile", "off")
    first = command(*args, "--output-dir", str(tmp_path / "r"))
    assert first.exit_code == 0
    assert "adam is better than sgd,lr=1e-6 after 4 seeds" in first.output.splitlines()[-1]
    assert first.output.startswith("seed 42: ")
    assert len(pools.last.ran) == 8
    second = command(*args, "--output-dir", str(tmp_path / "r"), "--json")
    assert json.loads(second.output)["winner"] == "adam"
    assert pools.last.ran == []


def _submit(pool: Any, config: RunConfig) -> Any:
    pool.waiting.append((config, False, {}))
    return make_plan(config)


def test_how_the_command_line_reads_an_optimizer() -> None:
    published = contestant("adam", "quadratic_deep", {"epochs": 1})
    assert (published.optimizer, published.lr, published.epochs) == ("adam", pytest.approx(0.0398107), 1)
    assert contestant("adam", "two_d_beale", {}).lr == 1e-3
    given = contestant("my.mod:make,lr=0.1,schedule=cosine,betas=(0.9, 0.99),kind=fast", "mnist_mlp", {})
    assert (given.optimizer, given.lr, given.schedule) == ("my.mod:make", 0.1, "cosine")
    assert given.hyperparams == {"betas": (0.9, 0.99), "kind": "fast"}
    assert settings_of("adam") == ("adam", {})
    assert (delta_of("2%"), delta_of("0.01")) == (Delta(0.02, relative=True), Delta(0.01))
    for wrong in ("adam,lr", "adam,lr=", "adam,lr=1,lr=2"):
        with pytest.raises(ConfigError, match="must be NAME=VALUE"):
            contestant(wrong, "mnist_mlp", {})
    with pytest.raises(ConfigError, match=r"give one, my.mod:make,lr=1e-3"):
        contestant("my.mod:make", "mnist_mlp", {})
    with pytest.raises(ConfigError, match="Did you mean 'adam'"):
        contestant("adamm", "mnist_mlp", {})
    with pytest.raises(ConfigError, match="delta"):
        delta_of("much")
