"""A digest of code and values: equal for what computes the same, different for what was edited, in every process.

Code is taken as it was loaded, not as its file now reads: by its bytecode and constants, with what it refers to
(globals, closures, defaults, bases), as far as that is the user's own. Code of an installed package counts by its name
and the package's version. Comments, docstrings, line numbers and names of files do not count.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import logging
import re
import sys
import types
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepobs_func.runner.packages import installed

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), range, slice)
_NAMED = (torch.dtype, torch.device, torch.layout, torch.memory_format, re.Pattern, PurePath, enum.Enum)
_OPAQUE = (logging.Logger, types.GeneratorType, weakref.ref, type(NotImplemented), types.FrameType)
_NOT_OF_A_CLASS = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__abstractmethods__"),
    *("__firstlineno__", "__static_attributes__", "_abc_impl"),
    "__slotnames__",  # which copyreg leaves on a class when an object of it is first pickled or reduced
}
_CACHES = ("_flat_weights", "_flat_weight_refs")  # of nn.LSTM and its like: a call by torch.func leaves others there
BLOCK = 2**24  # bytes of an array that are read at a time
_FLAGS = 0xFFF  # of code, without what `from __future__ import` sets
_LOADS, _STORES = ("LOAD_GLOBAL", "LOAD_NAME"), ("STORE_GLOBAL", "DELETE_GLOBAL")


def digest(*values: Any) -> str:
    """The SHA-256 of functions, classes, modules, tensors, arrays and plain data, and of what they refer to."""
    walk = _Walk()
    for value in values:
        walk.add(value)
    return walk.sha.hexdigest()


class _Walk:
    """One pass through everything that a value refers to; what is met again is a number."""

    def __init__(self) -> None:
        self.sha = hashlib.sha256()
        self.met: dict[int, int] = {}
        self.kept: list[Any] = []  # so that no id is given twice

    def say(self, *words: str | bytes) -> None:
        for word in words:
            data = word if isinstance(word, bytes) else word.encode(errors="surrogatepass")
            self.sha.update(len(data).to_bytes(8, "little") + data)

    def add(self, value: Any) -> None:
        if type(value) in _PLAIN or isinstance(value, _NAMED):
            self.say(type(value).__name__, repr(value))
        elif isinstance(value, tuple | frozenset):  # which of them are one object is the interpreter's affair
            self._add_new(value)
        elif id(value) in self.met:
            self.say("met", str(self.met[id(value)]))
        else:
            self.met[id(value)] = len(self.met)
            self.kept.append(value)
            self._add_new(value)

    def _add_new(self, value: Any) -> None:
        for kind, method in _METHODS:
            if isinstance(value, kind):
                method(self, value)
                return
        self._instance(value)

    def _tensor(self, value: Tensor) -> None:
        self.say(type(value).__name__, str(value.dtype), str(tuple(value.shape)), str(value.layout))
        if value.device.type != "meta":
            dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
            flat = dense.cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
            self.say(flat.view(torch.uint8).numpy().tobytes())

    def _array(self, value: np.ndarray) -> None:
        self.say("array", str(value.dtype), str(value.shape))
        if value.dtype == object:
            self._items(value.ravel().tolist())
        else:
            self.sha.update(value.nbytes.to_bytes(8, "little"))
            for block in _blocks(value):
                self.sha.update(block.tobytes())

    def _scalar(self, value: np.generic) -> None:
        self.say(str(value.dtype), repr(value.item()))

    def _items(self, values: Iterable[Any]) -> None:
        items = list(values)
        self.say(type(values).__qualname__, str(len(items)))
        for item in items:
            self.add(item)

    def _set(self, value: Iterable[Any]) -> None:
        self.say("set")
        self._items(sorted(value, key=_sort_key))

    def _mapping(self, value: Mapping[Any, Any]) -> None:
        self.say("mapping", str(len(value)))
        for key in sorted(value, key=_sort_key):
            self.add(key)
            self.add(value[key])

    def _partial(self, value: functools.partial[Any]) -> None:
        self.say("partial")
        self._items((value.func, value.args, value.keywords))

    def _method(self, value: types.MethodType) -> None:
        self.say("method")
        self._items((value.__func__, value.__self__))

    def _builtin(self, value: Any) -> None:
        self.say("builtin", str(getattr(value, "__module__", "")), value.__qualname__)
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, types.ModuleType | type):
            self.add(owner)

    def _wrapper(self, value: Any) -> None:
        self.say(type(value).__qualname__)
        self._items([getattr(value, name, None) for name in ("__wrapped__", "__func__", "func", "fget", "fset")])

    def _function(self, value: types.FunctionType) -> None:
        package = installed(value.__module__)
        if package is not None:
            self.say("function", package, value.__module__, value.__qualname__)
        else:
            self.say("function")
            self._code(value.__code__, value.__doc__)
            self._mapping(_referred(value.__code__, value.__globals__))
            self._mapping({name: item for name, item in vars(value).items() if not _is_torchs_note(name)})
        self._items((value.__defaults__, value.__kwdefaults__))
        for cell in value.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:  # a name that has no value yet
                self.say("empty")

    def _code(self, code: types.CodeType, doc: str | None = None) -> None:
        counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS)
        names = (code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self.say(code.co_code, getattr(code, "co_exceptiontable", b""), repr(counts), repr(names))
        for index, constant in enumerate(code.co_consts):
            if isinstance(constant, types.CodeType):
                self._code(constant)
            else:
                self.add(None if index == 0 and constant == doc else constant)

    def _class(self, value: type) -> None:
        package = installed(value.__module__)
        if package is not None:
            self.say("class", package, value.__module__, value.__qualname__)
            return
        self.say("class", value.__qualname__)
        self._items(value.__bases__)
        self._mapping(_own_attributes(value))

    def _module(self, value: types.ModuleType) -> None:
        package = installed(value.__name__)
        if package is not None:
            self.say("module", package, value.__name__)
            return
        own = {name: item for name, item in vars(value).items() if not name.startswith("__")}
        self._mapping({name: item for name, item in own.items() if not isinstance(item, types.ModuleType)})

    def _script(self, value: Any) -> None:
        self.say("script", re.sub(r" # [^\n]*", "", str(value.inlined_graph)))  # without the lines that it is from
        self._mapping(value.state_dict() if isinstance(value, torch.jit.ScriptModule) else {})

    def _instance(self, value: Any) -> None:
        self._class(type(value))
        if isinstance(value, _OPAQUE):
            return
        fingerprint = getattr(value, "_fingerprint", None)
        if isinstance(fingerprint, str):  # of a Hugging Face data set: of its content and what was done to it
            self.say(fingerprint)
            return
        state = _state(value)
        if state is None:
            self.say(re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value)))
        elif isinstance(value, nn.Module):  # hooks are kept by numbers that a process counts up
            kept = {name: item for name, item in state.items() if name not in _CACHES}
            self._mapping({name: list(v.values()) if "_hooks" in name and v else v for name, v in kept.items()})
        else:
            left_out = _left_out(type(value))
            self._mapping({name: item for name, item in state.items() if name not in left_out})


_METHODS: tuple[tuple[Any, Any], ...] = (
    (Tensor, _Walk._tensor),
    (np.ndarray, _Walk._array),
    (np.generic, _Walk._scalar),
    ((list, tuple), _Walk._items),
    ((set, frozenset), _Walk._set),
    ((dict, types.MappingProxyType), _Walk._mapping),
    (functools.partial, _Walk._partial),
    (types.FunctionType, _Walk._function),
    (types.MethodType, _Walk._method),
    ((types.BuiltinFunctionType, types.WrapperDescriptorType, types.MethodDescriptorType), _Walk._builtin),
    ((staticmethod, classmethod, property, functools.cached_property), _Walk._wrapper),
    (type(functools.lru_cache(len)), _Walk._wrapper),
    (types.CodeType, _Walk._code),
    ((torch.jit.ScriptModule, torch.jit.ScriptFunction), _Walk._script),
    (types.ModuleType, _Walk._module),
    (type, _Walk._class),
)


def _blocks(value: np.ndarray) -> Iterator[np.ndarray]:
    """The array in its order, some rows at a time: one on disk need not fit into memory."""
    rows = BLOCK * len(value) // max(1, value.nbytes) if value.ndim else 0
    if value.nbytes <= BLOCK:
        yield value
    else:
        yield from (value[start : start + max(1, rows)] for start in range(0, len(value), max(1, rows)))


def _sort_key(value: Any) -> str:
    return f"{type(value).__name__} {re.sub(r' at 0x[0-9a-fA-F]+', '', repr(value))}"


def _referred(code: types.CodeType, namespace: Mapping[str, Any]) -> dict[str, Any]:
    """The globals that code reads and does not set itself, and the modules that it imports."""
    instructions = list(_instructions(code))
    stored = {item.argval for item in instructions if item.opname in _STORES}
    loaded = {item.argval for item in instructions if item.opname in _LOADS} - stored
    imported = {item.argval for item in instructions if item.opname == "IMPORT_NAME"}
    found = {f"import {name}": sys.modules[name] for name in imported if name in sys.modules}
    return found | {name: namespace[name] for name in loaded if name in namespace}


def _instructions(code: types.CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _instructions(constant)


def _own_attributes(cls: type) -> dict[str, Any]:
    """What a class defines itself, without what torch puts into a class of optimizers when it is first used."""
    found = {}
    for name, value in vars(cls).items():
        inherited = next((vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)), None)
        plain = _as_defined(value)
        if name not in _NOT_OF_A_CLASS and not _is_torchs_note(name) and plain is not _as_defined(inherited):
            found[name] = plain
    return found


def _as_defined(value: Any) -> Any:
    """A `step` without the wrapper that `torch.optim.Optimizer` puts around it."""
    return value.__wrapped__ if getattr(value, "hooked", False) and hasattr(value, "__wrapped__") else value


def _is_torchs_note(name: str) -> bool:
    return name.startswith(("_torchdynamo", "_dynamo", "__torch"))


def _state(value: Any) -> dict[str, Any] | None:
    """What an object holds: its attributes and slots, or what it would be pickled as; None where nothing is known."""
    slots = {slot for cls in type(value).__mro__ for slot in _slots(cls)}
    found = {slot: getattr(value, slot) for slot in slots if hasattr(value, slot)}
    found |= {name: item for name, item in getattr(value, "__dict__", {}).items() if not _is_torchs_note(name)}
    if found:
        return found
    try:
        reduced = value.__reduce_ex__(2)
    except Exception:  # whatever an object that cannot be pickled raises
        return None
    return {"reduced": reduced if isinstance(reduced, str) else [p for p in reduced if not isinstance(p, Iterator)]}


def _left_out(cls: type) -> set[str]:
    """The fields of a dataclass of which it says that they change no number: `metadata={"in_digest": False}`."""
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {field.name for field in fields if not field.metadata.get("in_digest", True)}


def _slots(cls: type) -> tuple[str, ...]:
    slots = vars(cls).get("__slots__", ())
    return tuple(slot for slot in ((slots,) if isinstance(slots, str) else slots) if not slot.startswith("__"))
