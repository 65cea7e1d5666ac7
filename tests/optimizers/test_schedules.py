"""Each schedule equals its closed form in plain Python."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from deepobs_func.optimizers import cosine, exponential, steps, warm_up
from deepobs_func.optimizers.schedules import constant

counts = st.integers(0, 300)
lengths = st.integers(1, 200)
ALL = {
    "constant": constant(),
    "steps": steps((2, 5), (0.5, 0.1)),
    "exponential": exponential(0.9, 3),
    "staircase": exponential(0.9, 3, staircase=True),
    "cosine": cosine(6, 0.1),
    "warm_up": warm_up(3, cosine(4)),
}


def at(schedule, count):
    factor = schedule(torch.tensor(count))
    assert (factor.shape, factor.dtype) == ((), torch.float64)
    return float(factor)


@given(count=counts)
@settings(deadline=None, max_examples=20)
def test_constant_is_one(count):
    assert at(constant(), count) == 1.0


@st.composite
def pieces(draw):
    boundaries = sorted(draw(st.sets(st.integers(0, 200), max_size=5)))
    factors = draw(st.lists(st.floats(0, 10), min_size=len(boundaries), max_size=len(boundaries)))
    return tuple(boundaries), tuple(factors)


@given(pieces(), counts)
@settings(deadline=None, max_examples=25)
def test_steps_hold_the_factor_of_the_last_boundary_reached(piece, count):
    expected = 1.0
    for boundary, factor in zip(*piece, strict=True):
        if count >= boundary:
            expected = factor
    assert at(steps(*piece), count) == expected


@given(st.floats(0.5, 1.5), lengths, st.booleans(), counts)
@settings(deadline=None, max_examples=25)
def test_exponential_is_a_power(decay, every, staircase, count):
    exponent = count // every if staircase else count / every
    assert at(exponential(decay, every, staircase=staircase), count) == pytest.approx(decay**exponent, rel=1e-13)


@given(lengths, st.floats(0, 1), counts)
@settings(deadline=None, max_examples=25)
def test_cosine_is_half_a_wave_and_then_constant(total, final, count):
    wave = 0.5 * (1 + math.cos(math.pi * min(count, total) / total))
    assert at(cosine(total, final), count) == pytest.approx(final + (1 - final) * wave, rel=1e-13, abs=1e-15)


def test_cosine_starts_at_one_and_ends_at_its_final_factor():
    assert at(cosine(10, 0.2), 0) == 1.0
    assert at(cosine(10, 0.2), 10) == at(cosine(10, 0.2), 1000) == pytest.approx(0.2, rel=1e-15)


@given(lengths, lengths, counts)
@settings(deadline=None, max_examples=25)
def test_warm_up_is_a_ramp_and_then_another_schedule_from_its_start(length, total, count):
    then = 0.5 * (1 + math.cos(math.pi * min(max(count - length, 0), total) / total))
    expected = (count + 1) / length if count < length else then
    assert at(warm_up(length, cosine(total)), count) == pytest.approx(expected, rel=1e-13, abs=1e-15)


@given(lengths, counts)
@settings(deadline=None, max_examples=20)
def test_warm_up_alone_goes_on_at_the_base_rate(length, count):
    assert at(warm_up(length), count) == min((count + 1) / length, 1.0)


@pytest.mark.parametrize("name", ALL)
def test_steps_under_vmap_equal_one_by_one(name):
    together = torch.func.vmap(ALL[name])(torch.arange(10))
    assert together.tolist() == pytest.approx([at(ALL[name], count) for count in range(10)], rel=1e-15)


@pytest.mark.parametrize("name", ALL)
def test_a_compiled_schedule_equals_eager_and_serves_every_step(name):
    backend = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda step: ALL[name](step), backend=backend, fullgraph=True)
    for count in range(10):
        assert float(compiled(torch.tensor(count))) == pytest.approx(at(ALL[name], count), rel=1e-15)
    assert backend.frame_count == 1


@pytest.mark.parametrize("name", ALL)
def test_schedules_are_values(name):
    # compiled steps are cached by them
    twin = copy.deepcopy(ALL[name])
    assert twin == ALL[name]
    assert hash(twin) == hash(ALL[name])
    assert [other for other, schedule in ALL.items() if schedule == twin] == [name]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: steps((1, 2), (0.1,)), "As many factors as boundaries are needed: 1 for 2"),
        (lambda: steps((2, 1), (0.1, 0.2)), r"must increase: \(2, 1\)"),
        (lambda: steps((2, 2), (0.1, 0.2)), r"must increase: \(2, 2\)"),
        (lambda: exponential(0.0), "decay > 0 and every >= 1, not 0.0 and 1"),
        (lambda: exponential(-0.5), "not -0.5 and 1"),
        (lambda: exponential(0.5, 0), "not 0.5 and 0"),
        (lambda: cosine(0), "total >= 1, not 0"),
        (lambda: warm_up(0), "length >= 1, not 0"),
    ],
)
def test_what_makes_no_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
