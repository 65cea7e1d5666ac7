"""What a hyperparameter may be, and what is said where it is not."""

from __future__ import annotations

import pytest

from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.hyperparameters import Range


@pytest.mark.parametrize(
    ("range_", "words", "inside", "outside"),
    [
        (Range(), "any number", -1e300, None),
        (Range(0.0), "at least 0", 0.0, -1e-300),
        (Range(0.0, above=True), "above 0", 5e-324, 0.0),
        (Range(0.0, 1.0, above=True), "above 0 and below 1", 5e-324, 0.0),
        (Range(0.0, 1.0), "at least 0 and below 1", 0.0, 1.0),
        (Range(0.0, 1.0, closed=True), "at least 0 and at most 1", 1.0, 1.0000001),
    ],
)
def test_a_range_says_its_ends(range_: Range, words: str, inside: float, outside: float | None) -> None:
    assert str(range_) == words
    assert range_.checked("rate", inside) == inside
    if outside is not None:
        with pytest.raises(ConfigError, match=f"The hyperparameter rate is {outside!r}; it must be {words}"):
            range_.checked("rate", outside)
