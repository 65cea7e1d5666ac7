"""Problems whose nets are small versions of themselves, for properties that need their layers and not their size."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from unittest import mock

from deepobs_func import problems
from deepobs_func.nets import rnn
from deepobs_func.nets.wrn import WideResNet
from deepobs_func.problems.problem import Problem


def short_text(length: int = 4) -> Problem:
    """tolstoi_char_rnn on windows of a few characters instead of 50: the unrolled graph is that much smaller."""
    problem = problems.get("tolstoi_char_rnn")
    with mock.patch.object(rnn, "TIME", length):
        return replace(problem, dataset=replace(problem.dataset, shape=(length,), sequence_length=length))


def narrow_resnet(depth: int = 16) -> Problem:
    """svhn_wrn164 with a quarter of the channels; with a depth of 10, one unit a stage instead of two."""
    return replace(problems.get("svhn_wrn164"), make_net=partial(WideResNet, depth, 1, 10))
