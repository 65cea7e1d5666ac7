"""Old import paths for scripts that cannot be edited: `import deepobs.pytorch` finds this package's `compat`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

from deepobs_func import problems
from deepobs_func.errors import UserError

_HOME = "deepobs_func.compat"
_MODULES = {
    "deepobs.config": "config",
    "deepobs.analyzer": "analyzer",
    "deepobs.analyzer.analyze": "analyzer",
    "deepobs.tuner": "tuner",
    "deepobs.tuner.tuner_utils": "tuner.tuner_utils",
    "deepobs.pytorch.config": "config",
    "deepobs.pytorch.datasets": "datasets",
    "deepobs.pytorch.datasets.dataset": "datasets.dataset",
    "deepobs.pytorch.runners": "runners",
    "deepobs.pytorch.runners.runner": "runners.runner",
    "deepobs.pytorch.runners.standard_runner": "runners.runner",
    "deepobs.pytorch.runners.runner_utils": "runners.runner_utils",
    "deepobs.pytorch.testproblems": "testproblems",
    "deepobs.pytorch.testproblems.testproblem": "testproblems.testproblem",
    "deepobs.pytorch.testproblems.testproblems_modules": "testproblems.testproblems_modules",
    "deepobs.pytorch.testproblems.testproblems_utils": "testproblems.testproblems_utils",
}
_ARCHITECTURES = (
    "_logreg",
    "_mlp",
    "_2c2d",
    "_3c3d",
    "_vgg",
    "_wrn",
    "_inception_v3",
    "_vae",
)  # modules of the port, in each of which a network is found
_SETTINGS = ("data_dir", "baseline_dir", "dtype")


def install() -> None:
    """Makes `deepobs` and `deepobs.pytorch`, with their modules, names of what `deepobs_func.compat` has.

    To be called before the first import of them, e.g. in a `sitecustomize.py`, or by a script of two lines that runs
    the other one. A second call changes nothing.

    Raises:
        UserError: a package `deepobs` is installed, which would be hidden.
    """
    loaded = sys.modules.get("deepobs")
    if getattr(loaded, "__deepobs_func__", False):
        return
    if loaded is not None or importlib.util.find_spec("deepobs") is not None:
        raise UserError(
            "A package deepobs is installed, which install() would hide. Uninstall it (pip uninstall deepobs), or "
            "change the import lines: from deepobs_func.compat import testproblems, datasets, runners."
        )
    modules = {"deepobs": _package("deepobs"), "deepobs.pytorch": _package("deepobs.pytorch")}
    modules |= {old: importlib.import_module(f"{_HOME}.{new}") for old, new in _MODULES.items()}
    modules |= _one_a_class()
    for old, module in modules.items():
        parent, _, name = old.rpartition(".")
        if parent in ("deepobs", "deepobs.pytorch"):
            setattr(modules[parent], name, module)
    for name in _ARCHITECTURES:  # `from deepobs.pytorch.testproblems import _mlp`
        old = f"deepobs.pytorch.testproblems.{name}"
        setattr(modules["deepobs.pytorch.testproblems"], name, modules[old])
    for setting in _SETTINGS:
        for verb in ("get", "set"):
            name = f"{verb}_{setting}"
            setattr(modules["deepobs.pytorch"], name, getattr(modules["deepobs.config"], name))
    sys.modules.update(modules)


def _package(name: str) -> ModuleType:
    values = {"__path__": [], "__deepobs_func__": True, "__version__": "1.2.0"}
    return _holding(name, values, is_package=True)


def _one_a_class() -> dict[str, ModuleType]:
    """DeepOBS has a module for each test problem and each data set, with the class of its name."""
    found: dict[str, ModuleType] = {}
    testproblems, datasets = (importlib.import_module(f"{_HOME}.{room}") for room in ("testproblems", "datasets"))
    networks = importlib.import_module(f"{_HOME}.testproblems.architectures")
    found |= {f"deepobs.pytorch.testproblems.{name}": networks for name in _ARCHITECTURES}
    for name in problems.names():
        old = f"deepobs.pytorch.testproblems.{name}"
        network = networks.of_problem(name)
        shown = {} if network is None else {network.__name__: network}
        found[old] = _holding(old, {name: getattr(testproblems, name), **shown})
    for name, cls in datasets.BY_NAME.items():
        old = f"deepobs.pytorch.datasets.{name}"
        found[old] = _holding(old, {name: cls, cls.__name__: cls})
    return found


def _holding(name: str, values: dict[str, object], *, is_package: bool = False) -> ModuleType:
    """A module of that name; with a spec, which `importlib.util.find_spec` asks of every module."""
    module = ModuleType(name, f"{name}: names of what {_HOME} has.")
    vars(module).update({"__spec__": ModuleSpec(name, None, is_package=is_package), **values})
    return module
