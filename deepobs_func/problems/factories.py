"""Where a problem's initial values come from: a module's own, or a function that makes a module for each key."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from deepobs_func import random
from deepobs_func.backend.generators import seeded
from deepobs_func.errors import ConfigError
from deepobs_func.problems.description import Description, describe
from deepobs_func.problems.results import said
from deepobs_func.problems.watch import is_same


@dataclass(frozen=True)
class Source:
    """The modules of a problem.

    Attributes:
        sample: one of them, which is not changed.
        start: its tensors.
        draw: `key -> tensors`, the initial values of a run.
        name: of the problem, unless it is given one.
    """

    sample: nn.Module
    start: Description
    draw: Callable[[random.Key], Description]
    name: str


def source_of(module: nn.Module | Callable[[], nn.Module]) -> Source:
    """Takes a module, or a function that makes modules, apart.

    Raises:
        ConfigError: it is neither; or the function raises, makes no module, modules of different tensors, or different
            modules under the same key.
    """
    if isinstance(module, nn.Module):
        start = describe(module)
        return Source(module, start, lambda key: start, type(module).__name__.lower())
    if not callable(module):
        raise ConfigError(
            f"A problem is made of an nn.Module, or of a function without arguments that makes one; not of {module!r}."
        )
    name = _name(module)
    sample = made(module, random.key(0))
    draw = functools.partial(_drawn, module)
    start, again, other = describe(sample), draw(random.key(0)), draw(random.key(1))
    _check_same_tensors(name, start, other)
    differing = [leaf for leaf, value in start.both.items() if not is_same(value, again.both[leaf])]
    if differing:
        raise ConfigError(
            f"The function {name} makes different modules under the same key: {differing[:3]} differ. It is called "
            "with the generators of torch, NumPy and Python seeded; it must draw from these and keep none of its own."
        )
    return Source(sample, start, draw, name.lower())


def made(make: Callable[[], nn.Module], key: random.Key) -> nn.Module:
    """A module, made while the generators of torch, NumPy and Python are seeded from a key; afterwards as before.

    Raises:
        ConfigError: the function raises, or returns no module.
    """
    with seeded(random.bits(key.cpu(), 2).tolist()):
        try:
            module: Any = make()
        except Exception as error:  # whatever a function of the user's raises
            raise ConfigError(
                f"The function {_name(make)} that makes the module raised {said(error)} It is called without "
                "arguments; give others by functools.partial."
            ) from error
    if not isinstance(module, nn.Module):
        raise ConfigError(f"The function {_name(make)} returned {type(module).__name__}; it must return an nn.Module.")
    return module


def _drawn(make: Callable[[], nn.Module], key: random.Key) -> Description:
    return describe(made(make, key))


def _check_same_tensors(name: str, one: Description, other: Description) -> None:
    """Refuses a function whose modules differ in more than values."""
    for first, second in zip(one, other, strict=True):
        shapes, others = ({leaf: tuple(each.shape) for leaf, each in tree.items()} for tree in (first, second))
        if shapes != others:
            wrong = sorted(leaf for leaf in shapes.keys() | others.keys() if shapes.get(leaf) != others.get(leaf))
            raise ConfigError(
                f"The function {name} makes modules of different tensors from call to call: {wrong[:3]}. A problem has "
                "the same parameters, of the same shapes, whatever the seed."
            )


def _name(make: Any) -> str:
    """Of a function, a class or a partial call."""
    return getattr(make, "__name__", None) or _name(getattr(make, "func", type(make)))
