"""The package as a type checker of a user's sees it: every public name has a type, and the examples pass."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def pyright(folder: Path, *args: str) -> dict[str, Any]:
    """What pyright says where a copy of the package is installed, and not the checkout."""
    site = folder / "site"
    if not site.exists():
        shutil.copytree(ROOT / "deepobs_func", site / "deepobs_func", ignore=shutil.ignore_patterns("__pycache__"))
    home = str(Path(sys.executable).parent)
    environment = os.environ | {"PYTHONPATH": str(site), "PATH": f"{home}{os.pathsep}{os.environ.get('PATH', '')}"}
    words = [sys.executable, "-m", "basedpyright", "--outputjson", *args]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.lstrip().startswith("{"), done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.large
def test_every_public_name_has_a_known_type(tmp_path: Path) -> None:
    found = pyright(tmp_path, "--verifytypes", "deepobs_func", "--ignoreexternal")["typeCompleteness"]
    assert found["pyTypedPath"].startswith(str(tmp_path))
    assert found["exportedSymbolCounts"]["withKnownType"] > 4000
    unknown = [
        f"{symbol['name']}: {each['message']}"
        for symbol in found["symbols"]
        for each in symbol["diagnostics"]
        if "unknown" in each["message"]
    ]
    assert not unknown, "\n".join(unknown)
    assert found["exportedSymbolCounts"]["withUnknownType"] == 0


@pytest.mark.large
def test_the_examples_have_no_errors(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    (tmp_path / "pyrightconfig.json").write_text('{"include": ["examples"], "typeCheckingMode": "standard"}')
    found = pyright(tmp_path)
    errors = [each for each in found["generalDiagnostics"] if each["severity"] == "error"]
    assert found["summary"]["filesAnalyzed"] == len(list((ROOT / "examples").glob("*.py")))
    assert not errors, errors
