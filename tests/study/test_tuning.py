"""Tuning: equal budgets, a winner that a kill does not change, and what is reported and stated."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepobs_func.errors import ConfigError, UserError, as_flag
from deepobs_func.records import read, state_dir
from deepobs_func.runner import RunConfig
from deepobs_func.study.budgets import find_budget
from deepobs_func.study.tuned import Tuned
from deepobs_func.study.tuning import Tuning, tune
from tests.study.in_process import Pools
from tests.study.made_up import MadeUpPools

EPOCHS = 4
BUDGETS = ["one-shot", "published", "random-5", "halton", "optuna-6"]


def curve(config: RunConfig) -> list[float]:
    """Falls to the squared distance from the best rate, 0.01, in decades; larger seeds are a little worse."""
    distance = (math.log10(config.lr) + 2) ** 2 + 0.001 * config.seed + config.hyperparams.get("beta1", 0.0)
    return [100.0] + [distance * (1 + 0.5**epoch) for epoch in range(1, EPOCHS + 1)]


def tuning(budget: Any, tmp_path: Path, **changes: Any) -> Tuning:
    settings = {"epochs": EPOCHS, "output_dir": str(tmp_path / "results"), "compile": "off"}
    given = {"valid": 256, "settings": settings} | changes
    return Tuning(["quadratic_deep"], given.pop("optimizers", ["adam", "momentum"]), budget, **given)


def chosen(results: tuple[Tuned, ...]) -> list[dict[str, Any]]:
    return [each.as_plain_data() for each in results]


@pytest.mark.parametrize("budget", BUDGETS)
def test_budgets_are_equal_and_the_least_loss_wins(budget: str, tmp_path: Path) -> None:
    pools, expected = MadeUpPools(curve), find_budget(budget)
    results = tune(tuning(budget, tmp_path), pools)
    assert [(each.optimizer, each.study) for each in results] == [
        (optimizer, study) for optimizer in ("adam", "momentum") for study in range(expected.studies)
    ]
    for each in results:
        assert len(each.trials) == each.spent[-1] == each.amount == expected.trials
        assert {trial.seed for trial in each.trials} == {42 + each.study}
        assert each.winner is not None
        assert each.winner.loss == min(trial.loss for trial in each.trials)
        assert each.best[-1] == each.winner.value
        assert list(each.best) == sorted((value for value in each.best if value is not None), reverse=True)
        assert each.is_complete
    assert len(pools.last.asked) == 2 * (expected.trials or 0) * expected.studies + 2 * len(expected.seeds)


@pytest.mark.parametrize("budget", BUDGETS)
def test_what_is_reported(budget: str, tmp_path: Path) -> None:
    pools, expected = MadeUpPools(curve), find_budget(budget)
    for each in tune(tuning(budget, tmp_path), pools):
        own = [each.trials[0].seed] if expected.report_tuning_seed else []
        assert [run.seed for run in each.reported] == [*own, *expected.seeds[each.study :: expected.studies]]
        assert each.winner is not None
        assert all(run.value is not None and run.value > 1 for run in each.reported)  # on the test set
    reports = [about for about in pools.last.about if about["role"] == "report"]
    assert all(config.seed != 42 for config in pools.last.asked[-len(reports) :])


def test_the_published_protocol_is_36_rates_and_45_runs(tmp_path: Path) -> None:
    pools = MadeUpPools(curve)
    (result,) = tune(tuning("published", tmp_path, optimizers=["sgd"]), pools)
    assert [config.lr for config in pools.last.asked[:36]] == [10 ** (-5 + 0.2 * k) for k in range(36)]
    assert [config.seed for config in pools.last.asked] == [42] * 36 + [*range(43, 52)]
    assert {config.valid for config in pools.last.asked} == {0}
    assert [run.seed for run in result.reported] == [*range(42, 52)]
    assert result.metric.name == "final test loss"


@pytest.mark.parametrize("budget", [*BUDGETS, "optuna-9"])
@pytest.mark.parametrize("backwards", [False, True])
def test_the_order_in_which_trials_end_changes_nothing(budget: str, backwards: bool, tmp_path: Path) -> None:
    given = {"at_once": 3, "pruner": "median" if budget == "optuna-9" else None}
    expected = tune(tuning(budget, tmp_path / "a", **given), MadeUpPools(curve))
    found = tune(tuning(budget, tmp_path / "b", **given), MadeUpPools(curve, backwards=backwards))
    assert chosen(found) == chosen(expected)


@pytest.mark.parametrize("pruner", ["median", "percentile", "successive-halving", "hyperband"])
def test_pruned_trials_count_and_do_not_win(pruner: str, tmp_path: Path) -> None:
    pools = MadeUpPools(curve)
    for each in tune(tuning("optuna-12", tmp_path, pruner=pruner), pools):
        assert len(each.trials) == 12
        stopped = [trial for trial in each.trials if trial.status == "stopped"]
        assert stopped
        assert each.winner is not None
        assert each.winner not in stopped


@pytest.mark.parametrize(("products", "trials"), [(0, 6), (20, 2), (500, 1)])
def test_a_budget_in_gradients_is_enforced_and_equal(products: int, trials: int, tmp_path: Path) -> None:
    steps = EPOCHS * 5  # of 744 examples, in batches of 128
    calls = {"gradients": steps, "products": products * 2, "evaluations": 0}
    pools = MadeUpPools(curve, calls)
    for each in tune(tuning("random-6", tmp_path, unit="gradients"), pools):
        assert each.amount == 6 * steps
        assert len(each.trials) == trials
        assert each.spent[-1] == trials * (steps + 4 * products)
        assert all(spent < each.amount for spent in each.spent[:-1])  # none was started once it was spent
    assert pools.last.about[0]["counted"] == {"gradients": 1.0, "products": 2.0, "evaluations": pytest.approx(1 / 3)}
    assert (pools.last.about[0]["unit"], pools.last.about[0]["amount"]) == ("gradients", 6 * steps)


def test_a_budget_in_seconds(tmp_path: Path) -> None:
    for each in tune(tuning("random-6", tmp_path, unit="seconds", amount=4.5), MadeUpPools(curve)):
        assert each.spent == (2.0, 4.0, 6.0)  # half a second an epoch; the last one overruns


def test_trials_that_cost_nothing_come_to_an_end(tmp_path: Path) -> None:
    pools = MadeUpPools(lambda config: [1.0])  # ended before its first epoch
    results = tune(tuning("random-2", tmp_path, unit="seconds", amount=1.0), pools)
    assert [len(each.trials) for each in results] == [20, 20]


def test_an_optimizer_whose_gradients_nobody_counts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adam does not say how many gradients it asks for"):
        tune(tuning("random-2", tmp_path, unit="gradients"), MadeUpPools(curve))


def test_where_all_diverge_there_is_no_winner(tmp_path: Path) -> None:
    results = tune(tuning("random-3", tmp_path), MadeUpPools(lambda config: [1.0, math.nan]))
    for each in results:
        assert (each.winner, each.best, each.reported, each.is_complete) == (None, (None,) * 3, (), True)


def test_every_record_states_the_budget(tmp_path: Path) -> None:
    pools = MadeUpPools(curve)
    tune(tuning("optuna-3", tmp_path, pruner="median", seeds=[50, 51]), pools)
    for about in pools.last.about:
        assert {name: about[name] for name in ("budget", "unit", "amount", "sampler", "pruner", "metric")} == {
            "budget": "optuna-3",
            "unit": "trials",
            "amount": 3.0,
            "sampler": "tpe",
            "pruner": "median",
            "metric": "final valid loss",
        }
        assert (about["tuning_seed"], about["reported_seeds"]) == (42, [50, 51])
        assert about["role"] in ("tuning", "report")
        json.dumps(about)


def test_schedules_and_warm_up_are_searched(tmp_path: Path) -> None:
    pools = MadeUpPools(curve)
    tune(tuning("random-12", tmp_path, schedules=["constant", "cosine"], warm_ups=[0.0, 1.0]), pools)
    assert {(config.schedule, config.warm_up) for config in pools.last.asked} >= {
        *((None, 0.0), (None, 1.0), ("cosine", 0.0), ("cosine", 1.0))
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": "randm-3"}, "--budget randm-3: Unknown budget 'randm-3'. Did you mean 'random-k'?"),
        ({"unit": "gradient"}, "--budget-unit gradient: Unknown unit 'gradient'. Did you mean 'gradients'?"),
        ({"unit": "seconds"}, "--budget-unit seconds needs --amount"),
        ({"unit": "seconds", "amount": 0.0}, "--amount 0.0: it must be positive."),
        ({"amount": 3.0}, "--amount 3.0: trials are counted by the budget"),
        ({"budget": "published", "sampler": "tpe"}, "--sampler tpe: the budget published has its own, grid."),
        ({"pruner": "mean"}, "--pruner mean: Unknown pruner 'mean'."),
        ({"schedules": ["cosin"]}, "--schedules cosin: Unknown schedule 'cosin'. Did you mean 'cosine'?"),
        ({"schedules": []}, "--schedules: there is none"),
        ({"at_once": 0}, "--at-once 0: it must be a whole number from 1."),
        ({"optimizers": ["adam", "adam"]}, "--optimizer ['adam', 'adam']: it must be a list of names, each once."),
        ({"optimizers": ["adaam"]}, "--optimizer adaam: Unknown optimizer 'adaam'. Did you mean 'adam'?"),
        ({"optimizers": ["sgd_cabs"], "budget": "one-shot"}, "--optimizer sgd_cabs has no learning rate by default"),
        ({"valid": True}, "--tune-on valid: --valid 1000: of 1000 training examples, fewer are left"),
        ({"valid": 0}, "--tune-on valid needs examples to judge by: --valid 1000, say."),
        ({"search": {"beta1": [1.5]}}, "The hyperparameter beta1 is 1.5; it must be at least 0 and below 1."),
        ({"budget": "published", "search": {"beta1": [0.8, 0.9]}}, "--search: 72 settings of adam, but the budget"),
        ({"budget": "published", "search": {"beta1": {"uniform": [0, 0.9]}}}, "--search hyperparams.beta1: uniform"),
        ({"settings": {"lr": 0.1}}, "The setting lr is what tuning chooses; give it by --search."),
        ({"settings": {"epoch": 1}}, "Unknown setting 'epoch'. Did you mean 'epochs'?"),
    ],
)
def test_what_cannot_be_is_said_before_anything_runs(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    pools = MadeUpPools(curve)
    with pytest.raises(ConfigError) as raised:
        tune(tuning(changes.pop("budget", "random-3"), tmp_path, **changes), pools)
    told = raised.value.told(as_flag)
    assert told.startswith(message)
    assert "\n" not in told
    assert not hasattr(pools, "last")


@pytest.mark.parametrize("budget", [*BUDGETS, "optuna-9"])
def test_after_every_kill_the_same_trials_and_the_same_winner(budget: str, tmp_path: Path) -> None:
    given = {"pruner": "hyperband" if budget == "optuna-9" else None}
    expected = tune(tuning(budget, tmp_path / "a", **given), MadeUpPools(curve))
    finished: dict[Any, list[float]] = {}

    def once(config: RunConfig) -> list[float]:
        key = (config.optimizer, config.lr, config.seed, config.schedule, *config.hyperparams.items())
        return finished.setdefault(key, curve(config))

    for answers in (3, 8, 11):
        with pytest.raises(KeyboardInterrupt):
            tune(tuning(budget, tmp_path / "b", **given), MadeUpPools(once, dies_after=answers))
    found = tune(tuning(budget, tmp_path / "b", **given), MadeUpPools(once))
    assert chosen(found) == chosen(expected)


def test_real_runs_are_kept_and_not_run_again(tmp_path: Path) -> None:
    settings = {"epochs": 1, "output_dir": str(tmp_path / "results"), "compile": "off"}
    asked = tuning("random-2", tmp_path, optimizers=["adam"], settings=settings, seeds=[50])
    pools, again = Pools(), Pools()
    (result,) = tune(asked, pools)
    assert len(pools.last.ran) == 3
    assert chosen(tune(asked, again)) == chosen((result,))
    assert again.last.ran == []
    assert result.path is not None
    assert result.path.is_relative_to(state_dir(str(tmp_path / "results")))
    written = json.loads(result.path.read_text())
    assert written["curve"] == {"trial": [1, 2], "spent": [1.0, 2.0], "best": [*result.best]}
    assert written["winner"] == result.winner.number  # type: ignore[union-attr]
    trial, report = read(result.trials[1].path or ""), read(result.reported[0].path or "")
    assert (trial.extra["study"]["role"], trial.extra["study"]["trial"]) == ("tuning", 1)
    assert (report.extra["study"]["role"], report.random_seed) == ("report", 50)
    assert trial.valid_losses is not None
    assert trial.valid_losses[-1] == result.trials[1].value


def test_a_study_s_facts_do_not_change_what_a_run_is(tmp_path: Path) -> None:
    settings = {"epochs": 1, "output_dir": str(tmp_path / "results"), "compile": "off"}
    first = tuning("random-2", tmp_path, optimizers=["adam"], settings=settings, seeds=[50])
    tune(first, Pools())
    pools = Pools()
    (result,) = tune(replace(first, budget="random-3"), pools)
    assert [config.lr for config in pools.last.ran if config.seed == 42] == [result.trials[2].values["lr"]]


def test_a_failing_optimizer_costs_its_trials_alone(tmp_path: Path) -> None:
    settings = {"epochs": 1, "output_dir": str(tmp_path / "results"), "compile": "off"}
    names = ["tests.study.failing:make", "adam"]
    asked = tuning("random-2", tmp_path, optimizers=names, settings=settings, seeds=[50])
    failing, adam = tune(asked, Pools())
    assert [trial.status for trial in failing.trials] == ["failed", "failed"]
    assert failing.winner is None
    assert adam.winner is not None


class Stopping(MadeUpPools):
    """Every run was stopped by a study that was here before."""

    def __call__(self, decide: Any) -> Any:
        pool = super().__call__(decide)
        answer = self.last.next
        self.last.next = lambda: answer()._replace(status="stopped")  # type: ignore[method-assign]
        return pool


def test_a_trial_that_another_study_pruned_is_not_taken_for_a_result(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Trial 0 was stopped by an earlier study"):
        tune(tuning("random-2", tmp_path, optimizers=["adam"]), Stopping(curve))


@pytest.mark.large
def test_kill_minus_9_in_the_middle(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.study.tune_here", "quadratic_deep", "--optimizer", "adam,momentum"]
    command += ["--budget", "optuna-3", "--pruner", "median", "--valid", "256", "--epochs", "2", "--compile", "off"]
    command += ["--seeds", "50", "-q", "--output-dir"]
    folders = [str(tmp_path / name) for name in ("whole", "killed")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, folders[0]], check=True, env=environment, capture_output=True)
    killed = subprocess.Popen([*command, folders[1]], env=environment, stdout=subprocess.DEVNULL)
    while len(list(Path(folders[1]).rglob("*.json"))) < 3 and killed.poll() is None:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    done = subprocess.run([*command, folders[1]], check=True, env=environment, capture_output=True, text=True)
    assert "adam" in done.stdout
    whole, after = (
        [json.loads(path.read_text()) for path in sorted(Path(f"{folder}.state/tuning").glob("*.json"))]
        for folder in folders
    )
    for each in (*whole, *after):
        for run in each["reported"]:
            del run["path"]
    assert len(whole) == 2
    assert after == whole
