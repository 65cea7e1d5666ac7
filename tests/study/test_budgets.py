"""Budgets: what each of them says, and what cannot be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepobs_func.errors import ConfigError, as_flag
from deepobs_func.records import GRADIENTS
from deepobs_func.study.budgets import BUDGETS, find_budget


def test_the_published_protocol() -> None:
    budget = find_budget("published")
    assert budget.trials == len(budget.rates) == 36
    assert [f"{rate:.10e}" for rate in (budget.rates[0], budget.rates[21], budget.rates[-1])] == [
        *("1.0000000000e-05", "1.5848931925e-01", "1.0000000000e+02")
    ]
    assert (budget.tuning_seed, budget.seeds, budget.report_tuning_seed) == (42, tuple(range(43, 52)), True)
    assert (budget.tune_on, budget.quantity, budget.searched) == ("test", "final", "lr")


def test_the_published_protocol_alone_tunes_on_the_test_set() -> None:
    assert [name for name, budget in BUDGETS.items() if budget.tune_on == "test"] == ["published"]


def test_only_where_nothing_is_chosen_or_it_was_published_is_the_tuning_seed_reported() -> None:
    assert [name for name, budget in BUDGETS.items() if budget.report_tuning_seed] == ["one-shot", "published"]


def test_algoperf_s_rule() -> None:
    budget = find_budget("halton")
    assert (budget.trials, budget.studies, budget.sampler) == (5, 3, "halton")
    assert not {42, 43, 44} & set(budget.seeds)


def test_a_number_of_trials_is_in_the_name() -> None:
    assert replace(find_budget("random-7"), name="random-k", trials=None) == BUDGETS["random-k"]
    assert find_budget("optuna-3", quantity="best").quantity == "best"
    assert find_budget(replace(BUDGETS["random-k"], trials=3)).trials == 3


def test_a_product_counts_twice_a_gradient() -> None:
    assert GRADIENTS == {"gradients": 1.0, "products": 2.0, "evaluations": 1 / 3}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("publishd", {}, "--budget publishd: Unknown budget 'publishd'. Did you mean 'published'?"),
        ("random-k", {}, "--budget random-k needs a number: random-20, say."),
        ("random-0", {}, "--budget random-0 with 0 trials: it must be a whole number from 1."),
        ("halton", {"studies": 0}, "--budget halton with 0 studies"),
        ("published", {"tune_on": "train"}, "--tune-on train: it must be valid or test."),
        ("published", {"quantity": "mean"}, "--quantity mean: it must be final or best."),
        ("published", {"seeds": (43, 43)}, "--seeds 43 43: one is there twice."),
        ("published", {"seeds": (42, 43)}, "--seeds: 42 is a seed of tuning"),
        ("halton", {"seeds": (44,)}, "--seeds: 44 is a seed of tuning"),
        ("random-2", {"seeds": ()}, "--seeds: there is none"),
    ],
)
def test_what_cannot_be(name: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        find_budget(name, **changes)
    assert raised.value.told(as_flag).startswith(message)
