"""DeepOBS's test problems as classes, `testproblems.mnist_mlp(batch_size=128)`, and the base of one's own."""

from __future__ import annotations

import functools
from typing import Any

from deepobs_func import problems
from deepobs_func.compat.testproblems.registered import OWN_CLASSES
from deepobs_func.compat.testproblems.registered import RegisteredTestProblem as RegisteredTestProblem
from deepobs_func.compat.testproblems.testproblem import TestProblem as TestProblem
from deepobs_func.compat.testproblems.testproblem import UnregularizedTestproblem as UnregularizedTestproblem
from deepobs_func.compat.testproblems.testproblem import WeightRegularizedTestproblem as WeightRegularizedTestproblem

_BASES = ("TestProblem", "UnregularizedTestproblem", "WeightRegularizedTestproblem")


def testproblem(name: str, *args: Any, **kwargs: Any) -> RegisteredTestProblem:
    """Makes a test problem by its name.

    Args:
        name: of the problem.
        args, kwargs: of its class: `batch_size`, `weight_decay`, `device`.

    Returns:
        The test problem, which is set up at its first use.

    Raises:
        ConfigError: there is no such problem; the message has the nearest name.
    """
    problems.spec_of(name)
    return _class_of(name)(*args, **kwargs)


@functools.cache
def _class_of(name: str) -> type[RegisteredTestProblem]:
    _, _, arguments = (RegisteredTestProblem.__doc__ or "").partition("    Args:")
    about = f"The test problem {name}.\n\n    Args:{arguments}"
    base = OWN_CLASSES.get(name, RegisteredTestProblem)
    return type(name, (base,), {"name": name, "__doc__": about, "__module__": __name__})


def __getattr__(name: str) -> type[RegisteredTestProblem]:
    if name in problems.names():
        return _class_of(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The problems and what makes one: scripts of DeepOBS 1.2 list its problems by `dir`, which has no other bases."""
    return sorted(["TestProblem", "testproblem", *problems.names()])


__all__ = [*_BASES, "testproblem", *problems.names()]  # the registry's names are texts
