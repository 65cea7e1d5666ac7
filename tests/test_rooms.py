"""The arrows between the rooms: who may import whom."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import deepobs_func

PACKAGE = Path(deepobs_func.__file__).parent
GROUND = {"base", "tree", "random", "errors", "files", "lazy", "imports", "registry"}
DEEP = GROUND | {"backend"}
ALLOWED = {
    "base": set(),
    "errors": set(),
    "files": set(),
    "lazy": set(),
    "imports": {"errors"},
    "registry": {"errors", "imports"},
    "tree": set(),
    "random": set(),
    "backend": GROUND,
    "records": {"errors", "files", "lazy"},
    "datasets": DEEP,
    "nets": DEEP,
    "probes": DEEP,
    "optimizers": DEEP | {"probes"},
    "problems": DEEP | {"datasets", "nets", "probes", "optimizers"},
    "runner": DEEP | {"datasets", "nets", "probes", "optimizers", "problems", "records"},
    "analysis": {"errors", "files", "records"},
    "compat": DEEP | {"datasets", "nets", "probes", "optimizers", "problems", "records", "runner", "analysis"},
}
TOP = {"cli", "demo", "__init__", "__main__"}  # these may import every room


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "deepobs_func":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("deepobs_func."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("deepobs_func.")}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize(
    "path", [path for path in PACKAGE.rglob("*.py") if room_of(path) not in TOP], ids=lambda path: path.stem
)
def test_imports_follow_the_arrows(path: Path) -> None:
    room = room_of(path)
    assert imported_rooms(path) <= ALLOWED[room] | {room}


def test_every_room_has_its_arrows() -> None:
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} - TOP == set(ALLOWED)
