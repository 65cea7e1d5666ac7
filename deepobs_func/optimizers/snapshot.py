"""An object that changes in place, as a value: what it holds is encoded, and put back into a new object of its kind.

A `torch.optim.Optimizer` is a graph of dictionaries, lists, tensors and objects, in which the parameters are keys and
values. `state_dict` has a part of it: a class may keep more in attributes of its own, and `load_state_dict` casts
what it restores to the dtype of the parameters. So the whole graph is walked. The snapshot is a tree of dictionaries
with string keys, lists, tensors (copies), numbers, strings and None. Restoring walks the graph of a newly constructed
object along the tree. Functions and classes are taken to be constants; they stay those of the new object.
"""

from __future__ import annotations

import importlib
import types
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

KIND = "is"  # the key that marks a dictionary of the tree as something else than a dictionary
_CONSTANTS = (type, types.FunctionType, types.MethodType, types.BuiltinFunctionType, types.ModuleType)
_HOOKS = "_optimizer_"  # the hooks of an optimizer are functions under keys that differ from instance to instance
_ABSENT: Any = object()  # nothing is in this place of the new object
_FACTORIES: dict[str, type] = {factory.__name__: factory for factory in (dict, list, int, float)}


class SnapshotError(Exception):
    """Something cannot be had as a value; the message names it and its place."""


def encode(root: Any, leaves: Mapping[str, Tensor]) -> Any:
    """The tree of what an object holds.

    Args:
        root: the object.
        leaves: tensors that are not part of it, by name: the parameters.

    Raises:
        SnapshotError: something in it is neither data nor an object with attributes.
    """
    return _Encoder(leaves)(root, "")


def decode(tree: Any, root: Any, leaves: Mapping[str, Tensor], packages: Iterable[str]) -> Any:
    """Puts a tree back into a newly constructed object, in place where there is something, and returns it.

    Args:
        tree: of `encode`.
        root: the new object.
        leaves: its parameters.
        packages: whose classes may be instantiated for objects that the new one does not have yet, beside torch's.

    Raises:
        SnapshotError: the object lacks something that the tree does not hold.
    """
    return _Decoder(leaves, packages)(tree, root, "")


class _Encoder:
    def __init__(self, leaves: Mapping[str, Tensor]) -> None:
        self._names = {id(leaf): name for name, leaf in leaves.items()}
        self._storages = {leaf.untyped_storage().data_ptr(): name for name, leaf in leaves.items()}
        self._leaves = leaves
        self._on_cpu = all(leaf.device.type == "cpu" for leaf in leaves.values())
        self._seen: dict[int, int] = {}
        self._memory: dict[int, list[tuple[int, int, str]]] = {}  # of each storage: from, to, whose
        self._held: list[Any] = []  # as long as ids are compared

    def __call__(self, value: Any, place: str) -> Any:
        if id(value) in self._names:
            return {KIND: "parameter", "name": self._names[id(value)]}
        if isinstance(value, int) and value in self._names:  # some classes know a parameter by its id
            return {KIND: "id", "name": self._names[value]}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.generic):
            return {KIND: "numpy", "dtype": value.dtype.name, "value": value.item()}
        if isinstance(value, (torch.dtype, torch.device)):
            return {KIND: type(value).__name__, "name": str(value).removeprefix("torch.")}
        if _is_constant(value):
            return {KIND: "constant"}
        if id(value) in self._seen:
            return {KIND: "seen", "index": self._seen[id(value)]}
        self._seen[id(value)] = len(self._held)
        self._held.append(value)
        return self._new(value, place)

    def _new(self, value: Any, place: str) -> Any:
        """What has an identity of its own, when it is seen first."""
        if isinstance(value, Tensor):
            return self._tensor(value, place)
        if isinstance(value, torch.Generator):
            return {KIND: "generator", "state": value.get_state(), "device": str(value.device)}
        if isinstance(value, dict):
            return self._dict(value, place)
        if isinstance(value, (list, tuple, deque, set, frozenset)):
            items = [self(item, f"{place}[{index}]") for index, item in enumerate(value)]
            if type(value) is list:
                return items
            if isinstance(value, (set, frozenset)):
                items.sort(key=repr)  # the order of a set is not its own
            if type(value) in (tuple, set, frozenset):
                return {KIND: type(value).__name__, "items": items}
            if isinstance(value, deque):
                return {KIND: "deque", "items": items, "maxlen": value.maxlen}
            return {KIND: "sequence", "class": _path(value), "items": items}
        if hasattr(value, "__dict__") and not hasattr(type(value), "__next__"):
            return {KIND: "object", "class": _path(value), "attributes": self.attributes(value, place)}
        raise SnapshotError(f"{place} is a {type(value).__name__}")

    def attributes(self, value: Any, place: str) -> dict[str, Any]:
        """Those of an object, except for an optimizer's hooks."""
        found = {name: held for name, held in vars(value).items() if not name.startswith(_HOOKS)}
        return {name: self(held, f"{place}.{name}") for name, held in found.items()}

    def _tensor(self, value: Tensor, place: str) -> Any:
        if value.layout is torch.sparse_coo:
            parts = value._indices().clone(), value._values().detach().clone()
            return {KIND: "sparse", "parts": list(parts), "size": list(value.shape), "coalesced": value.is_coalesced()}
        if value.layout is not torch.strided:
            raise SnapshotError(f"{place} is a tensor with the layout {value.layout}")
        name = self._storages.get(value.untyped_storage().data_ptr()) if value.numel() else None
        if name is None:
            self._check_memory(value, place)
            copy = value.detach().clone()
            # Adam's count of steps stays there while its moments are on a GPU, where the whole tree is moved to.
            return copy if self._on_cpu or copy.device.type != "cpu" else {KIND: "host", "value": copy}
        leaf = self._leaves[name]
        if (value.shape, value.stride(), value.dtype) != (leaf.shape, leaf.stride(), leaf.dtype):
            raise SnapshotError(f"{place} is a view of a part of the parameter {name!r}")
        return {KIND: "data", "name": name}

    def _check_memory(self, value: Tensor, place: str) -> None:
        """Refuses a tensor that shares memory with another: what is written to a copy does not reach the other."""
        if not value.numel():
            return
        last = sum((size - 1) * stride for size, stride in zip(value.shape, value.stride(), strict=True))
        begin = int(value.storage_offset()) * value.element_size()
        end = begin + (int(last) + 1) * value.element_size()
        others = self._memory.setdefault(value.untyped_storage().data_ptr(), [])
        for low, high, other in others:
            if begin < high and low < end:
                raise SnapshotError(f"{place} shares memory with {other}")
        others.append((begin, end, place))

    def _dict(self, value: dict[Any, Any], place: str) -> Any:
        if type(value) is dict and KIND not in value and all(type(key) is str for key in value):
            return {key: self(item, _at(place, key)) for key, item in value.items()}
        items = [[self(key, f"a key of {place}"), self(item, _at(place, key))] for key, item in value.items()]
        tree: dict[str, Any] = {KIND: "dict", "class": _path(value), "items": items}
        if isinstance(value, defaultdict):
            tree["factory"] = getattr(value.default_factory, "__name__", None)
        return tree


class _Decoder:
    def __init__(self, leaves: Mapping[str, Tensor], packages: Iterable[str]) -> None:
        tops = {package.partition(".")[0] for package in packages}
        self._leaves, self._packages = leaves, {*tops, "torch", "builtins", "collections"}
        self._made: list[Any] = []  # in the order in which the encoder saw them

    def __call__(self, tree: Any, twin: Any, place: str) -> Any:
        """The value of a tree; `twin` is what the new object has in its place."""
        if isinstance(tree, list):
            return self._list(tree, twin, place)
        if isinstance(tree, Tensor):
            return self._tensor(tree, twin)
        if not isinstance(tree, dict):
            return tree
        kind = tree.get(KIND)
        if kind is None:
            return self._filled(self._register(twin if type(twin) is dict else {}), tree.items(), place)
        return getattr(self, f"_{kind}")(tree, twin, place)

    def _register(self, value: Any) -> Any:
        self._made.append(value)
        return value

    def _parameter(self, tree: Any, twin: Any, place: str) -> Any:
        return self._leaves[tree["name"]]

    def _id(self, tree: Any, twin: Any, place: str) -> Any:
        return id(self._leaves[tree["name"]])

    def _data(self, tree: Any, twin: Any, place: str) -> Any:
        return self._register(self._leaves[tree["name"]].data)

    def _numpy(self, tree: Any, twin: Any, place: str) -> Any:
        return np.dtype(tree["dtype"]).type(tree["value"])

    def _dtype(self, tree: Any, twin: Any, place: str) -> Any:
        return getattr(torch, tree["name"])

    def _device(self, tree: Any, twin: Any, place: str) -> Any:
        return torch.device(tree["name"])

    def _seen(self, tree: Any, twin: Any, place: str) -> Any:
        return self._made[tree["index"]]

    def _constant(self, tree: Any, twin: Any, place: str) -> Any:
        if twin is _ABSENT or not _is_constant(twin):
            raise SnapshotError(f"{place} is a function that a newly constructed one does not have")
        return twin

    def _generator(self, tree: Any, twin: Any, place: str) -> Any:
        same = isinstance(twin, torch.Generator) and str(twin.device) == tree["device"]
        generator = self._register(twin if same else torch.Generator(tree["device"]))
        generator.set_state(tree["state"].cpu())
        return generator

    def _host(self, tree: Any, twin: Any, place: str) -> Tensor:
        return self._tensor(tree["value"].cpu(), twin)

    def _tensor(self, tree: Tensor, twin: Any) -> Tensor:
        if isinstance(twin, nn.Parameter) and twin.shape == tree.shape:  # of the object's own
            twin.data = tree.clone()
            return self._register(twin)
        return self._register(tree.clone())

    def _sparse(self, tree: Any, twin: Any, place: str) -> Tensor:
        indices, values = (part.clone() for part in tree["parts"])
        made = torch.sparse_coo_tensor(
            indices, values, tree["size"], is_coalesced=tree["coalesced"], check_invariants=True
        )
        return self._register(made)

    def _list(self, tree: list[Any], twin: Any, place: str) -> list[Any]:
        held = list(twin) if type(twin) is list else []
        made = self._register(twin if type(twin) is list else [])
        made[:] = self._items(tree, held, place)
        return made

    def _items(self, items: list[Any], held: list[Any], place: str) -> list[Any]:
        padded = held + [_ABSENT] * (len(items) - len(held))
        return [self(item, padded[index], f"{place}[{index}]") for index, item in enumerate(items)]

    def _immutable(self, tree: Any, twin: Any, place: str) -> Any:
        index = len(self._made)
        self._register(None)  # it cannot hold itself
        made = self._items(tree["items"], list(twin) if isinstance(twin, (tuple, list, deque)) else [], place)
        kinds: dict[str, Any] = {"tuple": tuple, "set": set, "frozenset": frozenset}
        kind = tree[KIND]
        if kind == "deque":
            self._made[index] = deque(made, maxlen=tree["maxlen"])
        else:
            cls = self._class(tree["class"], twin, place) if kind == "sequence" else kinds[kind]
            self._made[index] = cls(*made) if hasattr(cls, "_fields") else cls(made)
        return self._made[index]

    _tuple = _set = _frozenset = _deque = _sequence = _immutable

    def _dict(self, tree: Any, twin: Any, place: str) -> dict[Any, Any]:
        if _path(twin) != tree["class"]:
            cls = self._class(tree["class"], _ABSENT, place)
            twin = cls(_FACTORIES.get(tree["factory"])) if "factory" in tree else cls()
        return self._filled(self._register(twin), tree["items"], place)

    def _filled(self, made: dict[Any, Any], items: Iterable[Any], place: str) -> dict[Any, Any]:
        held = dict(made)
        made.clear()
        for key, value in items:
            known = self(key, _ABSENT, f"a key of {place}")
            made[known] = self(value, held.get(known, _ABSENT), _at(place, known))
        return made

    def _object(self, tree: Any, twin: Any, place: str) -> Any:
        cls = self._class(tree["class"], twin, place)
        made = self._register(twin if type(twin) is cls else cls.__new__(cls))
        held = dict(vars(made))
        made.__dict__.clear()  # so that the attributes have the order that the tree counts on
        made.__dict__.update({name: hook for name, hook in held.items() if name.startswith(_HOOKS)})
        for name, value in tree["attributes"].items():
            made.__dict__[name] = self(value, held.get(name, _ABSENT), f"{place}.{name}")
        return made

    def _class(self, path: str, twin: Any, place: str) -> Any:
        if twin is not _ABSENT and _path(twin) == path:
            return type(twin)
        module, _, name = path.partition(":")
        if module.partition(".")[0] not in self._packages or "<" in name:
            raise SnapshotError(f"{place} is a {path.replace(':', '.')}, which a newly constructed one does not have")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found


def difference(a: Any, b: Any, place: str = "") -> str | None:
    """The place of the first difference of two trees; None where they are equal, bit for bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        same = a.dtype == b.dtype and a.shape == b.shape and _bits_equal(a, b)
        return None if same else place
    if type(a) is not type(b):
        return place
    if isinstance(a, dict):
        if list(a) != list(b):
            return place
        found = (difference(a[key], b[key], f"{place}.{key}".lstrip(".")) for key in a)
    elif isinstance(a, list):
        if len(a) != len(b):
            return place
        found = (difference(x, y, f"{place}[{index}]") for index, (x, y) in enumerate(zip(a, b, strict=True)))
    else:
        return None if a == b or (a != a and b != b) else place  # NaN is itself
    return next((each for each in found if each is not None), None)


def _bits_equal(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point() or a.is_complex():
        return torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan())
    return torch.equal(a, b)


def _is_constant(value: Any) -> bool:
    return isinstance(value, _CONSTANTS) or (callable(value) and not hasattr(value, "__dict__"))


def _path(value: Any) -> str:
    return f"{type(value).__module__}:{type(value).__qualname__}"


def _at(place: str, key: Any) -> str:
    return f"{place}[{'a parameter' if isinstance(key, Tensor) else repr(key)}]" if place else str(key)
