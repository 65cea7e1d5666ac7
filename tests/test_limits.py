"""Files and functions that can be read at one go, docstrings not counted."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import deepobs_func

PACKAGE = Path(deepobs_func.__file__).parent
FILE, FUNCTION, PROBLEM = 350, 60, 220  # lines
FILES = sorted(PACKAGE.rglob("*.py"))
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def docstring_lines(node: Documented) -> int:
    """Lines of its docstring, and of those inside."""
    return sum(
        first.end_lineno - first.lineno + 1
        for each in ast.walk(node)
        if isinstance(each, Documented) and each.body
        for first in each.body[:1]
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )


def lines_of_body(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return node.end_lineno - node.body[0].lineno + 1 - docstring_lines(node)


def test_docstrings_are_not_counted() -> None:
    (function,) = ast.parse('def f():\n    """One.\n\n    Two.\n    """\n    a = 1\n\n    return a\n').body
    assert isinstance(function, ast.FunctionDef)
    assert lines_of_body(function) == 3


def test_no_file_is_too_long() -> None:
    lines = {}
    for path in FILES:
        count = len(path.read_text(encoding="utf-8").splitlines())
        lines[str(path.relative_to(PACKAGE))] = count - docstring_lines(parsed(path))
    assert len(lines) > 100
    assert {name: count for name, count in lines.items() if count > FILE} == {}


def test_no_function_is_too_long() -> None:
    lines = {}
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines[f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"] = lines_of_body(node)
    assert {name: count for name, count in lines.items() if count > FUNCTION} == {}


def test_the_problem_is_short() -> None:
    module = ast.parse((PACKAGE / "problems" / "problem.py").read_text(encoding="utf-8"))
    (problem,) = (each for each in module.body if isinstance(each, ast.ClassDef) and each.name == "Problem")
    assert lines_of_body(problem) <= PROBLEM
