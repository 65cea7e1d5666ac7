"""The modern set as rows: its settings are runs, its own and nobody else's."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from deepobs_func import RunConfig, cli, datasets, problems
from deepobs_func.analysis import published
from deepobs_func.problems.spec import Recipe
from deepobs_func.runner.plan import make_plan

MODERN = problems.SETS["modern"]


@pytest.mark.parametrize("name", MODERN)
def test_its_settings_make_a_run(name: str) -> None:
    recipe = problems.spec_of(name).recipe
    assert recipe is not None
    hyperparams, schedule, warm_up = dict(recipe.hyperparams), recipe.schedule, recipe.warm_up
    config = RunConfig(name, recipe.optimizer, recipe.lr, hyperparams, schedule=schedule, warm_up=warm_up)
    assert make_plan(config).epochs == problems.spec_of(name).epochs
    assert len(recipe.source) > 40
    assert CliRunner().invoke(cli.cli, ["run", name, *recipe.options.split(), "--help"]).exit_code == 0
    result = CliRunner().invoke(cli.cli, ["describe", name])
    assert f"deepobs run {name} {recipe.options}\n({recipe.source})" in result.output


def test_options_are_those_of_the_command_line() -> None:
    made = Recipe("adamw", 5e-4, "somebody", {"weight_decay": 0.03}, "cosine", 10.0)
    assert made.options == "--optimizer adamw --lr 0.0005 --opt.weight_decay 0.03 --schedule cosine --warm-up 10"
    assert Recipe("sgd", 0.1, "somebody").options == "--optimizer sgd --lr 0.1"


def test_they_are_none_of_deepobs() -> None:
    assert not set(MODERN) & set(published.problems())
    assert not set(MODERN) & set(problems.SETS["deepobs"])
    for name in MODERN:
        assert problems.spec_of(name).deviations == ()
    for name in problems.SETS["deepobs"]:
        assert problems.spec_of(name).recipe is None
        assert datasets.spec(problems.spec_of(name).dataset).source == "generated"
