"""Trees are a vector space. Coordinates are whole numbers, so that float64 arithmetic is exact and so are the laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import tree

SHAPES = {"b": (2, 3), "a": (), "c.weight": (4,), "empty": (0, 2)}
numbers = st.integers(-1000, 1000)


@st.composite
def trees(draw):
    return {
        name: torch.tensor(draw(st.lists(numbers, min_size=size, max_size=size)), dtype=torch.float64).reshape(shape)
        for name, shape in SHAPES.items()
        for size in [int(np.prod(shape))]
    }


def flat(vector):
    return np.concatenate([leaf.numpy().ravel() for leaf in vector.values()])


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@given(trees(), trees(), trees(), numbers, numbers)
@settings(deadline=None, max_examples=30)
def test_the_laws_of_a_vector_space(a, b, c, s, t):
    zero = tree.zeros_like(a)
    assert equal(tree.add(a, b), tree.add(b, a))
    assert equal(tree.add(tree.add(a, b), c), tree.add(a, tree.add(b, c)))
    assert equal(tree.add(a, zero), a)
    assert equal(tree.sub(a, a), zero)
    assert equal(tree.sub(a, b), tree.add(a, tree.scale(-1.0, b)))
    assert equal(tree.scale(s, tree.add(a, b)), tree.add(tree.scale(s, a), tree.scale(s, b)))
    assert equal(tree.scale(s + t, a), tree.add(tree.scale(s, a), tree.scale(t, a)))
    assert equal(tree.scale(s, tree.scale(t, a)), tree.scale(s * t, a))
    assert equal(tree.scale(1.0, a), a)


@given(trees(), trees(), trees(), numbers)
@settings(deadline=None, max_examples=30)
def test_the_laws_of_an_inner_product(a, b, c, s):
    assert tree.dot(a, b) == tree.dot(b, a)
    assert tree.dot(tree.add(tree.scale(s, a), b), c) == s * tree.dot(a, c) + tree.dot(b, c)
    assert tree.dot(a, a) >= 0
    assert tree.dot(a, b) ** 2 <= tree.dot(a, a) * tree.dot(b, b)
    assert tree.norm(a) ** 2 == pytest.approx(float(tree.dot(a, a)), rel=1e-14)


@given(trees(), trees())
@settings(deadline=None, max_examples=30)
def test_arithmetic_equals_that_of_the_flat_vectors(a, b):
    assert (flat(tree.add(a, b)) == flat(a) + flat(b)).all()
    assert (flat(tree.sub(a, b)) == flat(a) - flat(b)).all()
    assert (flat(tree.scale(0.5, a)) == 0.5 * flat(a)).all()
    assert float(tree.dot(a, b)) == flat(a) @ flat(b)
    assert float(tree.norm(a)) == pytest.approx(np.linalg.norm(flat(a)), rel=1e-14)
    assert tree.size(a) == flat(a).size
    assert (tree.flatten(a).numpy() == flat(a)).all()
    assert equal(tree.unflatten(tree.flatten(a), b), a)


@pytest.mark.parametrize("function", [tree.add, tree.sub, tree.dot, lambda a, b: tree.map(torch.add, a, b, a)])
@pytest.mark.parametrize("other", [{"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(2), "c": torch.ones(2)}])
def test_trees_with_other_keys_are_refused(function, other):
    ours = {"a": torch.ones(2), "b": torch.ones(2)}
    (odd,) = ours.keys() ^ other.keys()
    with pytest.raises(KeyError, match=f"differ in the keys .*'{odd}'"):
        function(ours, other)


def test_the_first_tree_gives_the_order():
    a = {"x": torch.tensor(1.0), "y": torch.tensor(2.0)}
    b = {"y": torch.tensor(20.0), "x": torch.tensor(10.0)}
    result = tree.sub(b, a)
    assert list(result) == ["y", "x"]
    assert [float(leaf) for leaf in result.values()] == [18.0, 9.0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [0.5, 2, torch.tensor(0.5, dtype=torch.float64)])
def test_scale_keeps_the_dtype(dtype, factor):
    # the 0-d leaf is the trap: only there does a 0-d float64 factor promote
    vector = {"matrix": torch.ones(2, 2, dtype=dtype), "scalar": torch.ones((), dtype=dtype)}
    scaled = tree.scale(factor, vector)
    assert {leaf.dtype for leaf in scaled.values()} == {dtype}
    assert all((leaf == float(factor)).all() for leaf in scaled.values())


def test_dot_is_as_exact_as_its_leaves():
    third = torch.tensor([1.0, 1.0], dtype=torch.float64) / 3
    assert tree.dot({"a": third}, {"a": third}).dtype == torch.float64
    assert float(tree.dot({"a": third}, {"a": third})) == pytest.approx(2 / 9, rel=1e-15)


def test_the_empty_tree_is_the_zero_space():
    assert tree.dot({}, {}).shape == ()
    assert float(tree.norm({})) == 0.0
    assert tree.size({}) == 0
    assert tree.add({}, {}) == {}


def test_functions_run_under_vmap():
    vectors = {"a": torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)}
    norms = torch.func.vmap(tree.norm)(vectors)
    torch.testing.assert_close(norms, vectors["a"].norm(dim=1), rtol=1e-14, atol=0.0)
