"""A branch of a compiled `torch.cond` that changes nothing hands on what it was given, where nothing writes to it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from deepobs_func.backend.branches_pass import keep_inputs
from deepobs_func.backend.compiling import compiled
from deepobs_func.optimizers.conditional import only_if

Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]


def doubled_if(condition: Tensor, x: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
    return torch.cond(
        condition,
        lambda *given: tuple(2 * each for each in given),
        lambda *given: tuple(each.clone() for each in given),
        (x, *more),
    )


def shares(function: Function, x: Tensor, y: Tensor, due: bool = False) -> list[bool]:
    """Which results lie where an argument lies, after the pass; they are those of the function itself."""
    condition = torch.tensor(due)
    expected = function(condition, x.clone(), y.clone())
    traced = make_fx(function, tracing_mode="fake")(condition, x, y)
    keep_inputs(traced.graph)
    traced.graph.lint()
    found = traced(condition, x, y)
    torch.testing.assert_close(found, expected)
    return [any(each.data_ptr() == given.data_ptr() for given in (x, y)) for each in found]


def start() -> tuple[Tensor, Tensor]:
    return torch.arange(6.0).reshape(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize("due", [False, True])
def test_arguments_that_become_results_are_not_copied(due: bool) -> None:
    assert shares(lambda c, x, y: doubled_if(c, x, y), *start(), due=due) == [not due, not due]


OTHERS: dict[str, Function] = {
    "made in the function": lambda c, x, y: doubled_if(c, x + y),
    "no result of the function": lambda c, x, y: (doubled_if(c, x)[0] + y,),
    "written to": lambda c, x, y: (*doubled_if(c, x), torch.ops.aten.copy_.default(x, y))[:1],
    "turned": lambda c, x, y: torch.cond(
        c, lambda a: (2 * a,), lambda a: (a.t().clone(memory_format=torch.contiguous_format).t().contiguous(),), (x,)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_results_are_copies(name: str) -> None:
    assert not any(shares(OTHERS[name], *start()))


def test_a_result_that_is_read_too_is_handed_on() -> None:
    def function(condition: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        (kept,) = doubled_if(condition, x)
        return kept, kept * y

    assert shares(function, *start()) == [True, False]


@pytest.mark.large
def test_compiled_code_hands_on_what_it_does_not_change() -> None:
    def step(count: Tensor, state: dict[str, Tensor], x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        state = only_if(count % 3 == 0, lambda now: {name: leaf + x.sum() for name, leaf in now.items()}, state)
        return x * state["a"], state

    function = compiled(step)
    state = {"a": torch.ones(4, 4), "b": torch.zeros(3)}
    before = {name: leaf.clone() for name, leaf in state.items()}
    for count in range(4):
        x, given = torch.full((4, 4), float(count + 1)), state
        expected = step(torch.tensor(count), state, x)
        found, state = function(torch.tensor(count), state, x)
        torch.testing.assert_close((found, state), expected)
        for name, leaf in state.items():
            assert (leaf.data_ptr() == given[name].data_ptr()) == (count % 3 != 0)
    torch.testing.assert_close(before, {"a": torch.ones(4, 4), "b": torch.zeros(3)})
