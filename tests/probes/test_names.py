"""The public names of the room."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

from deepobs_func import probes


@pytest.mark.parametrize("name", probes.__all__)
def test_no_module_stands_in_the_way_of_a_name(name: str) -> None:
    """A submodule of the same name would take its place once it is imported."""
    for module in pkgutil.iter_modules(probes.__path__):
        importlib.import_module(f"{probes.__name__}.{module.name}")
    assert callable(getattr(probes, name))
