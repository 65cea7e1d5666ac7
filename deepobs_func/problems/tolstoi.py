"""The problem on Tolstoi's War and Peace."""

from __future__ import annotations

from deepobs_func.problems.spec import LSTM_GRADIENT, ProblemSpec

SPECS = (
    ProblemSpec(
        "tolstoi_char_rnn",
        "tolstoi",
        "deepobs_func.nets.rnn:CharRNN",
        "deepobs_func.problems.measures:sequence",
        284_499,
        200,
        50,
        compile_step=False,
        deviations=(LSTM_GRADIENT,),
    ),
)
