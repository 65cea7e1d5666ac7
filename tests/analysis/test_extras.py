"""Packages of the extras."""

from __future__ import annotations

import sys

import pytest

from deepobs_func.analysis.extras import need
from deepobs_func.errors import ConfigError


def test_what_is_there() -> None:
    assert need("pandas", "A table").__name__ == "pandas"


@pytest.mark.parametrize(("package", "extra"), [("pandas", "analysis"), ("plotly", "report")])
def test_what_is_missing_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, package: str, extra: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"A table needs {package}: pip install 'deepobs-func\[{extra}\]'"):
        need(package, "A table")
