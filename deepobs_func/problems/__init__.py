"""The test problems: specs of plain data, and `get`, which turns one into a `Problem`.

Listing the problems imports no torch; `get` does.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from deepobs_func import datasets, lazy
from deepobs_func.problems import cifar, imagenet, mnist, modern, synthetic, tolstoi
from deepobs_func.problems.spec import Deviation as Deviation
from deepobs_func.problems.spec import ProblemSpec as ProblemSpec
from deepobs_func.problems.spec import Recipe as Recipe
from deepobs_func.registry import Registry

if TYPE_CHECKING:
    from deepobs_func.problems.custom import from_module as from_module
    from deepobs_func.problems.problem import Problem as Problem

_DEEPOBS = (*mnist.SPECS, *cifar.SPECS, *imagenet.SPECS, *tolstoi.SPECS, *synthetic.SPECS)
SETS: Mapping[str, tuple[str, ...]] = {
    "deepobs": tuple(spec.name for spec in _DEEPOBS),
    "modern": tuple(spec.name for spec in modern.SPECS),
}
"""The problems of DeepOBS, and those that are this project's own, by name."""

REGISTRY = Registry(
    "problem",
    ProblemSpec,
    (*_DEEPOBS, *modern.SPECS),
    group="deepobs_func.problems",
    listing="deepobs list",
)
_PATHS = {"Problem": "deepobs_func.problems.problem:Problem", "from_module": "deepobs_func.problems.custom:from_module"}
__getattr__, __dir__, __all__ = lazy.attach(
    __name__, _PATHS, also=["Deviation", "ProblemSpec", "REGISTRY", "Recipe", "SETS", "get", "names", "spec_of"]
)


def names() -> list[str]:
    """The names of all test problems."""
    return list(REGISTRY)


def spec_of(name: str) -> ProblemSpec:
    """The spec of a test problem.

    Args:
        name: one of `names()`.

    Returns:
        The spec: plain data.

    Raises:
        ConfigError: there is no such problem; the message has the nearest name.
    """
    return REGISTRY.find(name)


@functools.cache
def get(name: str) -> Problem:
    """The test problem of a name. No files are touched.

    Args:
        name: one of `names()`.

    Returns:
        A frozen value, the same object each time.


    Raises:
        ConfigError: there is no such problem; the message has the nearest name.

    >>> problem = get("quadratic_deep")
    >>> problem.batch_size, get("quadratic_deep") is problem
    (128, True)
    """
    from deepobs_func.problems.problem import Problem

    data = spec_of(name)
    return Problem(
        name=data.name,
        dataset=datasets.spec(data.dataset),
        make_net=functools.partial(pkgutil.resolve_name(data.net), **data.net_args),
        measure=pkgutil.resolve_name(data.measure),
        weight_decay=data.weight_decay,
        separable=data.separable,
        epochs=data.epochs,
        batch_size=data.batch_size,
        deviations=data.deviations,
        regularize=pkgutil.resolve_name(data.regularize),
        compile_step=data.compile_step,
        hvp_mode=data.hvp_mode,
    )
