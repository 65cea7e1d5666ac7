"""Every documented name says what it does, what it takes, what it returns and what it raises."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

import deepobs_func
from deepobs_func import errors

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(deepobs_func.__path__, "deepobs_func.")
    if "__main__" not in info.name
]
USER_ERRORS = {name for name, value in vars(errors).items() if isinstance(value, type)}
SECTIONS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Source", "Formula")
SHOWN = {  # what README, docs and command line show runs as a doctest
    "deepobs_func": ("Training", "load", "run", "RunConfig", "Study"),
    "deepobs_func.optimizers": (
        *("sgd", "momentum", "nesterov", "adam", "adamw", "rmsprop", "newton_cg", "adahessian", "sophia_h", "sgd_cabs"),
        *("nadamw", "lion", "prodigy", "schedule_free_sgd", "schedule_free_adamw", "muon", "shampoo", "soap", "kfac"),
        *("ekfac", "sgd_line_search", "lbfgs", "averaging", "backtracking"),
        *("steps", "exponential", "cosine", "linear", "warm_up", "clip_by_global_norm", "clip_by_value"),
        *("weight_decay", "from_class", "from_factory", "Optimizer"),
    ),
    "deepobs_func.probes": (
        *("hvp", "ggnvp", "make_hvp", "make_ggnvp", "trace", "diagonal", "fisher_vp", "make_fisher_vp", "over"),
        *("as_curvlinops", "as_scipy", "statistics", "per_example_grads", "per_example_sq_norms", "per_example_dots"),
        *("grad_sum_of_squares", "grad_variance", "gram", "explain", "conjugate_gradients", "lanczos_eigenvalues"),
        *("spectral_density", "layer_gradients"),
    ),
    "deepobs_func.problems": ("get", "from_module"),
    "deepobs_func.datasets": ("from_arrays", "load"),
    "deepobs_func.runner": ("make_step", "make_plan", "compiled"),
    "deepobs_func.runner.callbacks": ("stop_at", "max_seconds", "JsonLines"),
    "deepobs_func.records": ("read",),
    "deepobs_func.analysis": ("load", "compare", "benchmark_table", "against_published"),
}


def own_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The public functions and classes that a module defines."""
    for name, value in vars(module).items():
        is_public = not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, type))
        if is_public and value.__module__ == module.__name__:
            yield f"{module.__name__}.{name}", value


def offered() -> Iterator[tuple[str, Any]]:
    """What every `__all__` offers; of a module without one, all that it defines."""
    for module in (deepobs_func, *MODULES):
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                yield from () if hasattr(value, "__all__") else own_names(value)
            elif inspect.isfunction(value) or isinstance(value, type):
                yield f"{value.__module__}.{value.__qualname__}", value


def is_protocol(value: type) -> bool:
    """Whether a class only says what is used of another one, which documents it."""
    return getattr(value, "_is_protocol", False)


def with_methods(names: dict[str, Any]) -> dict[str, Any]:
    """Names, and the public functions and properties of the classes among them."""
    found = dict(names)
    for name, value in names.items():
        for each, member in vars(value).items() if isinstance(value, type) else ():
            function = getattr(member, "fget", None) or getattr(member, "func", None) or member
            function = getattr(function, "__func__", function)
            if is_protocol(value) or each.startswith("_"):
                continue
            if inspect.isfunction(function) and function.__name__ == each:
                found[f"{name}.{each}"] = function
    return found


OFFERED = with_methods(dict(offered()))
PUBLIC = with_methods(dict(pair for module in MODULES for pair in own_names(module))) | OFFERED


def parsed(function: Callable[..., Any]) -> ast.FunctionDef:
    """The syntax tree of a function."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function)))).body
    assert isinstance(found, ast.FunctionDef)
    return found


def own_nodes(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """What a function itself does, without the functions that it defines."""
    pending: list[ast.AST] = list(function.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.Lambda | ast.ClassDef):
            pending += ast.iter_child_nodes(node)


def sections(doc: str) -> dict[str, str]:
    """The sections of a Google-style docstring; `""` is what stands before them."""
    parts = re.split(rf"^({'|'.join(SECTIONS)}):", doc, flags=re.MULTILINE)
    return {"": parts[0], **dict(zip(parts[1::2], parts[2::2], strict=True))}


def text(value: Any) -> str:
    """A docstring; that of the class above where a method has none."""
    return inspect.getdoc(value) or ""


def is_written(value: Any) -> bool:
    """Whether a function is written out, and not made by `dataclass`, `NamedTuple` or the like."""
    return inspect.isfunction(value) and value.__code__.co_filename.endswith(".py")


def complaints(title: str, lines: list[str]) -> str:
    """What a failure says."""
    return "\n".join([title, *lines])


def test_there_is_a_docstring() -> None:
    lacking = [name for name, value in PUBLIC.items() if not value.__doc__ and not inherits(name, value)]
    generated = [name for name, value in PUBLIC.items() if isinstance(value, type) and is_generated(value)]
    assert not lacking + generated, complaints("no docstring:", lacking + generated)


def inherits(name: str, value: Any) -> bool:
    """Whether the docstring of a method is that of a class above."""
    owner = PUBLIC.get(name.rpartition(".")[0])
    method = name.rpartition(".")[2]
    return isinstance(owner, type) and any(getattr(vars(base).get(method), "__doc__", "") for base in owner.__mro__[1:])


def is_generated(value: type) -> bool:
    """Whether a class has only the signature that `dataclass` or `NamedTuple` makes a docstring of."""
    return (value.__doc__ or "").startswith(f"{value.__name__}(")


def arguments(value: Any) -> list[str]:
    """The names of the arguments of a function, or of a class that has a constructor of its own or fields."""
    if isinstance(value, type) and (issubclass(value, BaseException) or is_protocol(value)):
        return []
    return [name for name in inspect.signature(value).parameters if name not in ("self", "cls") and name[0] != "_"]


def test_every_argument_is_documented() -> None:
    """Two or more are named in the docstring, under Args or Attributes or in the text."""
    lacking = []
    for name, value in OFFERED.items():
        given = arguments(value) if isinstance(value, type) or is_written(value) else []
        missing = [each for each in given if not re.search(rf"\b{re.escape(each)}\b", text(value))]
        if len(given) > 1 and missing:
            lacking.append(f"{name}: {', '.join(missing)}")
    assert not lacking, complaints("arguments that the docstring does not name:", lacking)


def test_every_result_is_documented() -> None:
    """Under Returns or Yields; a docstring of one paragraph without Args says it there, mostly as a formula."""
    lacking = []
    for name, value in OFFERED.items():
        if not is_written(value) or not arguments(value):
            continue
        nodes, found = list(own_nodes(parsed(value))), sections(text(value))
        gives = any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes)
        gives |= any(isinstance(node, ast.Return) and node.value is not None for node in nodes)
        is_short = "Args" not in found and "\n\n" not in found[""].partition(">>>")[0].strip()
        if gives and not is_short and not {"Returns", "Yields"} & set(found):
            lacking.append(name)
    assert not lacking, complaints("results that no section documents:", lacking)


def test_every_user_error_is_documented() -> None:
    """One that a body raises itself stands under Raises."""
    lacking = []
    for name, value in PUBLIC.items():
        function = vars(value).get("__init__") if isinstance(value, type) else value
        if not is_written(function):
            continue
        raises = [node.exc for node in own_nodes(parsed(function)) if isinstance(node, ast.Raise) and node.exc]
        raised = {getattr(call.func if isinstance(call, ast.Call) else call, "id", "") for call in raises}
        told = sections(text(value)).get("Raises", "")
        lacking += [f"{name}: {error}" for error in sorted(raised & USER_ERRORS) if error not in told]
    assert not lacking, complaints("errors that the docstring does not name:", lacking)


@pytest.mark.parametrize("package", SHOWN)
def test_what_is_shown_has_a_doctest(package: str) -> None:
    module = importlib.import_module(package)
    lacking = [name for name in SHOWN[package] if ">>> " not in (getattr(module, name).__doc__ or "")]
    assert not lacking, f"{package} shows these without an example: {', '.join(lacking)}"
