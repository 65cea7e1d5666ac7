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
    "analysis": {"errors", "files", "lazy", "records"},
    "study": DEEP | {"datasets", "nets", "probes", "optimizers", "problems", "records", "runner", "analysis"},
    "compat": DEEP | {"datasets", "nets", "probes", "optimizers", "problems", "records", "runner", "analysis", "study"},
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


def private_names(path: Path) -> set[str]:
    """What a module takes from other rooms that begins with an underscore: imported, or as an attribute of a module."""
    module, found, aliases = ast.parse(path.read_text(encoding="utf-8")), set(), set()
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "deepobs_func":
            same_room = (node.module or "").split(".")[1:2] == [room_of(path)]
            names = {alias.name for alias in node.names} | set((node.module or "").split("."))
            found |= {name for name in names if is_private(name) and not same_room}
            aliases |= {alias.asname or alias.name for alias in node.names if not same_room}
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            found |= {f"{node.value.id}.{node.attr}"} if is_private(node.attr) else set()
    return found


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_no_room_takes_private_names_of_another() -> None:
    found = {str(path.relative_to(PACKAGE)): private_names(path) for path in PACKAGE.rglob("*.py")}
    assert {name: names for name, names in found.items() if names} == {}
