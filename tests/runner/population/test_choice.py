"""Which way a population goes: what was measured decides, and memory how many train side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import RunConfig
from deepobs_func.runner import Execution, make_plan
from deepobs_func.runner.measuring import Timing
from deepobs_func.runner.plan import Plan
from deepobs_func.runner.population import choice
from deepobs_func.runner.population.choice import blocks, choose_way, most_together, seeds_at_once
from deepobs_func.runner.population.way import Shared
from deepobs_func.runner.series import Series
from deepobs_func.runner.step import Carry
from tests.runner.small import config, small_problem


def plans_of(seeds: Sequence[int], name: str = "two_d_beale", **changes: Any) -> list[Plan]:
    made = RunConfig(name, "sgd", 1.0, output_dir=None, **changes)
    plan = make_plan(made)
    return [
        dataclasses.replace(plan, config=dataclasses.replace(plan.config, seed=seed, lr=1.0 + index))
        for index, seed in enumerate(seeds)
    ]


@given(seeds=st.lists(st.integers(0, 5), min_size=1, max_size=40), most=st.integers(1, 50))
def test_every_member_is_in_one_rectangle(seeds: list[int], most: int) -> None:
    plans = plans_of(seeds)
    found = list(blocks(plans, most))
    assert sorted(member for block in found for member in block) == list(range(len(plans)))
    for block in found:
        assert len(block) <= most
        counts = {seeds[member]: sum(seeds[other] == seeds[member] for other in block) for member in block}
        assert len(set(counts.values())) == 1


def test_seeds_train_side_by_side_as_long_as_the_cache_holds_them() -> None:
    small, large = (plans_of([0], name)[0] for name in ("two_d_beale", "mnist_logreg"))
    assert seeds_at_once(small, 36) > 10
    assert seeds_at_once(large, 36) == 1
    assert [len(block) for block in blocks(plans_of([1] * 36 + [2] * 36, "mnist_logreg"), 4096)] == [36, 36]
    assert [len(block) for block in blocks(plans_of([1] * 36 + [2] * 36), 4096)] == [72]


def test_memory_bounds_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    (plan,) = plans_of([0], "mnist_mlp")
    params, state = plan.problem.init(0)
    carry = Carry(params, plan.optimizer.init(params, None), state)  # type: ignore[arg-type]  # sgd draws nothing
    monkeypatch.setattr(choice, "available_bytes", lambda device: 2**30)
    some = most_together(plan, carry)
    assert 1 < some < 100
    monkeypatch.setattr(choice, "available_bytes", lambda device: 1)
    assert most_together(plan, carry) == 1


Cost = Callable[[Execution, int], float]


def chosen(monkeypatch: pytest.MonkeyPatch, cost: Cost, members: int = 8, **changes: Any) -> Execution:
    """The choice where a step of so many members takes so long, and compiling a second."""

    def measure(self: Any, execution: Execution, plans: Sequence[Plan]) -> Timing:
        return Timing(1.0, cost(execution, len(plans)))

    monkeypatch.setattr(choice._Choice, "_measure", measure)
    monkeypatch.setattr("deepobs_func.runner.measuring.has_compiler", lambda: True)
    made = config(epochs=10_000, **changes)
    plans = [make_plan(dataclasses.replace(made, lr=0.1 + 0.01 * n), small_problem()) for n in range(members)]
    return choose_way(Shared.of(plans[0]), plans, Series(members))


def by(vmap: float, loop: float, speed: float = 4.0) -> Cost:
    """Seconds of a member by each way; compiled code is so many times faster."""

    def cost(execution: Execution, members: int) -> float:
        each = {"vmap": vmap, "loop": loop}[execution.way] * members
        return each / speed if execution.compile else each

    return cost


def test_the_faster_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, by(vmap=1e-4, loop=1e-3))
    assert (found.way, found.compile, found.members) == ("vmap", True, 8)
    assert found.repack > 0


def test_long_steps_that_are_slower_together_go_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, by(vmap=2e-2, loop=1e-2))
    assert (found.way, found.members) == ("loop", 1)


def test_where_nothing_is_compiled_eager_members_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = chosen(monkeypatch, by(vmap=1e-4, loop=1e-3), compile="off")
    assert (found.way, found.compile) == ("vmap", False)


def test_short_steps_share_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(execution: Execution, members: int) -> float:
        together = 0.1 if execution.members > 1 and execution.way == "loop" else 1.0
        return by(vmap=2e-3, loop=1e-3)(execution, members) * together

    found = chosen(monkeypatch, cost)
    assert (found.way, found.members) == ("loop", choice.IN_A_CALL)


def test_an_optimizer_of_torch_goes_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, by(vmap=1e-4, loop=1e-3), optimizer="torch.optim.SGD").way == "loop"


def test_a_way_that_fails_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(execution: Execution, members: int) -> float:
        if execution.way == "vmap":
            raise RuntimeError("no batching rule")
        return 1e-3

    assert chosen(monkeypatch, cost).way == "loop"


def test_the_choice_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    first = chosen(monkeypatch, by(vmap=1e-4, loop=1e-3))
    again = chosen(monkeypatch, by(vmap=1.0, loop=1e-3))
    assert again == first
    assert "earlier run" in again.reason
    assert chosen(monkeypatch, by(vmap=1.0, loop=1e-3), members=7).way == "loop"  # another shape


def test_compiling_counts_the_runs_to_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(self: Any, execution: Execution, plans: Sequence[Plan]) -> Timing:
        return Timing(10.0, by(vmap=1.0, loop=1e-3, speed=10)(execution, len(plans)))

    monkeypatch.setattr(choice._Choice, "_measure", measure)
    monkeypatch.setattr("deepobs_func.runner.measuring.has_compiler", lambda: True)
    plans = [make_plan(config(epochs=1000, lr=0.1 + n), small_problem()) for n in range(2)]
    shared = Shared.of(plans[0])
    assert not choose_way(shared, plans, Series(2)).compile  # 2 x 3000 steps of 1 ms
    assert choose_way(shared, plans, Series(200)).compile
