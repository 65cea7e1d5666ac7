"""Spaces as users write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from deepobs_func.errors import ConfigError
from deepobs_func.study.space_words import space
from deepobs_func.study.spaces import (
    NAMED,
    PUBLISHED,
    Choice,
    IntUniform,
    LinearGrid,
    LogGrid,
    LogUniform,
    OneMinusLogUniform,
    Space,
    Uniform,
    Values,
)


@pytest.mark.parametrize(
    ("written", "made"),
    [
        (0.1, Values((0.1,))),
        ((0.9, 0.99), Values(((0.9, 0.99),))),
        ([[0.9, 0.99], [0.8, 0.9]], Values(((0.9, 0.99), (0.8, 0.9)))),
        (None, Values((None,))),
        (np.float64(0.5), Values((0.5,))),
        ([np.int64(3), True], Values((3, True))),
        (torch.optim.SGD, Values(("torch.optim.sgd:SGD",))),
        ([{"a": [1]}], Values(({"a": (1,)},))),
        ("published", Values(("published",))),
        ({"values": [1, 2]}, Values((1, 2))),
        ({"linear": [0, 1, 3]}, LinearGrid(0, 1, 3)),
        ({"log": [1e-5, 1e2, 36]}, LogGrid(1e-5, 1e2, 36)),
        ({"uniform": [0, 1]}, Uniform(0, 1)),
        ({"loguniform": (1e-4, 1e-1), "samples": 8}, LogUniform(1e-4, 1e-1, samples=8)),
        ({"one_minus_loguniform": [0.5, 0.99]}, OneMinusLogUniform(0.5, 0.99)),
        ({"int": [1, 3], "samples": 2}, IntUniform(1, 3, samples=2)),
        ({"choice": ["a", [1, 2]]}, Choice(("a", (1, 2)))),
    ],
)
def test_what_is_written_is_a_space_and_is_written_again(written: Any, made: Space) -> None:
    assert space(written) == made == space(made) == space(made.plain())


def test_a_named_space_is_meant_where_names_are_offered() -> None:
    assert space("published", named=NAMED) is PUBLISHED


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ([], "It is empty; give one value at least."),
        ({}, "It has no kind of values; give one of values, linear, log, uniform, loguniform, one_minus_loguniform,"),
        ({"logunifrom": [1, 2]}, "Unknown kind of values 'logunifrom'. Did you mean 'loguniform'?"),
        ({"log": [1, 2, 3], "uniform": [1, 2]}, "It has log and uniform; give one of values,"),
        ({"log": 3}, "log: 3 must be a list."),
        ({"log": [1, 2]}, "log: [1, 2] must be [low, high, num]."),
        ({"uniform": [1, 2, 3]}, "uniform: [1, 2, 3] must be [low, high]."),
        ({"log": [1, 2, 3], "samples": 2}, "samples 2: log is no distribution; leave samples out."),
        ({"choice": "abc"}, "choice: 'abc' must be a list."),
        (len, "<built-in function len> is no value of a study's hyperparameter, which JSON must hold. Give numbers,"),
        (Values((len,)), "<built-in function len> is no value of a study's hyperparameter, which JSON must hold."),
        (torch.ones(1), "tensor([1.]) is no value of a study's hyperparameter, which JSON must hold."),
    ],
)
def test_what_is_no_space_is_refused(written: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(written)
    assert str(caught.value).startswith(words)
