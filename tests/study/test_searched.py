"""What is searched: the row's ranges, what the user gives, and the run at a point."""

from __future__ import annotations

import pytest

from deepobs_func import optimizers
from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.runner import RunConfig
from deepobs_func.runner.plan import make_plan
from deepobs_func.study.budgets import find_budget
from deepobs_func.study.searched import corners, default_lr, point, row_of, spaces_for
from deepobs_func.study.spaces import LogUniform, Uniform, Values

RANDOM, PUBLISHED, ONE_SHOT = find_budget("random-4"), find_budget("published"), find_budget("one-shot")


def spaces(optimizer: str, budget: object = RANDOM, **given: object) -> dict[str, object]:
    names = [optimizer, "sgd"]
    return dict(spaces_for(optimizer, names, budget, given))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", optimizers.FUNCTIONAL.own)
def test_every_end_of_every_row_s_ranges_can_be_run(name: str) -> None:
    row = optimizers.FUNCTIONAL[name]
    found = spaces_for(name, [name], RANDOM, {})
    assert len(found) == 2 + sum(each.search is not None for each in row.hyperparameters.values())
    for values in corners(found):
        make_plan(point(RunConfig("quadratic_deep", name, 1.0), values))


@pytest.mark.parametrize("name", optimizers.FUNCTIONAL.own)
def test_every_row_s_defaults_lie_in_its_ranges(name: str) -> None:
    row = optimizers.FUNCTIONAL[name]
    searches = [(row.lr, row.lr_search), *((each.default, each.search) for each in row.hyperparameters.values())]
    for default, search in searches:
        if default is not None and search is not None:
            assert search.low <= float(default) <= search.high


def test_rows_without_a_default_rate_say_no_source_and_others_do() -> None:
    assert [row.name for row in optimizers.FUNCTIONAL.own.values() if row.lr is None] == ["sgd_cabs"]
    assert all(bool(row.lr_source) == (row.lr is not None) for row in optimizers.FUNCTIONAL.own.values())


def test_what_a_budget_searches() -> None:
    assert list(spaces("adam")) == ["lr", "hyperparams.beta1", "schedule"]
    assert spaces("momentum", PUBLISHED) == {"lr": Values(PUBLISHED.rates)}
    assert spaces("momentum", ONE_SHOT) == {}
    assert list(spaces("torch.optim.Adam")) == ["lr", "schedule"]


def test_what_the_user_gives_comes_first() -> None:
    found = spaces("adamw", lr={"uniform": [0.1, 0.2]}, beta2=[0.99, 0.999], batch_size=[32])
    assert found["lr"] == Uniform(0.1, 0.2)
    assert found["hyperparams.beta2"] == Values((0.99, 0.999))
    assert found["batch_size"] == Values((32,))


def test_a_name_is_the_optimizer_s_own_before_it_is_the_problem_s() -> None:
    assert "hyperparams.weight_decay" in spaces("adamw", weight_decay=[0.1])
    assert "weight_decay" in spaces("adam", weight_decay=[0.1])
    assert "hyperparams.weight_decay" in spaces("adamw", **{"opt.weight_decay": [0.1]})


def test_a_name_with_an_optimizer_is_of_that_one_alone() -> None:
    given = {"torch.optim.SGD.momentum": [0.5], "adam.lr": LogUniform(1e-6, 1e-5)}
    both = ["adam", "torch.optim.SGD"]
    adam, sgd = (spaces_for(each, both, RANDOM, given) for each in both)
    assert adam["lr"] == LogUniform(1e-6, 1e-5)
    assert "hyperparams.momentum" not in adam
    assert (sgd["hyperparams.momentum"], sgd["lr"].word) == (Values((0.5,)), "loguniform")


def test_one_that_an_optimizer_lacks_is_left_out_of_its_search_alone() -> None:
    both = ["adam", "momentum"]
    adam, momentum = (spaces_for(each, both, ONE_SHOT, {"momentum": [0.5]}) for each in both)
    assert (list(adam), list(momentum)) == ([], ["hyperparams.momentum"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"momentun": [0.9]}, "--search momentun: Unknown hyperparameter of momentum or sgd: 'momentun'. Did you mean"),
        ({"lr": []}, "--search lr: It is empty"),
        ({"lr": {"loguniform": [1, 0.1]}}, "--search lr: loguniform: 1 must be below 0.1"),
        ({"lr": {"lognormal": [1, 2]}}, "--search lr: Unknown kind of values 'lognormal'."),
        ({"adam.lr": [1]}, "--search adam.lr: Unknown hyperparameter"),
    ],
)
def test_what_cannot_be_searched(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        spaces("momentum", **given)
    assert raised.value.told(as_flag).startswith(message)


def test_the_run_at_a_point() -> None:
    base = RunConfig("quadratic_deep", "adam", 1.0, hyperparams={"epsilon": 1e-6})
    values = {"lr": 0.1, "hyperparams.beta1": 0.8, "schedule": "constant", "warm_up": 2.0}
    config = point(base, values)
    assert (config.lr, config.hyperparams, config.schedule, config.warm_up) == (
        *(0.1, {"epsilon": 1e-6, "beta1": 0.8}),
        *(None, 2.0),
    )
    assert point(base, {**values, "schedule": "cosine"}).schedule == "cosine"


def test_default_rates() -> None:
    rates = {name: default_lr(name) for name in ("adam", "sgd_cabs", "torch.optim.Adam", "torch.optim.RMSprop")}
    assert rates == {"adam": 1e-3, "sgd_cabs": None, "torch.optim.Adam": 1e-3, "torch.optim.RMSprop": 1e-2}
    assert default_lr("tests.study.test_searched:spaces") is None


def test_an_optimizer_that_is_none() -> None:
    with pytest.raises(ConfigError, match=r"Unknown optimizer 'adaam'\. Did you mean 'adam'\?"):
        row_of("adaam")
