"""Import paths of classes and functions that are given by value."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deepobs_func import optimizers, problems
from deepobs_func.errors import ConfigError
from deepobs_func.imports import load_object
from deepobs_func.study.import_paths import import_path
from tests.study import user_code


@pytest.mark.parametrize("value", [torch.optim.Adam, user_code.OwnSGD, user_code.half_sgd, user_code.quadratic])
def test_the_path_leads_back_to_the_value(value: object) -> None:
    assert load_object(import_path(value, "optimizer"), "optimizer") is value


def test_a_text_is_a_path_or_a_name_already() -> None:
    assert import_path("adam", "optimizer") == "adam"


def local() -> None:
    """Replaced below by another one."""


REPLACED = local


def local() -> None:  # type: ignore[no-redef]
    """The one that the module has."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (lambda lr: None, "<lambda> of tests.study.test_import_paths is not at the top level of its module"),
        (user_code.Outer.Inner, "Outer.Inner of tests.study.user_code is not at the top level"),
        (REPLACED, "local of tests.study.test_import_paths is not at the top level"),
        (functools.partial(user_code.half_sgd, factor=0.1), "has no import path"),
        (optimizers.sgd(0.1), "has no import path"),
        (problems.get("two_d_beale"), "has no import path"),
        (3, "3 has no import path, by which worker processes could make it. Give the name of the optimizer, or"),
    ],
    ids=["lambda", "inner", "replaced", "partial", "functional", "problem", "number"],
)
def test_what_no_other_process_can_import_is_refused(value: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        import_path(value, "optimizer")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


SCRIPT = """
from deepobs_func.study.import_paths import import_path
def make(lr):
    pass
try:
    print(import_path(make, "optimizer"))
except ValueError as error:
    print(error)
"""


def test_what_a_script_defines_is_found_where_the_script_is_a_module(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}

    def said(*command: str) -> str:
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("-m", "script") == "script:make\n"
    assert said("script.py").startswith("make is defined in the script itself, where worker processes do not find it.")
