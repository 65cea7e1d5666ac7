"""The global random generators of torch, NumPy and Python, which foreign code draws from: seeded, and put back."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


def generators() -> dict[str, bytes]:
    """The states of the global generators."""
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": pickle.dumps(np.random.get_state(legacy=False)),
        "Python": pickle.dumps(random.getstate()),
    }


def restore(states: dict[str, bytes]) -> None:
    """Sets the global generators as `generators` found them."""
    torch.set_rng_state(torch.frombuffer(bytearray(states["torch"]), dtype=torch.uint8))
    np.random.set_state(pickle.loads(states["NumPy"]))
    random.setstate(pickle.loads(states["Python"]))


def seed(words: Sequence[int]) -> None:
    """Seeds all of them from two words of 32 bits."""
    torch.default_generator.manual_seed(words[0] << 31 | words[1] >> 1)
    np.random.seed(words[0])
    random.seed(words[1])


@contextmanager
def kept() -> Iterator[None]:
    """Within it the generators may be seeded and drawn from; afterwards they are as before."""
    before = generators()
    try:
        yield
    finally:
        restore(before)


@contextmanager
def seeded(words: Sequence[int]) -> Iterator[None]:
    """Within it they are seeded from two words of 32 bits; afterwards they are as before."""
    with kept():
        seed(words)
        yield
