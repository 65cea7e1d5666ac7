"""What is released: one version, a citation, and archives that install and work elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import deepobs_func

ROOT = Path(__file__).parents[1]
SHIPPED = ("py.typed", "analysis/published.json", "analysis/reports/assets/page.js", "compat/golden/mnist_mlp.json")
SHIPPED += ("datasets/digits.csv.gz",)
BESIDE = ("README.md", "CITATION.cff", "SECURITY.md", "RELEASING.md", "docs/command_line.md", "tests/test_packaging.py")


def test_the_version_is_in_one_place() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "deepobs_func.__version__"}
    files = [*ROOT.glob("*.*"), *ROOT.glob("deepobs_func/**/*.py")]
    said = re.compile(rf"""version["']?\s*[:=]+\s*["']{re.escape(deepobs_func.__version__)}["']|^__version__ =""", re.M)
    found = [path for path in files if path.is_file() and said.search(path.read_text(encoding="utf-8"))]
    assert found == [ROOT / "deepobs_func" / "__init__.py"]


def test_the_citation_has_what_the_format_asks_for() -> None:
    """The required keys of the Citation File Format 1.2.0; the version is elsewhere."""
    found = YAML(typ="safe").load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= found.keys()
    assert found["cff-version"] == "1.2.0"
    assert all({"title", "type", "authors"} <= reference.keys() for reference in found["references"])
    assert "version" not in found


def test_the_licences_are_those_of_all_that_is_in_the_wheel() -> None:
    """Code under MIT, and the digits, whose licence asks for their source and what was changed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "MIT AND CC-BY-4.0"
    assert project["license-files"] == ["LICENSE", "NOTICE"]
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for words in ("deepobs_func/datasets/digits.csv.gz", "Optical Recognition of Handwritten Digits", "Changes:"):
        assert words in notice
    assert "https://doi.org/10.24432/C50P49" in notice
    assert "https://creativecommons.org/licenses/by/4.0/" in notice


@pytest.mark.large  # an environment for the build, from the package index
def test_archives_install_and_work_elsewhere(tmp_path: Path) -> None:
    def python(*args: str, **more: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | more
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "build", "--outdir", str(tmp_path / "dist"), str(ROOT))
    (wheel,), (sdist,) = (list((tmp_path / "dist").glob(f"*.{kind}")) for kind in ("whl", "tar.gz"))
    python("-m", "twine", "check", "--strict", str(wheel), str(sdist))
    home = f"deepobs_func-{deepobs_func.__version__}"
    inside = set(zipfile.ZipFile(wheel).namelist())
    assert {f"deepobs_func/{name}" for name in SHIPPED} <= inside
    assert {f"{home}.dist-info/licenses/{name}" for name in ("LICENSE", "NOTICE")} <= inside
    with tarfile.open(sdist) as archive:
        assert {f"{home}/{name}" for name in BESIDE} <= set(archive.getnames())
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path / "site"), str(wheel))
    code = "import deepobs_func; print(deepobs_func.__file__)"
    assert python("-c", code, PYTHONPATH=str(tmp_path / "site")).startswith(str(tmp_path / "site"))
    run = ("-m", "deepobs_func", "run", "two_d_beale", "--optimizer", "sgd", "--lr", "1e-5", "--epochs", "1", "--quiet")
    assert "results/two_d_beale/sgd" in python(*run, PYTHONPATH=str(tmp_path / "site"))
