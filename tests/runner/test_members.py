"""Members of populations beside their own runs in another process: a part of what `tests.runner.members` measures."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from deepobs_func.runner import Execution, run
from tests.runner.members import CURVES, TOLERANCE, WAYS, Results, apart, configs, worst

CASES = [
    ("vae", "adam", "float32", "eager"),
    ("3c3d", "sgd", "float32", "eager"),
    ("char_rnn", "rmsprop", "float32", "eager"),
    ("wrn", "momentum", "float64", "eager"),
    ("quadratic", "nesterov", "float64", "compiled"),
    ("logreg", "adamw", "float32", "compiled"),
]


@pytest.mark.large
@pytest.mark.parametrize(("family", "optimizer", "digits", "code"), CASES, ids=lambda value: value)
def test_a_member_is_its_own_run_in_another_process(family: str, optimizer: str, digits: str, code: str) -> None:
    found = {way: far for _, way, _, far in worst(family, [optimizer], list(WAYS), digits, [code])}
    assert found.keys() == WAYS.keys()
    assert max(found.values()) < TOLERANCE[digits]


def test_a_classifier_that_computes_in_float64_is_evaluated_in_it() -> None:
    given = configs("logreg", "sgd", "float64")
    ended = run(replace(given["config"], epochs=1), given["problem"], execution=Execution())
    assert ended.record.status == "finished"
    assert {leaf.dtype for leaf in ended.params.values()} == {torch.float64}
    assert [0.0 <= accuracy <= 1.0 for accuracy in ended.record.test_accuracies or []] == [True] * 2


def made(loss: float, weight: float = 1.0) -> Results:
    return {"run": ({name: [1.0, loss] for name in CURVES}, {"w": torch.tensor([1.0, weight])})}


def test_a_number_that_is_not_finite_is_no_agreement() -> None:
    for loss, weight in ((math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0)):
        with pytest.raises(AssertionError, match="not finite"):
            apart(made(loss, weight), made(1.0))


def test_a_loss_of_zero_has_no_relative_difference_but_none() -> None:
    assert apart(made(0.0), made(0.0)) == 0.0
    assert apart(made(1e-9), made(0.0)) == math.inf
    assert apart(made(1.1), made(1.0)) == pytest.approx(0.1)
