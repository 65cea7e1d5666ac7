import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deepobs_func import optimizers, random
from deepobs_func.errors import ConfigError
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.optimizers.clipping import clipped
from deepobs_func.optimizers.transforms import Transform, compose, no_slots
from tests.optimizers import toy

SHAPES = {"a": (2, 2), "b": (), "c": (3,)}
coordinates = st.floats(-1e6, 1e6).map(lambda value: 0.0 if abs(value) < 1e-6 else value)
vectors = st.lists(coordinates, min_size=8, max_size=8)
bounds = st.floats(1e-3, 1e3)


class FixedGradient:
    """An oracle whose gradient is given."""

    def __init__(self, grads):
        self.grad = lambda: grads


def unflat(values):
    a, b, c = torch.tensor(values, dtype=torch.float64).split([4, 1, 3])
    return {"a": a.reshape(2, 2), "b": b.reshape(()), "c": c}


def flat(vector):
    return np.concatenate([leaf.numpy().ravel() for leaf in vector.values()])


def apply(transform, direction, params=None):
    """The direction that a transform makes, seen as a step of length 1 back from zero."""
    start = unflat([0.0] * 8) if params is None else params
    optimizer = compose(transform, lr=1.0)
    after, _ = optimizer.update(FixedGradient(direction), optimizer.init(start, random.key(0)), start)
    return flat(start) - flat(after)


@given(vectors, bounds)
@settings(deadline=None, max_examples=25)
def test_clipping_by_global_norm_shortens_and_does_not_turn(values, bound):
    clipped, direction = apply(optimizers.clip_by_global_norm(bound), unflat(values)), np.array(values)
    norm = np.linalg.norm(direction)
    expected = direction * (bound / norm if norm > bound else 1.0)
    np.testing.assert_allclose(clipped, expected, rtol=1e-14)


@pytest.mark.parametrize("bound", [1e-3, 1.0])
def test_clipping_a_zero_direction_leaves_it_zero(bound):
    for any_bound in (bound, 0.0):
        assert (apply(optimizers.clip_by_global_norm(any_bound), unflat([0.0] * 8)) == 0).all()


def test_the_gradient_behind_a_clip_has_no_factors():
    seen = []

    def update(oracle, state, params):
        seen.append(oracle.gradient_factors())  # what a compiled step of K-FAC would take for the gradient
        return params, state

    class WithFactors(toy.Oracle):
        def gradient_factors(self):
            return "of the whole gradient"

    params = toy.params()
    optimizer = clipped(Optimizer(lambda params, key: (), update, True), [optimizers.clip_by_global_norm(1e-3)])
    optimizer.update(WithFactors(params), (), params)
    assert seen == [None]


@given(vectors, bounds)
@settings(deadline=None, max_examples=25)
def test_clipping_by_value_clips_every_coordinate(values, bound):
    clipped = apply(optimizers.clip_by_value(bound), unflat(values))
    assert (clipped == np.clip(values, -bound, bound)).all()


@given(vectors, vectors, st.floats(0, 1))
@settings(deadline=None, max_examples=25)
def test_weight_decay_adds_the_parameters(values, position, strength):
    moved = apply(optimizers.weight_decay(strength), unflat(values), unflat(position))
    expected = np.array(values) + strength * np.array(position)
    np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-9)  # the start is subtracted: up to 1e6


@pytest.mark.parametrize("decay_first", [True, False])
def test_transforms_are_applied_in_their_order(decay_first):
    decay, clip = optimizers.weight_decay(0.5), optimizers.clip_by_value(1.0)
    optimizer = optimizers.sgd(0.1, before=[decay, clip] if decay_first else [clip, decay])
    params = {"w": torch.tensor([4.0], dtype=torch.float64)}
    after, _ = optimizer.update(FixedGradient({"w": torch.tensor([3.0])}), optimizer.init(params, None), params)
    direction = min(3.0 + 0.5 * 4.0, 1.0) if decay_first else min(3.0, 1.0) + 0.5 * 4.0
    assert float(after["w"]) == pytest.approx(4.0 - 0.1 * direction, rel=1e-15)


def test_before_sees_the_gradient_and_after_the_direction():
    params, grads = {"w": torch.zeros(1, dtype=torch.float64)}, {"w": torch.ones(1, dtype=torch.float64)}
    steps = []
    for place in ("before", "after"):
        optimizer = optimizers.momentum(1.0, 0.5, **{place: [optimizers.clip_by_value(0.75)]})
        here, state = params, optimizer.init(params, random.key(0))
        for _ in range(2):
            here, state = optimizer.update(FixedGradient(grads), state, here)
        steps.append(float(here["w"]))
    assert steps == [-(0.75 + 1.125), -(0.75 + 0.75)]


def test_two_transforms_of_one_kind_have_a_value_each():
    clips = [optimizers.clip_by_value(1.0), optimizers.clip_by_value(0.25)]
    optimizer, start = optimizers.sgd(1.0, before=clips), {"w": torch.zeros((), dtype=torch.float64)}
    state = optimizer.init(start, random.key(0))
    assert {name: float(value) for name, value in state.hyper.items()} == {
        "lr": 1.0,
        "max_value": 1.0,
        "max_value_2": 0.25,
    }
    after, _ = optimizer.update(FixedGradient({"w": torch.tensor(3.0, dtype=torch.float64)}), state, start)
    assert float(after["w"]) == -0.25


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optimizers.sgd(-1.0), "learning rate must be positive"),
        (lambda: optimizers.momentum(0.1, momentum=1.0), "momentum is 1.0; it must be at least 0 and below 1"),
        (lambda: optimizers.adam(0.1, epsilon=-1e-8), "epsilon is -1e-08; it must be at least 0"),
        (lambda: optimizers.adam(0.1, beta2=float("nan")), "beta2 is nan; it must be a finite number"),
        (lambda: optimizers.sgd(0.1, before=[optimizers.clip_by_value(-1.0)]), "max_value is -1.0"),
    ],
)
def test_values_out_of_range_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_the_state_has_the_hyperparameters_exactly_and_counts_the_steps():
    optimizer, params = optimizers.adam(0.1, before=[optimizers.clip_by_value(0.3)]), toy.params()
    state = optimizer.init(params, random.key(0))
    values = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "max_value": 0.3}
    assert {name: float(value) for name, value in state.hyper.items()} == values
    assert {(value.shape, value.dtype) for value in state.hyper.values()} == {((), torch.float64)}
    for count in range(3):
        assert int(state.step) == count
        params, state = optimizer.update(toy.Oracle(params), state, params)


def test_one_update_function_serves_all_values_of_one_structure():
    first = optimizers.sgd(0.1, before=[optimizers.clip_by_value(1.0)], schedule=optimizers.cosine(10))
    other_values = optimizers.sgd(0.2, before=[optimizers.clip_by_value(2.0)], schedule=optimizers.cosine(10))
    other_schedule = optimizers.sgd(0.1, before=[optimizers.clip_by_value(1.0)], schedule=optimizers.cosine(11))
    assert first.update is other_values.update
    assert first.update is not other_schedule.update


def test_a_transform_of_the_users_own_joins_the_chain():
    def sign(direction, slots, params, hyper, step):
        return {name: hyper["size"] * leaf.sign() for name, leaf in direction.items()}, slots

    moved = apply(Transform({"size": 2.0}, no_slots, sign), unflat([-3.0, 0.0, 5.0] + [1.0] * 5))
    assert moved.tolist() == [-2.0, 0.0, 2.0] + [2.0] * 5


def test_no_gradient_but_the_first_is_asked_for():
    params, asked = toy.params(), []

    class Counting(toy.Oracle):
        def grad(self):
            asked.append(1)
            return super().grad()

    optimizer = optimizers.adamw(0.1, before=[optimizers.clip_by_global_norm(1.0)])
    optimizer.update(Counting(params), optimizer.init(params, random.key(0)), params)
    assert len(asked) == 1
