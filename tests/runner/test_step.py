"""The step: pure, compiled, and as a population."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.func import vmap
from torch.torch_version import TorchVersion

from deepobs_func import optimizers, problems, random
from deepobs_func.backend import compiling
from deepobs_func.backend.compiling import compiled
from deepobs_func.base import Batch
from deepobs_func.datasets.loading import Split, load
from deepobs_func.runner import step as step_module
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.step import Carry, StepInput, make_evaluate, make_gather, make_step, make_train_step
from tests.runner.small import small_problem
from tests.runner.small_nets import dropping

GRAPHS = int(TorchVersion(torch.__version__) >= "2.13")  # those that are made ahead of a call; before, none are

KEY = random.key(0)


def start(problem: problems.Problem, optimizer: optimizers.Optimizer, dtype: torch.dtype = torch.float32) -> Carry:
    params, state = problem.init(0, dtype=dtype)
    return Carry(params, optimizer.init(params, KEY), state)


def train(step: Callable[..., tuple[Carry, object]], carry: Carry, batches: list[Batch]) -> Carry:
    for batch in batches:
        carry, _ = step(carry, batch)
    return carry


@functools.cache
def hundred_batches(problem: problems.Problem) -> list[Batch]:
    return [problem.fake_batch(8, seed=index, dtype=torch.float64) for index in range(100)]


@pytest.mark.parametrize(  # every optimizer in `population/test_step.py`
    ("make", "name"), [(optimizers.adam, "quadratic_deep"), (optimizers.momentum, "two_d_rosenbrock")]
)
def test_a_member_of_a_population_is_its_own_run(make: Callable[..., optimizers.Optimizer], name: str) -> None:
    """A grid of learning rates under vmap equals separate runs, to 1e-10 after 100 steps in float64."""
    problem, lrs = problems.get(name), (1e-5, 1e-4, 1e-3)
    carries = [start(problem, make(lr), torch.float64) for lr in lrs]
    stacked = torch.utils._pytree.tree_map(lambda *leaves: torch.stack(leaves), *carries)
    step = make_step(problem, make(1.0))
    together = train(vmap(step, in_dims=(0, None)), stacked, hundred_batches(problem))
    for index, carry in enumerate(carries):
        alone = train(step, carry, hundred_batches(problem))
        for key, parameter in alone.params.items():
            torch.testing.assert_close(together.params[key][index], parameter, rtol=1e-10, atol=1e-12)


def test_a_step_changes_none_of_its_inputs() -> None:
    problem, optimizer = problems.get("quadratic_deep"), optimizers.adam(0.1)
    carry, batch = start(problem, optimizer), problem.fake_batch(8)
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves((carry, batch)) if isinstance(leaf, torch.Tensor)]
    before = [leaf.clone() for leaf in leaves]
    make_step(problem, optimizer)(carry, batch)
    assert all(torch.equal(old, new) for old, new in zip(before, leaves, strict=True))


def test_metrics_are_those_before_the_update() -> None:
    problem, optimizer = small_problem(), optimizers.sgd(0.1)
    carry, batch = start(problem, optimizer), problem.fake_batch(8)
    _, metrics = make_step(problem, optimizer)(carry, batch)
    torch.testing.assert_close(metrics.loss, problem.loss(carry.params, batch).mean())
    torch.testing.assert_close(metrics.penalty, problem.penalty(carry.params))


def test_runs_of_one_structure_share_a_step() -> None:
    problem = problems.get("quadratic_deep")
    first, second = (make_train_step(problem, optimizers.adam(lr), Execution(compile=True)) for lr in (0.1, 0.2))
    assert first is second


@pytest.mark.parametrize("name", ["quadratic_deep", pytest.param("mnist_logreg", marks=pytest.mark.large)])
def test_the_compiled_step_equals_the_eager_one(name: str) -> None:
    """With Inductor, gather and update included, over a few steps of a schedule: one graph, no recompilation."""
    problem = problems.get(name)
    optimizer = optimizers.adam(0.01, schedule=optimizers.steps((2,), (0.1,)))
    data = load(problem.dataset, "synthetic").train
    with torch._dynamo.config.patch(error_on_recompile=True):
        results = []
        for compile in (False, True):
            step = make_train_step(problem, optimizer, Execution(compile=compile))
            carry = start(problem, optimizer)
            for index in range(4):
                carry, _ = step(carry, StepInput(data, torch.arange(8)[None] + 8 * index, KEY[None]))
            results.append(carry)
    eager, compiled = results
    for key, parameter in eager.params.items():
        torch.testing.assert_close(compiled.params[key], parameter, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(compiled.opt_state, eager.opt_state, rtol=1e-3, atol=1e-5)  # the gradients' averages


def test_arguments_are_guarded_and_nothing_else() -> None:
    """A number in a state is part of the graph, and another one makes another graph; globals are taken as they are."""
    factor = {"of": 3.0}

    def scaled(state: dict[str, object]) -> object:
        return state["x"] * state["count"] * factor["of"]  # type: ignore[operator]

    counts = torch._dynamo.utils.counters["stats"]
    before = counts["unique_graphs"]
    made = compiled(scaled)
    x = torch.ones(2)
    assert [float(made({"x": x, "count": count})[0]) for count in (2, 2, 5)] == [6, 6, 15]
    assert counts["unique_graphs"] == before + 2
    factor["of"] = 4.0
    assert float(made({"x": x, "count": 5})[0]) == 15


def test_a_compiled_function_serves_other_shapes_and_other_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch._dynamo.config.recompile_limit == compiling.MOST_GRAPHS
    monkeypatch.setattr(compiling, "MOST_GRAPHS", 3)
    made = compiled(lambda x: (x["a"] ** 2).sum(-1))
    for shape in ((3,), (2, 3), (3,), (2, 3)):
        x = torch.arange(6.0)[: math.prod(shape)].view(shape)
        torch.testing.assert_close(made({"a": x}), (x**2).sum(-1))
    assert len(made._graphs) == GRAPHS * 2  # type: ignore[attr-defined]
    x = torch.arange(6.0).view(2, 3)
    torch.testing.assert_close(torch.compile(lambda x: made({"a": x}) + 1, fullgraph=True)(x), (x**2).sum(1) + 1)
    assert len(made._graphs) == GRAPHS * 2  # type: ignore[attr-defined]
    with torch._dynamo.config.patch(error_on_recompile=True), pytest.raises(torch._dynamo.exc.RecompileError):
        made({"a": torch.ones(7)})
    for size in (8, 9, 10):
        assert float(made({"a": torch.ones(size)})) == size
    assert len(made._graphs) == GRAPHS * 3  # type: ignore[attr-defined]  # torch's own way is for the others


def test_threads_compile_one_after_the_other() -> None:
    def of(number: int) -> list[float]:
        made = compiled(lambda x: torch.sin(x * number).sum(0) + number)
        return [float(each(x)) for each in (made, shared)]

    x, shared = torch.arange(3.0), compiled(lambda x: x.sum())
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(of, range(3)))
    assert found == [[pytest.approx(float(torch.sin(x * n).sum() + n), rel=1e-5), 3.0] for n in range(3)]
    assert len(shared._graphs) == GRAPHS  # type: ignore[attr-defined]
    assert float(torch.compile(lambda x: x.sum() + 1)(x)) == 4


def test_a_mistake_of_a_call_leaves_the_graphs_of_others() -> None:
    made = compiled(lambda a, b: a @ b)
    square = torch.ones(2, 2)
    made(square, square)
    with pytest.raises(Exception, match=r"size|shape"):
        made(square, torch.ones(3, 3))
    assert made(square, square).tolist() == [[2, 2], [2, 2]]
    assert (len(made._graphs), made._ahead) == (GRAPHS, bool(GRAPHS))  # type: ignore[attr-defined]


def test_what_torch_cannot_compile_ahead_of_a_call_is_compiled_by_it() -> None:
    made = compiled(lambda x: x + 1)
    with torch._inductor.config.patch(force_disable_caches=True):  # it says that it cannot do without them
        assert made(torch.ones(2)).tolist() == [2, 2]
    assert not made._ahead  # type: ignore[attr-defined]
    with pytest.raises(torch._dynamo.exc.Unsupported):  # a mistake of the function's is reported as torch does it
        compiled(lambda x: print(x))(torch.ones(2))


@pytest.mark.parametrize("name", ["mnist_mlp", "svhn_wrn164", "cifar10_resnet18_gn"])
def test_sums_are_stored_where_batch_or_group_norm_reads_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {}
    monkeypatch.setattr(torch, "compile", lambda function, options, **_: told.update(options) or function)
    compiled(lambda x: x, problems.get(name))
    assert ("realize_reads_threshold" in told) == (name != "mnist_mlp")


# That of a whole compiled step is in `test_batches.test_compiled_steps_take_the_same_streamed_batches_and_noise`, too.
@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.large)])
def test_the_noise_is_the_same_compiled_or_not(whole: bool) -> None:
    problem = dropping()
    optimizer, data = optimizers.sgd(0.1), load(problem.dataset, "unused").train
    losses = []
    for compile in (False, True):
        step = make_train_step(problem, optimizer, Execution(compile=compile and whole, compile_batch=compile))
        losses.append(
            [
                step(start(problem, optimizer), StepInput(data, torch.arange(8)[None], key[None]))[1].loss
                for key in random.split(KEY)
            ]
        )
    torch.testing.assert_close(*losses)
    assert losses[0][0] != losses[0][1]


def test_inputs_are_kept_prepared_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problems.get("mnist_logreg")
    split = load(problem.dataset, "synthetic", torch.device("cpu")).test
    gathered: list[int] = []

    def counting(*args: object, **kwargs: object) -> step_module.Gather:
        gather = make_gather(problem, augment=False)

        def counted(split: Split, rows: torch.Tensor, draws: object) -> tuple[torch.Tensor, torch.Tensor]:
            gathered.append(len(rows))
            return gather(split, rows, draws)

        return counted

    monkeypatch.setattr(step_module, "make_gather", counting)
    rows, points = torch.arange(12).view(3, 4), [problem.init(0)]
    kept = make_evaluate(problem, augment=False, keep=2 * 4 * (4 * 784 + 8))  # two chunks of four
    plain = make_evaluate(problem, augment=False)
    first = [kept(points, split, chunk, {}, KEY) for chunk in rows]
    second = [kept(points, split, chunk, {}, KEY) for chunk in rows]
    assert len(gathered) == 4  # three, and the third again
    for chunk, once, again in zip(rows, first, second, strict=True):
        ((expected, _),) = plain(points, split, chunk, {}, KEY)
        assert torch.equal(once[0][0].losses, expected.losses)
        assert torch.equal(again[0][0].losses, expected.losses)
