"""What an object holds, as a value and back."""

from __future__ import annotations

import collections
import string
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func.optimizers.snapshot import KIND, SnapshotError, decode, difference, encode
from tests.optimizers.loops import assert_plain

LEAVES = {"a": torch.nn.Parameter(torch.ones(3)), "b": torch.nn.Parameter(torch.zeros(()))}
Pair = collections.namedtuple("Pair", ["first", "second"])


class Held:
    """An object with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


KEYS = st.one_of(st.text(string.ascii_letters, max_size=3), st.integers(0, 9), st.tuples(st.integers(0, 3)))
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 5),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([torch.float32, torch.device("cpu"), np.float32(0.1), torch.Size([2, 3]), *LEAVES.values()]),
    st.integers(0, 5).map(lambda n: torch.arange(n, dtype=torch.float64) / 3),
    st.integers(0, 5).map(lambda n: torch.eye(n).to_sparse()),
    st.sampled_from(list(LEAVES.values())).map(id),
)
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.lists(inner, max_size=3).map(lambda items: collections.deque(items, maxlen=4)),
        st.tuples(inner, inner).map(lambda pair: Pair(*pair)),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict),
        st.dictionaries(KEYS, inner, max_size=3).map(lambda items: collections.defaultdict(dict, items)),
        st.sets(st.integers(0, 9), max_size=3),
        st.dictionaries(st.sampled_from(["x", "y", "is"]), inner).map(lambda items: Held(**items)),
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(value=NESTED, twin=NESTED)
def test_what_is_restored_is_what_was_encoded(value: Any, twin: Any) -> None:
    """Whatever the new object has in its place."""
    tree = encode(Held(part=value), LEAVES)
    assert_plain(tree)
    restored = decode(tree, Held(part=twin), LEAVES, [__name__])
    assert type(restored.part) is type(value)
    assert difference(encode(restored, LEAVES), tree) is None


def test_a_snapshot_has_copies() -> None:
    held = Held(mean=torch.zeros(2), rows=[torch.ones(1)])
    tree, other = encode(held, LEAVES), Held()
    held.mean.add_(1)
    held.rows.append(torch.ones(1))
    decode(tree, other, LEAVES, [__name__])
    other.mean.sub_(1)
    assert (tree["attributes"]["mean"] == 0).all()
    assert len(tree["attributes"]["rows"]) == 1


def test_what_is_shared_stays_shared_and_a_circle_stays_closed() -> None:
    held = Held(state={"mean": torch.zeros(2)})
    held.same, held.mean, held.self = held.state, held.state["mean"], held
    restored = decode(encode(held, LEAVES), Held(state={}), LEAVES, [__name__])
    assert restored.same is restored.state
    assert restored.mean is restored.state["mean"]
    assert restored.self is restored


def test_functions_are_those_of_the_new_object_and_generators_go_on() -> None:
    first, second = Held(f=len, draw=torch.Generator().manual_seed(3)), Held(f=max, draw=torch.Generator())
    torch.rand(5, generator=first.draw)
    restored = decode(encode(first, LEAVES), second, LEAVES, [__name__])
    assert restored.f is max
    assert torch.equal(torch.rand(4, generator=restored.draw), torch.rand(4, generator=first.draw))


def test_objects_of_other_packages_are_not_made() -> None:
    tree = encode(Held(other=Held(x=1)), LEAVES)
    with pytest.raises(SnapshotError, match=r"other is a tests.optimizers.test_snapshot.Held, which a newly construct"):
        decode(tree, Held(), LEAVES, ["elsewhere.optim"])


@pytest.mark.parametrize(
    ("a", "b", "place"),
    [
        ([1, {"x": torch.zeros(2)}], [1, {"x": torch.ones(2)}], "[1].x"),
        ({"x": [1.0]}, {"x": [1]}, "x[0]"),
        ({"x": 1}, {"y": 1}, ""),
        ([1], [1, 2], ""),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), ""),
    ],
)
def test_the_place_of_a_difference(a: Any, b: Any, place: str) -> None:
    assert difference(a, b) == place
    assert difference(a, a) is None


def test_what_stays_on_the_processor_comes_back_to_it() -> None:
    """The parameters are elsewhere, where the tree of a checkpoint is moved as a whole."""
    leaves = {"w": torch.empty(2, device="meta")}
    held = {"count": torch.tensor(3.0)}
    tree = encode(held, leaves)
    assert tree["count"] == {KIND: "host", "value": torch.tensor(3.0)}
    restored = decode(tree, {}, leaves, [])
    assert restored["count"].device.type == "cpu"
    assert restored["count"].item() == 3.0
    assert isinstance(encode(held, {"w": torch.empty(2)})["count"], torch.Tensor)
