"""Digests: what computes the same has one, in every process; what was edited has another."""

from __future__ import annotations

import copy
import enum
import functools
import importlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deepobs_func.probes import hvp
from deepobs_func.runner.digest import digest
from deepobs_func.runner.packages import installed

COUNT = itertools.count()
Load = Callable[[str], ModuleType]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Imports a text as a module of the user's own, each time under another name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names = []

    def load_text(text: str) -> ModuleType:
        name = f"users_own_{next(COUNT)}"
        names.append(name)
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        return importlib.import_module(name)

    yield load_text
    for name in names:
        sys.modules.pop(name, None)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.frozensets(LEAVES, max_size=3)
    ),
    max_leaves=8,
)


def written(value: Any) -> str:
    """A slow canonical form."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{written(item)}" for key, item in value.items())) + "}"
    if isinstance(value, frozenset):
        return "set" + str(sorted(map(written, value)))
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}{[written(item) for item in value]}"
    return repr(value)


@settings(deadline=None)
@given(one=TREES, other=TREES)
def test_plain_data_are_equal_where_they_are_written_alike(one: Any, other: Any) -> None:
    assert digest(one) == digest(copy.deepcopy(one))
    assert (digest(one) == digest(other)) == (written(one) == written(other))


@settings(deadline=None)
@given(items=st.dictionaries(st.text(max_size=3), st.integers(), max_size=5), data=st.data())
def test_the_order_of_a_mapping_does_not_count(items: dict[str, int], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(items.items()))))
    assert digest(items) == digest(shuffled)


CODE = '''
import math
from dataclasses import dataclass
import torch
from torch import nn

WIDTH = 5
TABLE = {"a": [1, 2]}

def helper(x):
    """Says what it does."""
    return x * WIDTH

def made(scale):
    def inner(x):
        return helper(x) + scale
    return inner

closure = made(2.0)
twice = lambda x: x * 2

class Base:
    rate = 0.1
    def run(self, x):
        # a comment
        return helper(x) + self.rate

class Derived(Base):
    def __init__(self, depth=3, *, mode="plain"):
        self.depth, self.mode = depth, mode
    def look(self, key):
        return TABLE[key] if key in {"a", "b", "c"} else math.inf
    @staticmethod
    def still(x):
        return x - 1
    @property
    def shown(self):
        return "shown"

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
    def forward(self, x):
        return torch.relu(self.layer(x))

@dataclass(frozen=True)
class Data:
    size: int = 3
'''
EDITS = {
    "a method": ("helper(x) + self.rate", "helper(x) - self.rate", "Base"),
    "a method of a base": ("helper(x) + self.rate", "helper(x) - self.rate", "Derived"),
    "an attribute of a base": ("rate = 0.1", "rate = 0.2", "Derived"),
    "a default": ("depth=3", "depth=4", "Derived"),
    "a default by keyword": ('mode="plain"', 'mode="other"', "Derived"),
    "a global number": ("WIDTH = 5", "WIDTH = 6", "helper"),
    "a global number, two calls away": ("WIDTH = 5", "WIDTH = 6", "Derived"),
    "a global table": ("[1, 2]", "[1, 3]", "Derived"),
    "a helper": ("x * WIDTH", "x / WIDTH", "Base"),
    "a constant": ('"b", "c"', '"b", "d"', "Derived"),
    "a static method": ("x - 1", "x - 2", "Derived"),
    "a property": ('return "shown"', 'return "hidden"', "Derived"),
    "a lambda": ("x * 2", "x * 3", "twice"),
    "a closure's value": ("made(2.0)", "made(3.0)", "closure"),
    "a closure's code": ("helper(x) + scale", "helper(x) * scale", "closure"),
    "a layer's function": ("torch.relu", "torch.tanh", "Net"),
    "a base": ("class Derived(Base)", "class Derived(object)", "Derived"),
    "a field": ("size: int = 3", "size: int = 4", "Data"),
}
REMARKS = {
    "a comment": ("# a comment", "# another comment\n\n"),
    "a docstring": ("Says what it does.", "Says something else."),
    "an import from the future": ("\nimport math", "from __future__ import annotations\nimport math"),
    "space": ("WIDTH = 5", "\n\nWIDTH   =   5"),
    "an unused function": ("class Base:", "def unused(): pass\n\nclass Base:"),
}


@pytest.mark.parametrize("edit", list(EDITS))
def test_an_edit_is_seen(load: Load, edit: str) -> None:
    before, after, name = EDITS[edit]
    assert CODE.count(before) == 1
    assert digest(getattr(load(CODE), name)) != digest(getattr(load(CODE.replace(before, after)), name))


@pytest.mark.parametrize("edit", list(REMARKS))
def test_a_remark_is_not_seen(load: Load, edit: str) -> None:
    before, after = REMARKS[edit]
    assert CODE.count(before) == 1
    one, other = load(CODE), load(CODE.replace(before, after))
    for name in ("helper", "closure", "twice", "Base", "Derived", "Net"):
        assert digest(getattr(one, name)) == digest(getattr(other, name)), name


def test_a_file_that_was_edited_after_it_was_loaded_does_not_count(load: Load) -> None:
    module = load(CODE)
    before = digest(module.Derived)
    Path(module.__file__).write_text(CODE.replace("x - 1", "x - 2"))
    assert digest(module.Derived) == before


def test_two_lambdas_of_one_line_differ() -> None:
    one, other = (lambda x: x + 1), (lambda x: x - 1)
    assert digest(one) != digest(other)
    assert digest(one) == digest(lambda x: x + 1)


def test_a_module_of_the_user_s_that_code_calls(load: Load) -> None:
    helpers = [load(f"def rule(x):\n    return x * {factor}\n").__name__ for factor in (2, 3)]
    callers = [load(f"import {name} as helpers\ndef call(x):\n    return helpers.rule(x)\n") for name in helpers]
    assert digest(callers[0].call) != digest(callers[1].call)
    inside = [load(f"def call(x):\n    import {name} as helpers\n    return helpers.rule(x)\n") for name in helpers]
    assert digest(inside[0].call) != digest(inside[1].call)


def test_what_code_sets_itself_does_not_count(load: Load) -> None:
    module = load("calls = 0\ndef count(x):\n    global calls\n    calls += 1\n    return x\n")
    before = digest(module.count)
    module.count(1)
    assert digest(module.count) == before


def test_recursion_ends(load: Load) -> None:
    text = "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    assert digest(load(text).even) == digest(load(text).even)
    assert digest(load(text).even) != digest(load(text.replace("n != 0", "n > 0")).even)
    ring: list[Any] = [1]
    ring.append(ring)
    assert digest(ring) == digest(ring)


def power(x: float, n: int) -> float:
    return x**n


class Colour(enum.Enum):
    RED = 1


class Slots:
    __slots__ = ("value",)

    def __init__(self, value: int) -> None:
        self.value = value


class Adder:
    def __init__(self, value: int) -> None:
        self.value = value

    def add(self, x: int) -> int:
        return x + self.value


DIFFERENT = {
    "arguments of a partial": (functools.partial(power, n=2), functools.partial(power, n=3)),
    "function of a partial": (functools.partial(power, 2), functools.partial(max, 2)),
    "owner of a method": (Adder(1).add, Adder(2).add),
    "slots": (Slots(1), Slots(2)),
    "attributes": (Adder(1), Adder(2)),
    "dates": (date(2026, 1, 1), date(2026, 1, 2)),
    "values": (torch.zeros(3), torch.ones(3)),
    "shape": (torch.zeros(3), torch.zeros(3, 1)),
    "type": (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    "a sign of zero": (torch.zeros(1), -torch.zeros(1)),
    "shapes on meta": (torch.zeros(3, device="meta"), torch.zeros(4, device="meta")),
    "arrays": (np.zeros(3), np.ones(3)),
    "arrays of objects": (np.array([None, "a"]), np.array([None, "b"])),
    "numbers of NumPy's": (np.float32(1), np.float64(1)),
    "installed functions": (torch.relu, torch.tanh),
    "installed Python functions": (nn.functional.cross_entropy, nn.functional.nll_loss),
    "installed classes": (torch.optim.Adam, torch.optim.AdamW),
    "options of layers": (nn.LeakyReLU(0.1), nn.LeakyReLU(0.2)),
    "kinds of layers": (nn.ReLU(), nn.Tanh()),
    "training and evaluation": (nn.ReLU(), nn.ReLU().eval()),
    "an enumeration and its value": (Colour.RED, 1),
    "a method of a builtin": ({"a": 1}.get, {"a": 2}.get),
}


@pytest.mark.parametrize("kind", list(DIFFERENT))
def test_values_that_differ(kind: str) -> None:
    one, other = DIFFERENT[kind]
    assert digest(one) == digest(one)
    assert digest(one) != digest(other)


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated:DeprecationWarning")
def test_scripts_that_differ() -> None:
    def traced(factor: float) -> Any:
        return torch.jit.trace(lambda x: x * factor, torch.ones(2))

    assert digest(traced(2.0)) == digest(traced(2.0))
    assert digest(traced(2.0)) != digest(traced(3.0))
    assert digest(torch.jit.trace(nn.ReLU(), torch.ones(2))) != digest(torch.jit.trace(nn.Tanh(), torch.ones(2)))


def test_hooks_count_and_their_numbers_do_not() -> None:
    def double(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return 2 * output

    first, second = nn.ReLU(), nn.ReLU()
    before = digest(first)
    first.register_forward_hook(double)
    second.register_forward_hook(double)
    assert before != digest(first) == digest(second)


def test_a_class_is_the_same_after_its_first_use(load: Load) -> None:
    """torch puts a wrapper around the `step` of a class when its first instance is made."""
    text = "import torch\nclass Own(torch.optim.SGD):\n    {}\n"
    for body in ("pass", "def step(self, closure=None):\n        return super().step(closure)"):
        cls = load(text.format(body)).Own
        before = digest(cls)
        cls([torch.zeros(1, requires_grad=True)], lr=0.1)
        assert digest(cls) == before


def test_an_object_is_the_same_after_it_was_pickled(load: Load) -> None:
    """`copyreg` leaves a note on the class of an object without attributes, which pickling, or a digest, asks for."""
    data = load("class Own:\n    def __getitem__(self, index):\n        return index\n").Own()
    before = digest(data)
    assert digest(data) == before
    copy.copy(data)
    assert digest(data) == before


def test_a_data_set_that_keeps_what_it_read_may_name_its_content(load: Load) -> None:
    text = "class Own:\n    def __init__(self, name):\n        self._fingerprint, self.kept = name, {}\n"
    cls = load(text).Own
    data, before = cls("v1"), digest(cls("v1"))
    data.kept[0] = "an item"
    assert digest(data) == before != digest(cls("v2"))


def test_a_long_array_counts_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [np.arange(60).reshape(5, 4, 3), np.asfortranarray(np.arange(60.0).reshape(20, 3)), np.zeros((0, 3))]
    whole = [digest(array) for array in arrays]
    monkeypatch.setattr("deepobs_func.runner.digest.BLOCK", 64)
    assert [digest(array) for array in arrays] == whole
    arrays[0][-1, -1, -1] += 1
    assert digest(arrays[0]) != whole[0]


SCRIPT = """
import numpy as np, torch
from torch import nn
from deepobs_func.runner.digest import digest

class Net(nn.Module):
    names = {"a", "b", "c", "d"}
    def forward(self, x):
        return x if "a" in {"a", "b", "c", "d"} else nn.functional.relu(x)

print(found := digest(Net(), {"x", "y", "z"}, lambda x: x + 1, np.arange(3), object()))
"""


def test_the_same_in_every_process() -> None:
    here: dict[str, Any] = {"__name__": "__main__"}
    exec(SCRIPT, here)
    environment = {"PYTHONHASHSEED": "1", "PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == here["found"]


def test_packages() -> None:
    assert installed("torch.optim.adam") == "torch 2.13.0"
    assert installed("collections.abc") == installed("math") == "python"
    assert installed(hvp.__module__) == installed("deepobs_func")
    assert installed("deepobs_func").startswith("deepobs_func ")
    assert [installed(name) for name in ("__main__", __name__, "no_such_module", None)] == [None] * 4


@pytest.mark.parametrize(
    "module",
    [
        nn.LSTM(3, 2, batch_first=True),
        nn.GRU(3, 2, num_layers=2, batch_first=True),
        nn.RNN(3, 2, batch_first=True, bidirectional=True),
        nn.TransformerEncoderLayer(3, 1, 4, 0.0, batch_first=True),
        nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.LayerNorm(2)),
        nn.Conv1d(4, 2, 3),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_net_that_was_used_is_the_same(module: nn.Module) -> None:
    """A call of torch.func puts tensors in place of parameters, and takes them away again."""
    before, x = digest(module), torch.ones(5, 4, 3)
    params = dict(module.named_parameters())

    def loss(params: dict[str, torch.Tensor]) -> torch.Tensor:
        out = torch.func.functional_call(module, params, (x,))
        return (out[0] if isinstance(out, tuple) else out).sum()

    torch.func.grad(loss)(params)
    loss(params).backward()
    module.zero_grad()
    assert digest(module) == before
