"""A run's id: other for another net, criterion, data or optimizer, the same for the same run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import datasets, problems, records
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig
from deepobs_func.runner.identity import machine, own_code
from deepobs_func.runner.log import Log
from deepobs_func.runner.plan import make_plan
from deepobs_func.runner.recording import make_record
from tests.runner.small import config, small_problem
from tests.runner.test_digest import Load, load  # noqa: F401  # a fixture


class Net(nn.Module):
    def __init__(self, rule: Callable[[Tensor], Tensor], factor: float = 1.0, value: float = 0.5) -> None:
        super().__init__()
        self.rule, self.factor = rule, factor
        self.layer = nn.Linear(4, 3)
        nn.init.constant_(self.layer.weight, value)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.rule(self.layer(x))


def make(
    *,
    rule: Callable[[Tensor], Tensor] = torch.relu,
    factor: float = 1.0,
    value: float = 0.5,
    smoothing: float = 0.0,
    criterion: Callable[..., Tensor] | None = None,
    correct: Callable[..., Tensor] = lambda logits, y: logits.argmax(1) == y,
    regularize: Callable[[str, Tensor], bool] = lambda name, parameter: True,
    seed: int = 0,
    net: nn.Module | None = None,
) -> Problem:
    r = np.random.RandomState(seed)
    x, y = r.normal(size=(30, 4)).astype(np.float32), np.arange(30) % 3
    return problems.from_module(
        net or Net(rule, factor, value),
        criterion or partial(F.cross_entropy, reduction="none", label_smoothing=smoothing),
        datasets.from_arrays("mine", (x[:20], y[:20]), (x[20:], y[20:])),
        correct=correct,
        regularize=regularize,
        weight_decay=0.1,
        batch_size=5,
        name="mine",
    )


def record_of(problem: Problem | None = None, **changes: object) -> records.RunRecord:
    if problem is not None:
        changes = {"problem": problem.name} | changes
    return make_record(make_plan(config(**changes), problem), Log())


def run_id(problem: Problem | None = None, **changes: object) -> str:
    return record_of(problem, **changes).extra["run_id"]


EDITED: dict[str, dict[str, Any]] = {
    "another activation": {"rule": torch.tanh},
    "a number of the module": {"factor": 2.0},
    "the initial values": {"value": 0.25},
    "an argument of the criterion": {"smoothing": 0.1},
    "another criterion": {"criterion": lambda logits, y: F.cross_entropy(logits, y, reduction="none") ** 2},
    "another correctness": {"correct": lambda logits, y: logits.argmin(1) == y},
    "another penalty": {"regularize": lambda name, parameter: name.endswith("weight")},
    "other data": {"seed": 1},
    "another structure": {"net": nn.Sequential(nn.Linear(4, 3), nn.ReLU())},
}


def test_two_problems_of_one_name_have_two_ids_and_two_folders() -> None:
    found = {edit: record_of(make(**changes)) for edit, changes in {"as it is": {}, **EDITED}.items()}
    assert len({record.extra["run_id"] for record in found.values()}) == len(found)
    assert len({records.folder_of(record, "results") for record in found.values()}) == len(found)


def test_a_problem_made_twice_has_one_id_and_one_folder() -> None:
    one, other = record_of(make()), record_of(make())
    assert one.extra["run_id"] == other.extra["run_id"]
    assert records.folder_of(one, "results") == records.folder_of(other, "results")
    assert run_id(replace(make(), epochs=7), epochs=2) == run_id(make(), epochs=2)


def test_a_named_problem_has_no_code_of_the_user_s() -> None:
    named = problems.get("cifar10_3c3d")
    assert own_code(named, None, {}) == own_code(named.with_weight_decay(0.1), None, {}) == {}
    assert own_code(replace(make(), name="cifar10_3c3d"), None, {}).keys() == {"problem"}
    assert make_record(make_plan(RunConfig("quadratic_deep", "sgd", 0.1)), Log()).extra["code"] == {}


OWN = """
import torch
class Adam(torch.optim.SGD):
    def step(self, closure=None):
        factor = 1.0
        return super().step(closure)
"""


def test_an_optimizer_and_its_edited_self(load: Load) -> None:  # noqa: F811
    """Under one import path, as after an edit of its file."""
    one, other, same = load(OWN), load(OWN.replace("1.0", "2.0")), load(OWN + "\n# a remark\n")
    found = []
    for module in (one, other, same):
        module.Adam.__module__ = one.__name__
        one.Adam = module.Adam  # type: ignore[attr-defined]
        found.append(record_of(make(), optimizer=f"{one.__name__}.Adam"))
    ids = [record.extra["run_id"] for record in found]
    folders = [records.folder_of(record, "results") for record in found]
    assert ids[0] == ids[2] != ids[1]
    assert folders[0] == folders[2] != folders[1]


def test_a_class_of_torch_and_one_of_the_user_s(load: Load) -> None:  # noqa: F811
    module: ModuleType = load(OWN)
    theirs, ours = (
        record_of(make(), optimizer="torch.optim.Adam"),
        record_of(make(), optimizer=f"{module.__name__}.Adam"),
    )
    assert (theirs.optimizer, ours.optimizer) == ("Adam", f"{module.__name__}.Adam")
    assert records.folder_of(theirs, "results").parent != records.folder_of(ours, "results").parent
    assert run_id(make(), optimizer="torch.optim.adam.Adam") == theirs.extra["run_id"]
    assert theirs.extra["code"].keys() == {"problem"}
    assert ours.extra["code"].keys() == {"problem", "optimizer"}


def test_defaults_of_a_class_are_in_record_and_name_and_may_be_given() -> None:
    record = record_of(make(), optimizer="torch.optim.Adam")
    assert record.hyperparams["betas"] == (0.9, 0.999)
    assert (record.hyperparams["amsgrad"], record.hyperparams["weight_decay"]) == (False, 0)
    name = records.setting_name(record)
    assert "__betas__(9.e-01,9.99e-01)__eps__1.e-08__" in name
    assert "amsgrad" not in name
    given = {"betas": [0.9, 0.999], "amsgrad": False, "weight_decay": 0.0}
    again = record_of(make(), optimizer="torch.optim.Adam", hyperparams=given)
    assert again.extra["run_id"] == record.extra["run_id"]
    assert records.setting_name(again) == name
    other = record_of(make(), optimizer="torch.optim.Adam", hyperparams={"amsgrad": True})
    assert "amsgrad__True" in records.setting_name(other)
    assert other.extra["run_id"] != record.extra["run_id"]


def test_a_default_that_a_class_changes_is_another_setting(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    text = "import torch\nclass Own(torch.optim.SGD):\n    def __init__(self, params, lr, rule={}):\n"
    text += "        super().__init__(params, lr)\n"
    names = set()
    for rule in (False, True, None, 0, 1, "'plain'", "(0.5, 1)"):
        cls = load(text.format(rule)).Own
        cls.__module__ = "torch.optim.own"  # so that no digest of code is in the name
        monkeypatch.setattr(torch.optim, "Own", cls, raising=False)
        names.add(records.setting_name(record_of(make(), optimizer="torch.optim.Own")))
    assert len(names) == 7


def test_hyperparameters_that_are_functions(load: Load) -> None:  # noqa: F811
    text = "import torch\nclass Own(torch.optim.SGD):\n    def __init__(self, params, lr, rule=None):\n"
    path = load(text + "        super().__init__(params, lr)\n").__name__ + ".Own"
    made = [record_of(make(), optimizer=path, hyperparams={"rule": rule}) for rule in (lambda x: x, lambda x: -x)]
    assert made[0].extra["run_id"] != made[1].extra["run_id"]
    assert records.setting_name(made[0]) != records.setting_name(made[1])


@pytest.mark.parametrize(
    ("changes", "end"),
    [
        ({}, "lr__1.e-01__protocol__default"),
        ({"protocol": "deepobs-1.1.2"}, "lr__1.e-01"),
        ({"protocol": "deepobs-1.1.2", "precision": "bf16"}, "lr__1.e-01__precision__bf16"),
        ({"precision": "bf16"}, "lr__1.e-01__protocol__default__precision__bf16"),
        ({"on_divergence": "continue"}, "lr__1.e-01__protocol__default__on_divergence__continue"),
        ({"protocol": "deepobs-1.1.2", "on_divergence": "stop"}, "lr__1.e-01__on_divergence__stop"),
        ({"protocol": "deepobs-1.1.2", "on_divergence": "continue"}, "lr__1.e-01"),
        (
            {"problem": "mnist_logreg", "data": "synthetic"},
            "lr__1.e-01__protocol__default__data__synthetic",
        ),
        ({"compile": "off", "track": "grad_norm", "seed": 3}, "lr__1.e-01__protocol__default"),
    ],
)
def test_protocol_precision_and_data_are_in_the_name(changes: dict[str, object], end: str) -> None:
    values: dict[str, Any] = {"problem": "quadratic_deep", "optimizer": "sgd", "lr": 0.1}
    made = make_record(make_plan(RunConfig(**values | changes)), Log())
    assert records.setting_name(made).partition("__batch_size__128__")[2] == end


def test_execution_id() -> None:
    here = machine(torch.device("cpu"))
    assert here["torch_threads"] == torch.get_num_threads()
    assert here["processor"]
    base = {"compile": True, "threads": 1, "reason": "measured"} | here
    found = records.execution_id(base)
    assert found == records.execution_id(base | {"reason": "given"})
    for changed in ({"compile": False}, {"threads": None}, {"torch_threads": 99}, {"torch": "1.0"}):
        assert records.execution_id(base | changed) != found


def test_what_is_asked_for_on_top_is_not_in_the_id(tmp_path: Path) -> None:
    asked = {"track": ("grad_norm",), "train_log_interval": 1, "output_dir": tmp_path, "compile": "off", "workers": 3}
    assert run_id(small_problem(), **asked) == run_id(small_problem())
