"""Where a mistake stands: a name, a file, a line."""

from __future__ import annotations

import pickle

import pytest

from deepobs_func.errors import ConfigError, as_flag, option
from deepobs_func.study.places import Origin, SpecError, at, told_by

ORIGIN = Origin("study.yaml", {(): 1, ("optimizers",): 3, ("optimizers", "sgd", "lr"): 5})


def test_the_line_is_that_of_the_nearest_value_around() -> None:
    assert [ORIGIN.line(("optimizers", "sgd", "lr", 0)), ORIGIN.line(("optimizers", "adam")), ORIGIN.line(("x",))] == [
        5,
        3,
        1,
    ]
    assert Origin("study.yaml").told(("x", 1)) == "study.yaml: x[1]"


def test_a_place_is_told_by_the_names_of_the_file() -> None:
    origin = Origin("port.yaml", {("epochs",): 2}, {("epochs",): "global.num_epochs"})
    assert origin.told(("epochs",)) == "port.yaml, line 2: global.num_epochs"
    assert origin.told(("epochs", 0)) == "port.yaml, line 2: global.num_epochs"


def test_a_mistake_has_the_innermost_place_and_the_file() -> None:
    with pytest.raises(SpecError) as caught, told_by(ORIGIN), at(("optimizers",)), at(("optimizers", "sgd", "lr")):
        raise ConfigError(f"{option('lr')} 0: it must be positive.")
    assert str(caught.value) == "study.yaml, line 5: optimizers.sgd.lr: 0: it must be positive."
    assert caught.value.told(as_flag) == str(caught.value)
    assert caught.value.where == ("optimizers", "sgd", "lr")


def test_without_a_file_the_place_alone_is_told() -> None:
    with pytest.raises(SpecError) as caught, told_by(None), at(("seeds", 2)):
        raise ConfigError("It is wrong.")
    assert str(caught.value) == "seeds[2]: It is wrong."
    assert str(SpecError((), "It is wrong.")) == "It is wrong."


def test_a_mistake_travels_between_processes_as_it_is_told() -> None:
    error = SpecError(("seeds", 2), "It is wrong.", ORIGIN)
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.where, again.reason) == (str(error), error.where, error.reason)


def test_a_file_is_told_of_in_its_own_words() -> None:
    error = SpecError(("track",), "(None, 'x'): it must be several names.", ORIGIN)
    assert str(error) == "study.yaml, line 1: track: [null, 'x']: it must be several names."
    assert str(SpecError(("track",), error.reason)).startswith("track: (None, 'x')")


@pytest.mark.parametrize(
    "reason",
    [
        "None.Opt: there is no module None.",
        "unknown problem 'my.None:problem'; known: my.True:problem.",
        "/data/None/x: None of the files is there.",
        "/tmp/(1, 2)/x cannot be read.",
        "'None': it must be a number.",
    ],
)
def test_names_paths_and_words_stay_as_they_are(reason: str) -> None:
    assert str(SpecError(("track",), reason, ORIGIN)) == f"study.yaml, line 1: track: {reason}"
