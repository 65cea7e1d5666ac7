"""The recurrent problem on short windows, for what is traced or differentiated step by step."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from deepobs_func import problems
from deepobs_func.nets import rnn
from deepobs_func.problems.problem import Problem


def short_text(length: int = 4) -> Problem:
    """tolstoi_char_rnn on windows of a few characters instead of 50: the unrolled graph is that much smaller."""
    problem = problems.get("tolstoi_char_rnn")
    with mock.patch.object(rnn, "TIME", length):
        return replace(problem, dataset=replace(problem.dataset, shape=(length,), sequence_length=length))
