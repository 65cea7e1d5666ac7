"""What is around a CUDA graph, with a recording that a CPU can make: one that writes into the same memory again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from deepobs_func import optimizers, problems, random
from deepobs_func.backend.graphs import MOST_GRAPHS, Graphed
from deepobs_func.runner import make_step
from deepobs_func.runner.step import Carry


class Recorder:
    """Counts recordings and launches."""

    def __init__(self) -> None:
        self.recorded = self.launched = 0

    def __call__(self, call: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        self.recorded += 1
        held = pytree.tree_map(lambda leaf: torch.empty_like(leaf), call())

        def launch() -> None:
            self.launched += 1
            for into, found in zip(pytree.tree_leaves(held), pytree.tree_leaves(call()), strict=True):
                into.copy_(found)

        return held, launch


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


def test_results_are_values_that_later_calls_leave_alone() -> None:
    recorder = Recorder()
    graphed = Graphed(lambda pair, by: Pair(pair.first + by["by"], pair.first * pair.second), capture=recorder)
    start = Pair(torch.ones(3), torch.full((3,), 2.0))
    one = graphed(start, {"by": torch.tensor(1.0)})
    two = graphed(one, {"by": torch.tensor(10.0)})
    assert isinstance(one, Pair)
    assert [leaf.tolist() for leaf in (*start, *one, *two)] == [
        [1.0] * 3,
        [2.0] * 3,
        [2.0] * 3,
        [2.0] * 3,
        [12.0] * 3,
        [4.0] * 3,
    ]
    assert (recorder.recorded, recorder.launched) == (1, 2)


def test_what_is_fixed_is_read_where_it_lies() -> None:
    recorder = Recorder()
    graphed = Graphed(lambda data, rows: data.index_select(0, rows), fixed=[0], capture=recorder)
    data, other = torch.arange(5.0), torch.arange(5.0) + 10
    assert graphed(data, torch.tensor([1, 2])).tolist() == [1, 2]
    data += 1
    assert graphed(data, torch.tensor([0, 4])).tolist() == [1, 5]
    assert recorder.recorded == 1
    assert graphed(other, torch.tensor([0, 4])).tolist() == [10, 14]
    assert recorder.recorded == 2


def test_other_shapes_are_other_recordings_and_the_oldest_goes() -> None:
    recorder = Recorder()
    graphed = Graphed(torch.neg, capture=recorder)
    for size in range(MOST_GRAPHS + 1):
        assert graphed(torch.ones(size + 1)).shape == (size + 1,)
    assert recorder.recorded == MOST_GRAPHS + 1
    graphed(torch.ones(MOST_GRAPHS))
    assert recorder.recorded == MOST_GRAPHS + 1
    graphed(torch.ones(1))
    assert recorder.recorded == MOST_GRAPHS + 2


def test_steps_are_those_without_a_recording() -> None:
    """With a schedule and momentum, whose counters are tensors."""
    problem, key = problems.get("mnist_logreg"), random.key(0)
    optimizer = optimizers.momentum(0.1)
    step = make_step(problem, optimizer, plain=True)
    graphed = Graphed(step, capture=Recorder())
    params, state = problem.init(seed=0)
    ours = plain = Carry(params, optimizer.init(params, key), state)
    for seed in range(4):
        batch = problem.fake_batch(8, seed)
        ours, metrics = graphed(ours, batch)
        plain, expected = step(plain, batch)
        assert torch.equal(metrics.loss, expected.loss)
    assert all(torch.equal(ours.params[name], leaf) for name, leaf in plain.params.items())
    assert int(ours.opt_state.step) == 4


def test_tensors_of_another_device_are_another_recording() -> None:
    recorder = Recorder()
    graphed = Graphed(torch.neg, capture=recorder)
    for device in ("cpu", "meta", "cpu"):
        assert graphed(torch.ones(2, device=device)).device.type == device
    assert recorder.recorded == 2
