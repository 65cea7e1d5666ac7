"""TensorFlow weights: there and back, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepobs_func import problems
from deepobs_func.compat import tf_weights
from deepobs_func.errors import DataError
from tests.problems.test_registry import table


@pytest.mark.parametrize("name", table(problems.SETS["deepobs"]))
def test_there_and_back(name: str) -> None:
    problem = problems.get(name)
    params, state = problem.init(3)
    state = state._replace(carry=problem.zero_carry(2))
    variables, state_variables = tf_weights.save(problem, params, state)
    again, state_again = tf_weights.load(problem, variables, state_variables)
    assert list(again) == list(params)
    assert all(torch.equal(again[key], params[key]) for key in params)
    assert all(torch.equal(state_again.moments[key], state.moments[key]) for key in state.moments)
    assert state_again.carry.keys() == state.carry.keys()


def test_layouts_are_tensorflow_s() -> None:
    problem = problems.get("mnist_2c2d")
    variables, _ = tf_weights.save(problem, *problem.init(0))
    shapes = [(5, 5, 1, 32), (32,), (5, 5, 32, 64), (64,), (3136, 1024), (1024,), (1024, 10), (10,)]
    assert [variable.shape for variable in variables] == shapes


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ([np.zeros((784, 10))], r"Expected 2 variables \(dense.0.weight, dense.0.bias, \.\.\.\), found 1"),
        (
            [np.zeros((10, 784)), np.zeros(10)],
            r"variable 0 \(dense.0.weight\): expected the shape \(784, 10\), found \(10, 784\)",
        ),
    ],
)
def test_wrong_arrays_are_named(arrays: list[np.ndarray], words: str) -> None:
    with pytest.raises(DataError, match=words):
        tf_weights.load(problems.get("mnist_logreg"), arrays)


def test_a_wrong_number_of_states_is_refused() -> None:
    problem = problems.get("tolstoi_char_rnn")
    variables, _ = tf_weights.save(problem, *problem.init(0))
    with pytest.raises(DataError, match=r"Expected 4 state variables \(lstm1.c, lstm1.h, lstm2.c, lstm2.h\), found 1"):
        tf_weights.load(problem, variables, [np.zeros((2, 128))])
