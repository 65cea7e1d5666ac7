"""The YAML of a study."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.errors import ConfigError, UserError, as_flag
from deepobs_func.study import Limits, LogUniform, Study, entries, port_yaml
from deepobs_func.study.axes import SCHEDULE_FIELDS
from deepobs_func.study.space_words import WORDS
from deepobs_func.study.spec import KEYS
from deepobs_func.study.yaml_spec import read

SPEC = """\
problems: [small, two_d_beale]
optimizers:
  sgd: {lr: [0.1, 0.01]}
  momentum: &momentum {lr: {log: [1e-5, 1e2, 36]}, momentum: 0.99}
  heavy:
    <<: *momentum
    class: nesterov
    momentum: 0.9
  drawn:
    class: adam
    lr: {loguniform: [1e-4, 1e-1], samples: 8}
    settings: {clip_norm: 1}
schedules: [constant, {schedule: cosine, warm_up: 0.5}]
seeds: 10
epochs: 5
train_log_interval: 1
overrides:
  mnist_vae: {epochs: 2, momentum: {lr: 1e-4}}
budget: {max_seconds: 60, trials: 100}
output_dir: there
retries: 2
jobs: 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named as a user in their folder names them."""
    monkeypatch.chdir(tmp_path)


def study(text: str) -> Study:
    Path("study.yaml").write_text(text, encoding="utf-8")
    return read("study.yaml")


def test_a_file_is_the_study_of_the_same_arguments() -> None:
    momentum = {"lr": {"log": [1e-5, 1e2, 36]}, "momentum": 0.99}
    written = Study(
        ["small", "two_d_beale"],
        {
            "sgd": {"lr": [0.1, 0.01]},
            "momentum": momentum,
            "heavy": {**momentum, "class": "nesterov", "momentum": 0.9},
            "drawn": {"class": "adam", "lr": LogUniform(1e-4, 1e-1, samples=8), "settings": {"clip_norm": 1}},
        },
        schedules=["constant", {"schedule": "cosine", "warm_up": 0.5}],
        seeds=10,
        epochs=5,
        train_log_interval=1,
        overrides={"mnist_vae": {"epochs": 2, "momentum": {"lr": 1e-4}}},
        budget=Limits(max_seconds=60, trials=100),
        output_dir="there",
        retries=2,
        jobs=3,
    )
    made = study(SPEC)
    assert made == written
    assert made.runs == written.runs
    assert len(made.runs) == (4 * (2 + 36 + 36 + 8) + (2 + 1 + 36 + 8)) * 2 * 10
    assert Study.read("study.yaml") == made


HEAD = "problems: quadratic_deep\n"
RATE = HEAD + "optimizers: {sgd: {lr: 0.1}}\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1\n", "line 1: It holds a list, not a mapping; see docs/studies.md for what a study says."),
        ("hello\n", "line 1: It holds a text, not a mapping; see docs/studies.md for what a study says."),
        ("3\n", "line 1: It holds the value 3, not a mapping; see docs/studies.md for what a study says."),
        (HEAD, "line 1: The study has no optimizers; add the key."),
        ("optimizers: sgd\n", "line 1: The study has no problems; add the key."),
        (RATE + "epoch: 3\n", "line 3: epoch: Unknown key of a study 'epoch'. Did you mean 'epochs'?"),
        (RATE + "on: 3\n", "line 3: on: Unknown key of a study 'on'. `docs/studies.md` shows those that there are."),
        (
            RATE + "origin: 3\n",
            "line 3: origin: Unknown key of a study 'origin'. `docs/studies.md` shows those",
        ),
        (
            RATE + "settings: {}\n",
            "line 3: settings: Unknown key of a study 'settings'. `docs/studies.md` shows",
        ),
        (RATE + "seeds:\n", "line 3: seeds: It is empty; give a value, or leave the key out."),
        (RATE + "seeds: ten\n", "line 3: seeds: 'ten': it must be a whole number, how many, or a list of seeds."),
        (RATE + "seeds:\n- 1\n- 2\n- 1\n", "line 6: seeds[2]: 1 is there already, item 0; leave one out."),
        (RATE + "\nepochs: 2.5\n", "line 4: epochs: 2.5: it must be a whole number."),
        (RATE + "epochs: true\n", "line 3: epochs: true: it must be a whole number."),
        (RATE + "track: [1, null]\n", "line 3: track: [1, null]: it must be several names, such as ['grad_norm',"),
        (RATE + "valid: on\n", "line 3: valid: 'on': it must be a whole number."),
        (
            RATE + "schedules:\n- constant\n- {schedule: linear, warm_up: 200}\n",
            "line 5: schedules[1]: warm_up 200.0: it must be at least 0 and below 100 epochs. This is sgd on "
            "quadratic_deep.",
        ),
        (
            RATE + "overrides:\n  quadratic_deep:\n    sgd:\n      lr:\n        - 0.1\n        - no\n",
            "line 6: overrides.quadratic_deep.sgd.lr: 'no': it must be a number.",
        ),
        (
            HEAD + "optimizers:\n  sgd:\n    lr: {log: [1, 0.1, 3]}\n",
            "line 4: optimizers.sgd.lr: log: 1 must be below 0.1.",
        ),
        (
            HEAD + "optimizers:\n  adam:\n    lr: 1\n    beta3: 0.1\n",
            "line 5: optimizers.adam.beta3: Unknown hyperparameter of adam: 'beta3'. Did you mean 'beta2'?",
        ),
        (
            HEAD + "optimizers:\n  a: {class: sgd, lr: 0.1}\n  b: {class: sgd, lr: 0.1}\n",
            "line 4: optimizers.b: setting 0 of b on quadratic_deep (optimizers.b, line 4: lr=0.1) is the same run as "
            "setting 0 of a on quadratic_deep (optimizers.a, line 3: lr=0.1). Leave one out.",
        ),
        (
            "problems:\n- quadratic_deep\n- no_such_module:problem\noptimizers: {sgd: {lr: 0.1}}\n",
            "line 3: problems[1]: The problem 'no_such_module:problem' cannot be imported: ModuleNotFoundError: No "
            "module named 'no_such_module'. Give package.module:name, importable from the current folder or installed.",
        ),
        (
            HEAD + "optimizers:\n  mine:\n    class: tests.study.user_code:half_SGD\n    lr: 0.1\n",
            "line 3: optimizers.mine: Unknown name in tests.study.user_code: 'half_SGD'. Did you mean 'half_sgd'?",
        ),
    ],
    ids=lambda value: repr(value)[-30:],
)
def test_what_is_wrong_is_said_with_its_line(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _ = study(text).runs
    message = str(caught.value)
    assert message == caught.value.told(as_flag)
    assert message.startswith(f"study.yaml, {words}")
    assert len(message) < 400


def test_every_argument_of_a_study_is_a_key() -> None:
    assert set(KEYS) == {
        *("problems", "optimizers", "lr", "schedules", "seeds", "overrides", "budget", "output_dir"),
        *("retries", "jobs", "draw_seed", "batch_sizes"),
    }


def test_every_key_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    limits = [field.name for field in dataclasses.fields(Limits)]
    names = {*KEYS, *entries.KEYS, *limits, *SCHEDULE_FIELDS, *port_yaml.KEYS}
    assert [name for name in sorted(names) if f"`{name}`" not in page] == []
    assert [word for word in WORDS if f"`{{{word}: " not in page] == []


WORDS_AND_NUMBERS = st.sampled_from(
    [None, True, 0, -1, 2.5, 2**64, "x", "", "sgd", "published", "a:b", math.nan, math.inf]
)
KEYS_ANYWHERE = st.sampled_from(
    ["lr", "samples", "class", "values", "log", "int", "choice", "epochs", "schedule", "x", "sgd"]
)
ANYTHING = st.recursive(
    WORDS_AND_NUMBERS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS_ANYWHERE, inner, max_size=3),
    max_leaves=4,
)
OURS = {
    "problems": ["quadratic_deep"],
    "optimizers": {"sgd": {"lr": 0.1}, "momentum": {"lr": [1, 2], "momentum": {"uniform": [0, 0.5], "samples": 2}}},
    "schedules": ["constant", {"schedule": "cosine", "warm_up": 1}],
    "seeds": [1, 2],
    "overrides": {"quadratic_deep": {"epochs": 2, "sgd": {"lr": 1}}},
    "budget": {"runs": 100},
    "track": ["grad_norm"],
    "output_dir": "x",
    "jobs": 1,
    "valid": 3,
    "checkpoint_every": "auto",
    "lr": 1,
    "draw_seed": 1,
    "retries": 1,
}
PORT = {
    "global": {"num_epochs": 3, "random_seed": 1, "data_dir": None, "print_train_iter": False},
    "test_problems": [{"name": "quadratic_deep", "num_epochs": 3}],
    "optimizers": [
        {"name": "adam", "learning_rate": 1, "beta1": 0.3, "lr_schedule": {"epochs": [1], "factors": [0.1]}}
    ],
    "overrides": {"quadratic_deep": {"adam": {"learning_rate": 0.1}}},
    "advanced": {"parallel": False},
}


def places(data: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value in dictionaries and lists."""
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        yield (*above, key)
        yield from places(value, (*above, key))


@settings(max_examples=50)
@given(st.data())
def test_whatever_is_written_is_a_study_or_a_mistake_in_one_line(data: st.DataObject) -> None:
    written = copy.deepcopy(data.draw(st.sampled_from([OURS, PORT])))
    *above, last = data.draw(st.sampled_from(list(places(written))))
    functools.reduce(lambda part, key: part[key], above, written)[last] = data.draw(ANYTHING)
    text = json.dumps(written).replace("NaN", ".nan").replace("Infinity", ".inf")
    found = said_of(text)
    if isinstance(found, str):
        assert found.startswith("study.yaml")
        assert "\n" not in found
    else:
        again = Study(**json.loads(json.dumps(found.plain())))
        assert (again, again.runs) == (found, found.runs)
        assert len(found.runs) == found.size


def said_of(text: str) -> Study | str:
    """The study of a text, expanded, or what is wrong with it."""
    try:
        made = study(text)
        assert made.runs
    except UserError as error:
        return str(error)
    return made
