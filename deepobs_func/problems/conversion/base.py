"""What a converted layer is: torch's own, of which a copy got another class with another `forward`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from deepobs_func.base import Outer
from deepobs_func.nets.layers import Layer
from deepobs_func.nets.noise import Draw, Place
from deepobs_func.problems.conversion.passing import current

Semantics = Literal["pure", "noise", "state", "recurrent", "attention"]
"""What is hidden in a layer: nothing; draws; buffers that a forward pass changes; kernels without second derivatives,
of recurrent nets or of attention."""


class Converted(Layer):
    """A functional replacement, mixed into the class of the layer that it replaces.

    The layer keeps its attributes, its hooks and the names of its tensors: it is the same object, of another class.
    `forward` takes what the stock layer takes; the pass is `current()`.

    Attributes:
        taken: the names of its own trained parameters whose per-example gradients its factors give, as far as a
            comparison with plain gradients has confirmed them.
        places: where it draws, by the name of the draw.
    """

    foreign = True
    taken: tuple[str, ...]
    places: dict[str, Place]

    @property
    def known(self) -> tuple[str, ...]:
        return self.taken

    def factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        return {name: found for name, found in self.all_factors(x, g).items() if name in self.taken}

    def all_factors(self, x: Tensor, g: Tensor) -> dict[str, Outer | Tensor]:
        """As `factors`, of all its own parameters."""
        return {}

    def adapt(self) -> None:
        """Sets attributes of the stock layer that choose between its ways."""

    def tapped(self, x: Tensor | Callable[[], Tensor], y: Tensor) -> Tensor:
        """Shows input and output to who listens, where that tells something of a parameter."""
        p = current()
        return y if p.tap is None or not self.taken else p.tapped(self, x, y)

    def named(self, leaf: str) -> str:
        """The name in the net of one of its own tensors."""
        return f"{self.path}.{leaf}" if self.path else leaf


@dataclass(frozen=True)
class Conversion:
    """A kind of layers, and what becomes of them.

    Attributes:
        stock: the class, or its import path where importing it costs; subclasses with the same `forward` count.
        functional: the class that is mixed in.
        semantics: what is hidden in the stock layer.
        becomes: what becomes of it, for the documentation.
        per_example: what its per-example gradient means, for the documentation.
    """

    stock: type[nn.Module] | str
    functional: type[Converted]
    semantics: Semantics
    becomes: str
    per_example: str

    def fits(self, module: nn.Module) -> bool:
        """Whether a module is of this kind: of the class or a subclass, and with its `forward`."""
        if "forward" in vars(module):
            return False
        for cls in type(module).__mro__:
            if "forward" in vars(cls):
                return cls is self.stock or f"{cls.__module__}.{cls.__qualname__}" == self.stock
        return False


@functools.cache
def joined(functional: type[Converted], stock: type[nn.Module]) -> type[nn.Module]:
    """A class with the name of the stock one."""
    return type(stock.__name__, (functional, stock), {"__module__": stock.__module__})


TEST, LATER = "test:", "#"
"""What the names of draws of the test phase begin with, and what stands before the number of a later draw."""


def place_of(key: str) -> str:
    """The place of a draw, by the name of the draw."""
    return key.removeprefix(TEST).partition(LATER)[0]


def put(x: Tensor, y: Tensor, inplace: bool) -> Tensor:
    """The result of a function that may work in place, as torch's do: it is in the input too."""
    return x.copy_(y) if inplace else y


def draw_at(name: str, draw: Draw, shape: Sequence[int], places: dict[str, Place]) -> Tensor | None:
    """What the batch holds for one draw of the pass under way; None where it holds nothing.

    Args:
        name: of the place; its second draw in a pass is `name#1`, and those of the test phase begin with `test:`.
        draw: how it is drawn.
        shape: of the draw.
        places: those that are known, by name.
    """
    p = current()
    name = name if p.train else f"{TEST}{name}"
    count = p.calls.get(name, 0)
    p.calls[name] = count + 1
    key = f"{name}{LATER}{count}" if count else name
    if p.drawn is not None:
        p.drawn[key] = draw, tuple(shape)
    noise = p.noise.get(key)
    return None if noise is None or key not in places else places[key].laid_out(noise)
