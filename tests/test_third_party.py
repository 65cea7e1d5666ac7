"""A package that adds a problem, a data set, an optimizer and a quantity by entry points, with no edit here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepobs_func import registry
from deepobs_func.datasets.spec import DatasetSpec
from deepobs_func.errors import ConfigError
from deepobs_func.registry import Registry

ROOT = Path(__file__).parents[1]
SPECS = """
from deepobs_func.datasets import DatasetSpec
from deepobs_func.optimizers import Hyperparameter, OptimizerSpec
from deepobs_func.optimizers.hyperparameters import FRACTION
from deepobs_func.probes.catalog import Quantity
from deepobs_func.problems import ProblemSpec

DATA = DatasetSpec(
    name="added_data",
    title="Added data",
    train_size=64,
    test_size=32,
    shape=(4,),
    num_classes=3,
    reader="added.code:read",
    prepare="deepobs_func.datasets.prepare:as_it_is",
    fake="deepobs_func.datasets.prepare:fake_standardized",
)
PROBLEMS = [
    ProblemSpec(
        name="added_problem",
        dataset="added_data",
        net="added.code:Net",
        measure="deepobs_func.problems.measures:cross_entropy",
        parameters=15,
        epochs=3,
        batch_size=8,
        weight_decay=0.01,
    )
]
OPTIMIZER = OptimizerSpec(
    "added_optimizer", "added.code:soft_signs", "a soft sign", {"decay": Hyperparameter(0.5, FRACTION)}
)
QUANTITY = Quantity("added_quantity", "max_j |theta_j|", per_example=False, compute="added.code:largest")
"""
CODE = """
import numpy as np
import torch
from torch import nn

from deepobs_func import tree
from deepobs_func.nets.initializers import truncated_normal
from deepobs_func.nets.layers import Dense
from deepobs_func.optimizers.transforms import Transform, compose


def read(spec, folder, split):
    r = np.random.RandomState(split == "train")
    size = spec.train_size if split == "train" else spec.test_size
    return r.normal(size=(size, *spec.shape)).astype(np.float32), r.randint(0, 3, size)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense = Dense(4, 3, truncated_normal(0.5))

    def forward(self, x, p):
        return torch.tanh(self.dense(x, p))


def soft_signs(lr, decay=0.5, *, before=(), after=(), schedule=None):
    def direction(gradient, mean, params, hyper, step):
        mean = tree.map(lambda m, g: m + (1 - hyper["decay"]).to(m.dtype) * (g - m), mean, gradient)
        return tree.map(lambda m: m / (0.1 + m.abs()), mean), mean

    rule = Transform({"decay": decay}, tree.zeros_like, direction)
    return compose(*before, rule, *after, lr=lr, schedule=schedule)


def largest(step):
    return torch.stack([leaf.abs().max() for leaf in step.before.values()]).max()
"""
USE = """
import contextlib, io, json, sys

from click.shell_completion import BashComplete

import added.specs
from deepobs_func import cli, datasets, optimizers, problems

assert "torch" not in sys.modules

def call(*args):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        sys.argv = ["deepobs", *args]
        cli.main()
    return out.getvalue()

def completed(*args):
    found = BashComplete(cli.cli, {}, "deepobs", "_DEEPOBS_COMPLETE").get_completions(list(args), "added")
    return [item.value for item in found]

found = {
    "names": [*problems.names(), *datasets.names(), *optimizers.names()],
    "list": call("list"),
    "problem": completed("run"),
    "optimizer": completed("run", "added_problem", "--optimizer"),
    "quantity": completed("run", "added_problem", "--track"),
    "help": call("run", "added_problem", "--optimizer", "added_optimizer", "--help"),
}
assert "torch" not in sys.modules
run = "added_problem --optimizer added_optimizer --lr 0.1 --decay 0.25 --epochs 2 --compile off --track added_quantity"
found["record"] = call("run", *run.split(), "--track-every", "4", "--quiet").strip()

print(json.dumps(found | generic_tests("added_ and not compiled")))
"""
GENERIC = f"""
import contextlib, json, sys

import pytest

FOLDER = {str(ROOT)!r}

class Passed:
    def __init__(self):
        self.tests = []

    def pytest_runtest_logreport(self, report):
        if report.passed and report.when == "call":
            self.tests.append(report.nodeid.rpartition("::")[2])

def generic_tests(chosen):
    passed, files = Passed(), ("problems/test_registry.py", "optimizers/test_common.py", "datasets/test_spec.py")
    options = ["-q", "-p", "no:cacheprovider", "--assert=plain", "-k", chosen]
    options += ["--rootdir", FOLDER, "-c", FOLDER + "/pyproject.toml"]
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main([*options, *(FOLDER + "/tests/" + name for name in files)], [passed])
    return {{"exit": int(code), "passed": passed.tests}}
"""
GROUPS = {
    "problems": "added.specs:PROBLEMS",
    "datasets": "added.specs:DATA",
    "optimizers": "added.specs:OPTIMIZER",
    "quantities": "added.specs:QUANTITY",
}


def install(folder: Path, name: str, entry_points: dict[str, str]) -> None:
    """What an installer writes beside a package: its metadata, by which its entry points are found."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (f"[deepobs_func.{group}]\n{name} = {path}\n" for group, path in entry_points.items())
    (info / "entry_points.txt").write_text("\n".join(groups))


def write_package(folder: Path) -> None:
    (folder / "added").mkdir(parents=True)
    (folder / "added" / "__init__.py").touch()
    (folder / "added" / "specs.py").write_text(SPECS)
    (folder / "added" / "code.py").write_text(CODE)


def outcome(code: str, home: Path) -> Any:
    """What one process with the package installed prints last."""
    write_package(home / "site")
    install(home / "site", "added", GROUPS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(home / "site"), str(ROOT)])}
    environment |= {"DEEPOBS_CACHE": str(home / "cache")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=home)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    home = tmp_path_factory.mktemp("third_party")
    result = outcome(GENERIC + USE, home)
    result["record"] = json.loads((home / result["record"]).read_text())
    return result


def test_it_is_listed_by_every_name(found: dict[str, Any]) -> None:
    assert {"added_problem", "added_data", "added_optimizer"} <= set(found["names"])
    shown = found["list"]
    assert all(name in shown for name in ("added_problem", "added_data", "added_optimizer", "decay=0.5"))
    assert "added_quantity" in shown


def test_it_is_completed_and_has_its_options(found: dict[str, Any]) -> None:
    assert found["problem"] == ["added_problem"]
    assert found["optimizer"] == ["added_optimizer"]
    assert found["quantity"] == ["added_quantity"]
    assert "--decay" in found["help"]


def test_it_runs(found: dict[str, Any]) -> None:
    record = found["record"]
    assert record["testproblem"] == "added_problem"
    assert record["hyperparams"]["decay"] == 0.25
    assert record["num_epochs"] == 2
    assert record["train_losses"][-1] < record["train_losses"][0]
    tracked = record["deepobs_func"]["tracked"]
    assert tracked["steps"] == [0, 4, 8, 12]
    assert len(set(tracked["quantities"]["added_quantity"])) == 4


def test_the_generic_tests_are_of_it_too(found: dict[str, Any]) -> None:
    assert found["exit"] == 0
    passed = {name.partition("[")[0] for name in found["passed"] if "added_" in name}
    assert {"test_loss_is_pure", "test_hessian_products_are_symmetric", "test_the_objective_falls"} <= passed
    assert {"test_a_grid_under_vmap_equals_separate_runs", "test_every_named_function_is_there"} <= passed
    assert len(found["passed"]) >= 40


@pytest.mark.large
def test_the_generic_tests_of_compiled_code_are_of_it_too(tmp_path: Path) -> None:
    found = outcome(GENERIC + 'print(json.dumps(generic_tests("added_ and compiled")))', tmp_path)
    assert found["exit"] == 0
    assert len(found["passed"]) == 2


def fresh(*own: DatasetSpec) -> Registry[DatasetSpec]:
    return Registry("data set", DatasetSpec, own, group="deepobs_func.datasets")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages; one has the data set `added_data`."""
    write_package(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_entry_points", registry._entry_points.__wrapped__)
    for name in ("added", "added.specs"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no_such_module:DATA", "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'"),
        ("added.specs:NO_SUCH", "cannot be loaded: AttributeError"),
        ("added.broken:DATA", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("added.specs:OPTIMIZER", "it must be a DatasetSpec, or a list of them"),
        ("added.specs:PROBLEMS", "it must be a DatasetSpec, or a list of them"),
    ],
)
def test_a_broken_entry_point_names_its_package(site: Path, path: str, words: str) -> None:
    (site / "added" / "broken.py").write_text("1 / 0\n")
    install(site, "broken-package", {"datasets": path})
    datasets = fresh()
    for _ in range(2):  # a registry that failed is not taken for one without entries
        with pytest.raises(ConfigError) as caught:
            list(datasets)
        assert f"package 'broken-package' (entry point broken-package = {path})" in str(caught.value)
        assert words in str(caught.value)


def test_a_broken_package_is_no_obstacle_to_our_own_names(site: Path) -> None:
    install(site, "broken-package", {"datasets": "no_such_module:DATA"})
    own = DatasetSpec("own", "Own", 1, 1, (), None, "", "", "")
    assert fresh(own).find("own") is own


def test_two_packages_with_one_name_are_both_named(site: Path) -> None:
    for package in ("first-package", "second-package"):
        install(site, package, {"datasets": GROUPS["datasets"]})
    with pytest.raises(ConfigError, match="data set 'added_data' of package") as caught:
        len(fresh())
    assert all(f"package '{name}'" in str(caught.value) for name in ("first-package", "second-package"))


def test_a_name_of_ours_is_not_replaced(site: Path) -> None:
    install(site, "first-package", {"datasets": GROUPS["datasets"]})
    own = DatasetSpec("added_data", "Own", 1, 1, (), None, "", "", "")
    with pytest.raises(ConfigError, match=r"of package 'first-package' .* has the name of one of deepobs_func\."):
        list(fresh(own))
    assert fresh(own)["added_data"] is own
