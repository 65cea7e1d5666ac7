"""Pages of the API: one for each room and each module of it that the other pages name."""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from extension.docstrings import converted

ROOMS = (
    *("deepobs_func", "problems", "problems.measures", "datasets", "probes", "probes.catalog", "optimizers"),
    *("optimizers.transforms", "runner", "runner.callbacks", "records", "study", "analysis", "analysis.intervals"),
    *("analysis.verdicts", "analysis.survival", "analysis.profiles", "analysis.ranks", "analysis.tuning_curves"),
    *("analysis.rate_sensitivity", "analysis.honesty", "analysis.published", "analysis.figures", "analysis.reports"),
    *("base", "tree", "random", "errors", "nets.layers", "nets.initializers", "compat", "compat.testproblems"),
    *("compat.testproblems.testproblems_modules", "compat.testproblems.testproblems_utils"),
    *("compat.testproblems.architectures", "compat.datasets", "compat.runners", "compat.tuner", "compat.analyzer"),
    *("compat.config", "compat.tf_weights"),
)


def module_of(room: str) -> ModuleType:
    """The module of a room."""
    return importlib.import_module("deepobs_func" if room == "deepobs_func" else f"deepobs_func.{room}")


def public(module: ModuleType) -> list[str]:
    """The functions and classes that a module offers: of its `__all__`, else those that it defines."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    ]
    return [name for name in names if is_code(getattr(module, name))]


def is_code(value: Any) -> bool:
    """Whether a value is a function or a class."""
    return inspect.isfunction(value) or inspect.isclass(value) or hasattr(value, "__wrapped__")


def pages() -> dict[str, str]:
    """The text of each page, by its path in the folder of the documentation."""
    found = {f"api/{room}.rst": page(room) for room in ROOMS}
    entries = "\n".join(f"   {room}" for room in ROOMS)
    head = "API reference\n=============\n\nEvery public name, by the room that has it.\n\n"
    found["api/index.rst"] = f"{head}.. toctree::\n   :maxdepth: 1\n\n{entries}\n"
    return found


def page(room: str) -> str:
    """The page of a room: a table of its names, each of them, and the classes that their signatures name."""
    module = module_of(room)
    title, names = module.__name__, public(module)
    lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", "", ".. list-table::", ""]
    for name in names:
        value = getattr(module, name)
        lines += [f"   * - :py:obj:`~{home(f'{title}.{name}', value)}`", f"     - {summary(value)}"]
    lines += ["", *(line for name in names for line in entry(f"{title}.{name}", getattr(module, name)))]
    others = named_by(room)
    if others:
        lines += ["Classes that these return or take", "-" * 33, ""]
        lines += [line for each in others for line in entry(f"{each.__module__}.{each.__qualname__}", each)]
    return "\n".join(lines)


def entry(path: str, value: Any) -> list[str]:
    """The directive of a name."""
    kind = "autoclass" if inspect.isclass(value) else "autofunction"
    return [f".. {kind}:: {path}", *(["   :no-index:"] if home(path, value) != path else []), ""]


def home(path: str, value: Any) -> str:
    """The path under which a name is indexed: what the package's face and a room both have is the room's."""
    package, _, name = path.partition(".")
    room = next((room for room in ROOMS[1:] if value is vars_of(room).get(name)), None)
    return f"{package}.{room}.{name}" if room else path


@functools.cache
def vars_of(room: str) -> dict[str, Any]:
    """What a room offers, by name."""
    return {name: getattr(module_of(room), name) for name in public(module_of(room))}


def summary(value: Any) -> str:
    """The first paragraph of a docstring."""
    first = (inspect.getdoc(value) or "").partition("\n\n")[0]
    return " ".join(converted([" ".join(first.split())]))


@functools.cache
def named_by(room: str) -> tuple[type, ...]:
    """The classes of this package that signatures of a room name, and that no other page has.

    Of two rooms that name one the first has it.
    """
    before = [other for other in ROOMS[1 : max(1, ROOMS.index(room))] if room != ROOMS[0]]
    taken = {id(getattr(module_of(each), name)) for each in ROOMS for name in public(module_of(each))}
    taken |= {id(each) for other in before for each in named_by(other)}
    found: dict[int, type] = {}
    for name in public(module_of(room)) if room != ROOMS[0] else ():
        value = inspect.unwrap(getattr(module_of(room), name))
        where = vars(sys.modules[value.__module__])
        for word in re.findall(r"\w+", signature(value)):
            each = where.get(word)
            if inspect.isclass(each) and each.__module__.startswith("deepobs_func.") and id(each) not in taken:
                found[id(each)] = each
    return tuple(found.values())


def as_markdown(room: str) -> str:
    """The same page as plain Markdown: signatures and docstrings as they are in the code."""
    module = module_of(room)
    lines = [f"# {module.__name__}", "", inspect.getdoc(module) or ""]
    for name in public(module):
        value = getattr(module, name)
        lines += ["", f"## {name}", "", "```text", f"{name}{signature(value)}", "", inspect.getdoc(value) or "", "```"]
    return "\n".join(lines) + "\n"


def signature(value: Any) -> str:
    """The signature of a function or class, if it has one."""
    try:
        return str(inspect.signature(value))
    except (TypeError, ValueError):
        return ""
