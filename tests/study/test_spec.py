"""Studies: what they expand to, and what is refused."""

from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import deepobs_func
from deepobs_func import problems
from deepobs_func.errors import ConfigError
from deepobs_func.runner.config import RunConfig, resolve
from deepobs_func.study import Limits, LogUniform, Study
from deepobs_func.study.axes import problem_sets
from deepobs_func.study.places import SpecError
from tests.study import user_code

RATE = {"lr": 0.1}


def study(problems: Any = "quadratic_deep", optimizers: Any = None, **more: Any) -> Study:
    return Study(problems, {"sgd": RATE} if optimizers is None else optimizers, **more)


def test_a_study_is_the_product_of_its_axes_in_order() -> None:
    made = study(
        ["quadratic_deep", "two_d_beale"],
        {"sgd": {"lr": [0.1, 0.01]}, "momentum": {"lr": 0.2, "momentum": [0.5, 0.9]}},
        schedules=["constant", "cosine"],
        seeds=[7, 3],
        epochs=5,
        output_dir="there",
    )
    values = [
        ("sgd", 0.1, {}),
        ("sgd", 0.01, {}),
        ("momentum", 0.2, {"momentum": 0.5}),
        ("momentum", 0.2, {"momentum": 0.9}),
    ]
    expected = [
        RunConfig(problem, name, lr, given, epochs=5, seed=seed, schedule=schedule, output_dir="there")
        for problem in ("quadratic_deep", "two_d_beale")
        for optimizer in ("sgd", "momentum")
        for schedule in (None, "cosine")
        for name, lr, given in values
        if name == optimizer
        for seed in (7, 3)
    ]
    assert list(made.runs) == expected
    assert made.size == len(expected) == 32
    assert made is not deepobs_func.Study
    assert deepobs_func.Study is Study


def test_the_published_protocol_is_three_lines() -> None:
    made = Study(["small", "large"], {"sgd": {}, "momentum": {"momentum": 0.99}, "adam": {}}, lr="published")
    assert (made.size, made.seeds) == (8 * 3 * 36, (42,))
    assert {run.lr for run in made.runs} == {10 ** (-5 + 0.2 * k) for k in range(36)}
    assert study(seeds=10).seeds == tuple(range(42, 52))


def test_sets_of_problems() -> None:
    sets = problem_sets()
    assert sets["all"] == tuple(problems.names())
    assert len(sets["deepobs"]) == 26
    assert sets["modern"] == tuple(n for n in problems.names() if n not in sets["deepobs"])
    assert sets["small"] == ("quadratic_deep", "mnist_vae", "fmnist_2c2d", "cifar10_3c3d")
    assert sets["two_d"] == ("two_d_rosenbrock", "two_d_beale", "two_d_branin")
    assert not set(sets) & set(problems.names())
    assert set(itertools.chain(*sets.values())) == set(problems.names())
    assert study(["two_d", "mnist_mlp"]).problems == (*sets["two_d"], "mnist_mlp")


def test_what_is_said_in_particular_goes_before_what_is_said_in_general() -> None:
    made = study(
        ["quadratic_deep", "mnist_2c2d"],
        {
            "sgd": {"lr": 0.1},
            "adam": {"lr": 0.2, "beta1": 0.5, "settings": {"epochs": 2, "clip_norm": 1.0}, "schedules": "linear"},
        },
        epochs=1,
        batch_size=8,
        schedules="cosine",
        overrides={
            "mnist_2c2d": {
                "epochs": 3,
                "schedules": ["constant"],
                "adam": {"lr": [1e-4, 1e-3], "beta2": 0.9, "settings": {"epochs": 4}, "schedules": ["exponential"]},
            }
        },
    )
    fields = ("problem", "optimizer", "lr", "hyperparams", "epochs", "clip_norm", "schedule", "batch_size")
    assert [tuple(getattr(run, name) for name in fields) for run in made.runs] == [
        ("quadratic_deep", "sgd", 0.1, {}, 1, None, "cosine", 8),
        ("quadratic_deep", "adam", 0.2, {"beta1": 0.5}, 2, 1.0, "linear", 8),
        ("mnist_2c2d", "sgd", 0.1, {}, 3, None, None, 8),
        ("mnist_2c2d", "adam", 1e-4, {"beta1": 0.5, "beta2": 0.9}, 4, 1.0, "exponential", 8),
        ("mnist_2c2d", "adam", 1e-3, {"beta1": 0.5, "beta2": 0.9}, 4, 1.0, "exponential", 8),
    ]


def test_distributions_are_drawn_together_and_alike_on_all_problems() -> None:
    spaces = {"lr": {"loguniform": [1e-4, 1e-1]}, "momentum": {"uniform": [0, 0.9]}}
    made = study(["quadratic_deep", "two_d_beale"], {"momentum": {**spaces, "samples": 4}, "sgd": RATE})
    drawn = [(run.lr, run.hyperparams["momentum"]) for run in made.runs if run.optimizer == "momentum"]
    assert drawn[:4] == drawn[4:]
    assert len(set(drawn)) == 4
    assert study(optimizers={"momentum": {**spaces, "samples": 4}}, draw_seed=1).runs != made.runs[:4]
    crossed = study(optimizers={"momentum": {"lr": spaces["lr"] | {"samples": 2}, "momentum": [0.5, 0.9]}})
    assert [run.hyperparams["momentum"] for run in crossed.runs] == [0.5, 0.5, 0.9, 0.9]
    assert crossed.runs[0].lr == crossed.runs[2].lr != crossed.runs[1].lr


def test_a_search_is_a_study_too_which_a_tuner_expands() -> None:
    made = study(optimizers={"adam": {"lr": {"loguniform": [1e-4, 1e-1]}}, "sgd": {}}, schedules=["constant", "cosine"])
    adam, sgd = made.cells
    assert adam.spaces == {"lr": LogUniform(1e-4, 1e-1)}
    assert sgd.spaces == {}
    config = adam.config({"lr": 0.01, "beta1": 0.5}, adam.schedules[1], seed=3)
    assert config == RunConfig("quadratic_deep", "adam", 0.01, {"beta1": 0.5}, seed=3, schedule="cosine")
    with pytest.raises(SpecError, match=r"optimizers\.adam\.lr: loguniform: .* give samples beside it"):
        _ = made.runs


def test_classes_and_functions_are_given_by_value_or_path() -> None:
    made = Study(
        [user_code.quadratic, "quadratic_deep"],
        {"mine": {"class": user_code.half_sgd, "factor": [0.1, 0.2]}, "torch.optim.Adam": {"betas": (0.5, 0.9)}},
        lr=0.1,
    )
    assert {run.problem for run in made.runs} == {"tests.study.user_code:quadratic", "quadratic_deep"}
    assert [(run.optimizer, run.hyperparams) for run in made.runs[:3]] == [
        ("tests.study.user_code:half_sgd", {"factor": 0.1}),
        ("tests.study.user_code:half_sgd", {"factor": 0.2}),
        ("torch.optim.Adam", {"betas": (0.5, 0.9)}),
    ]
    listed = Study("quadratic_deep", ["sgd", torch.optim.SGD, user_code.momentum], lr=0.1)
    assert [entry.label for entry in listed.optimizers] == ["sgd", "SGD", "momentum"]
    assert [run.optimizer for run in listed.runs] == ["sgd", "torch.optim.sgd:SGD", "tests.study.user_code:momentum"]


SPACES = st.one_of(
    st.floats(1e-6, 10),
    st.lists(st.floats(1e-6, 10), min_size=1, max_size=3, unique=True),
    st.builds(lambda low, num: {"log": [low, low * 10, num]}, st.floats(1e-6, 1), st.integers(2, 4)),
    st.builds(lambda low, num: {"loguniform": [low, low * 10], "samples": num}, st.floats(1e-6, 1), st.integers(1, 4)),
)
STUDIES = st.fixed_dictionaries(
    {
        "problems": st.lists(st.sampled_from(["mnist", "small", "two_d_beale"]), min_size=1, unique=True).filter(
            lambda names: not {"mnist", "small"} <= set(names)
        ),
        "optimizers": st.dictionaries(
            st.sampled_from(["sgd", "adam", "momentum"]), st.fixed_dictionaries({"lr": SPACES}), min_size=1
        ),
        "seeds": st.one_of(st.integers(1, 3), st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True)),
        "epochs": st.integers(2, 9),
        "batch_sizes": st.sampled_from([None, [100], [50, 100]]),
        "schedules": st.lists(
            st.sampled_from(["constant", "cosine", {"schedule": "linear", "warm_up": 0.5}]),
            min_size=1,
            unique_by=str,
        ),
        "budget": st.sampled_from(
            [{"trials": 50}, {"runs": 5000, "max_seconds": 3.5, "gradients": 10**6, "cost": 2.5}]
        ),
    }
)


@settings(max_examples=25)
@given(STUDIES)
def test_plain_data_are_the_same_study_again(arguments: dict[str, Any]) -> None:
    """By JSON, as a study folder keeps it, by pickle, and by `replace`; and its table counts what it expands to."""
    made = Study(**arguments)
    assert Study(**json.loads(json.dumps(made.plain()))) == made
    assert Study(**json.loads(json.dumps(made.plain()))).runs == made.runs
    assert pickle.loads(pickle.dumps(made)) == made
    assert replace(made) == made
    assert replace(made, seeds=[1]).seeds == (1,)
    assert sum(row["runs"] for row in made.table()) == made.size == len(made.runs)
    assert (
        len({(run.problem, run.optimizer, run.lr, run.schedule, run.batch_size, run.seed) for run in made.runs})
        == made.size
    )


def test_every_run_is_resolved_before_any_runs() -> None:
    for run in study(
        ["quadratic_deep"], {"adam": {"lr": [0.1, 0.2], "beta1": 0.5}}, schedules=["constant", "cosine"]
    ).runs:
        assert resolve(run).hyperparams == {"beta1": 0.5, "beta2": 0.999, "epsilon": 1e-8}


TWICE = {"a": {"class": "sgd", "lr": [1.0, 0.1]}, "b": {"class": "sgd", "lr": 0.1}}
PATH_TWICE = {"torch.optim.SGD": RATE, "b": {"class": torch.optim.SGD, "lr": 0.1, "momentum": 0}}
NEAR = 0.1 + 1e-14
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"problems": []}, "problems: It is empty; give one problem at least."),
    ({"problems": "quadratic_dep"}, "problems: Unknown problem or set 'quadratic_dep'. Did you mean 'quadratic_deep'?"),
    ({"problems": ["smal"]}, "problems[0]: Unknown problem or set 'smal'. Did you mean 'small'?"),
    (
        {"problems": ["small", "mnist_vae"]},
        "problems[1]: mnist_vae is there already (as 'small', item 0); leave one out.",
    ),
    ({"optimizers": {}}, "optimizers: It is empty; give one optimizer at least."),
    ({"optimizers": ["sgd", "sgd"]}, "optimizers[1]: sgd is there already, item 0; leave one out."),
    ({"optimizers": {"sgd": 0.1}}, "optimizers.sgd: 0.1: it must be a mapping, such as {lr: 0.1}."),
    ({"optimizers": {"sgd": {"lr": []}}}, "optimizers.sgd.lr: It is empty; give one value at least."),
    (
        {"optimizers": {"sgd": {"lr": [0.1, -1]}}},
        "optimizers.sgd.lr: -1.0: a learning rate must be positive and finite.",
    ),
    ({"optimizers": {"sgd": {"lr": "0.1"}}}, "optimizers.sgd.lr: '0.1': it must be a number."),
    ({"optimizers": {"sgd": {}}}, "optimizers.sgd: sgd has no learning rate; give lr, here or for all optimizers."),
    (
        {"optimizers": {"sgd": {"lr": 1, "hyperparams": 3}}},
        "optimizers.sgd.hyperparams: 3: it must be a mapping, such as {momentum: 0.9}.",
    ),
    (
        {"optimizers": {"momentum": {"lr": 1, "momentum": 0.1, "hyperparams": {"momentum": 0.2}}}},
        "optimizers.momentum.hyperparams.momentum: momentum stands beside hyperparams too; leave one out.",
    ),
    (
        {"optimizers": {"adam": {"lr": 1, "bta1": 0.1}}},
        "optimizers.adam.bta1: Unknown hyperparameter of adam: 'bta1'. Did you mean 'beta1'?",
    ),
    (
        {"optimizers": {"adam": {"lr": 1, "beta1": [0.9, 1.5]}}},
        "optimizers.adam.beta1: The hyperparameter beta1 is 1.5; it must be at least 0 and below 1.",
    ),
    (
        {"optimizers": {"adam": {"lr": 1, "beta1": {"uniform": [0.5, 1.5], "samples": 2}}}},
        "optimizers.adam.beta1: The hyperparameter beta1 is 1.5; it must be at least 0 and below 1.",
    ),
    (
        {"optimizers": {"torch.optim.Adam": {"lr": 1, "bta": 0.1}}},
        "optimizers.torch.optim.Adam: Unknown hyperparameter of torch.optim.Adam: 'bta'. Did you mean 'betas'?",
    ),
    (
        {"optimizers": {"epochs": RATE}},
        "optimizers.epochs: epochs is the name of a setting, so no optimizer can have it; give it another one.",
    ),
    (
        {"optimizers": {"sgd": {"lr": 1, "samples": 2}}},
        "optimizers.sgd.samples: 2: sgd has no distribution to draw from; leave it out.",
    ),
    (
        {"optimizers": {"sgd": {"lr": 1, "samples": 0}}},
        "optimizers.sgd.samples: 0: it must be a whole number from 1 to 10000.",
    ),
    (
        {"optimizers": {"sgd": {"lr": {"uniform": [0.1, 1], "samples": 3}, "samples": 2}}},
        "optimizers.sgd.lr: samples 3: an optimizer's distributions are drawn from together, here 2 times; say one.",
    ),
    (
        {"optimizers": TWICE},
        "optimizers.b: setting 0 of b on quadratic_deep (optimizers.b: lr=0.1) is the same run as setting 1 of a on "
        "quadratic_deep (optimizers.a: lr=0.1). Leave one out.",
    ),
    (
        {"optimizers": PATH_TWICE},
        "optimizers.b: setting 0 of b on quadratic_deep (optimizers.b: lr=0.1, momentum=0) is the same run as setting "
        "0 of torch.optim.SGD on quadratic_deep (optimizers.torch.optim.SGD: lr=0.1). Leave one out.",
    ),
    (
        {"optimizers": {"sgd": {"lr": [0.1, NEAR]}}},
        f"optimizers.sgd: setting 1 of sgd on quadratic_deep (optimizers.sgd: lr={NEAR}) would lie in the same folder "
        "(quadratic_deep/sgd/num_epochs__100__batch_size__128__lr__1.e-01__protocol__default) as setting 0 of sgd on "
        "quadratic_deep (optimizers.sgd: lr=0.1). Leave one out.",
    ),
    ({"lr": 0.0}, "lr: 0.0: a learning rate must be positive and finite."),
    ({"schedules": []}, "schedules: It is empty; give one schedule at least."),
    ({"schedules": "cosin"}, "schedules: Unknown schedule 'cosin'. Did you mean 'cosine'?"),
    ({"schedules": ["cosine", "cosine"]}, "schedules[1]: It is the same schedule as item 0; leave one out."),
    (
        {"schedules": ["constant", "published"]},
        "schedules[1]: schedule published: none is known for quadratic_deep. Take another one.",
    ),
    (
        {"schedules": [3]},
        "schedules[0]: 3 is no schedule; give a name, or a mapping of schedule, warm_up, decay_factor, "
        "lr_sched_epochs, lr_sched_factors.",
    ),
    (
        {"schedules": [{"warmup": 3}]},
        "schedules[0].warmup: Unknown key of a schedule 'warmup'. Did you mean 'warm_up'?",
    ),
    ({"schedules": "cosine", "schedule": "linear"}, "schedule: linear: there are schedules too; add it to them."),
    ({"seeds": 0}, "seeds: 0: it must be how many seeds there are, from 1, or a list of them."),
    ({"seeds": []}, "seeds: It is empty; give one seed at least."),
    ({"seeds": [1, 2, 1]}, "seeds[2]: 1 is there already, item 0; leave one out."),
    ({"seeds": [-1]}, "seeds[0]: -1: a seed is a whole number from 0 to 2**64 - 1."),
    ({"seeds": 2.0}, "seeds: 2.0: it must be a whole number, how many, or a list of seeds."),
    ({"seed": 3}, "seed: Unknown key of a study 'seed'. Did you mean 'seeds'?"),
    ({"epochs": 0}, "epochs: 0: it must be a whole number from 1. This is sgd on quadratic_deep."),
    ({"epochs": "5"}, "epochs: '5': it must be a whole number."),
    ({"settings": {"epochs": 0}}, "epochs: 0: it must be a whole number from 1. This is sgd on quadratic_deep."),
    (
        {"weight_decay": 0.1},
        "weight_decay: quadratic_deep has no L2 penalty, so it takes no weight_decay (given: 0.1). "
        "An optimizer that has a weight decay of its own takes it as hyperparams['weight_decay'].",
    ),
    (
        {"overrides": {"mnist_mlp": {}}},
        "overrides.mnist_mlp: Unknown problem of this study 'mnist_mlp'. Known: quadratic_deep.",
    ),
    (
        {"overrides": {"quadratic_deep": {"epoch": 1}}},
        "overrides.quadratic_deep.epoch: Unknown setting or optimizer 'epoch'. Did you mean 'epochs'?",
    ),
    (
        {"overrides": {"quadratic_deep": {"epochs": 0}}},
        "overrides.quadratic_deep.epochs: 0: it must be a whole number from 1. This is sgd on quadratic_deep.",
    ),
    (
        {"overrides": {"quadratic_deep": {"sgd": {"class": "adam"}}}},
        "overrides.quadratic_deep.sgd.class: An optimizer has one class on all problems; leave it out here.",
    ),
    ({"budget": {"trial": 1}}, "budget.trial: Unknown key of a budget 'trial'. Did you mean 'trials'?"),
    ({"budget": {"runs": 0}}, "budget.runs: 0: it must be a whole number from 1."),
    ({"budget": {"max_seconds": 0}}, "budget.max_seconds: 0: it must be a positive, finite number."),
    ({"budget": 3}, "budget: 3: it must be a mapping of runs, trials, max_seconds, gradients, cost."),
    (
        {"seeds": 3, "budget": {"runs": 2}},
        "budget.runs: The study has 3 runs, more than 2. Give fewer settings or seeds.",
    ),
    (
        {"lr": "published", "optimizers": ["sgd"], "budget": Limits(trials=35)},
        "budget.trials: sgd on quadratic_deep has 36 settings, more than 35. Give fewer.",
    ),
    ({"output_dir": None}, "output_dir: A study writes its records; give a folder."),
    ({"output_dir": 3}, "output_dir: 3: it must be a path."),
    ({"jobs": 0}, "jobs: 0: it must be a whole number from 1."),
    ({"retries": -1}, "retries: -1: it must be a whole number from 0."),
]


@pytest.mark.parametrize(("changes", "words"), WRONG, ids=lambda value: str(value)[:40])
def test_what_cannot_be_run_is_refused_with_its_place(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = study(**changes).runs
    assert str(caught.value) == words


def test_more_runs_than_any_machine_does_are_counted_and_not_made() -> None:
    grid = {"linear": [0.1, 0.9, 10_000]}
    made = study(optimizers={"momentum": {"lr": grid, "momentum": grid}})
    assert made.size == 10**8
    with pytest.raises(ConfigError, match="The study has 100000000 runs, more than 1000000"):
        _ = made.runs


def test_names_import_no_torch() -> None:
    code = (
        "import sys; from deepobs_func import Study;"
        "made = Study('all', ['sgd', 'adam'], lr=[0.1, 0.2], seeds=3, schedules=['constant', 'cosine']);"
        "print(len(made.runs), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{len(problems.names()) * 2 * 2 * 3 * 2} False\n"
