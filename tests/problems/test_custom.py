"""`from_module`: a user's own network as a test problem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepobs_func import datasets, probes, problems
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import HVPMode
from deepobs_func.problems import measures
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import RunConfig, Training, make_plan, run
from deepobs_func.runner.step import Carry
from tests.problems.user_functions import LABELS, X, data, problem_of

HVP_MODES = get_args(HVPMode)

cross_entropy = partial(F.cross_entropy, reduction="none")


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10))


def test_loss_is_the_module_s_own() -> None:
    net = small_net()
    problem = problems.from_module(net, cross_entropy, "mnist")
    params, _ = problem.init(seed=5)
    batch = problem.fake_batch(4)
    assert list(params) == [name for name, _ in net.named_parameters()]
    torch.testing.assert_close(problem.loss(params, batch), cross_entropy(net(batch.x), batch.y))
    torch.testing.assert_close(problem.loss(params, batch), problem.evaluate(params, batch).losses)


def test_gradient_is_the_module_s_own() -> None:
    net = small_net()
    problem = problems.from_module(net, cross_entropy, "mnist", weight_decay=0.1)
    params, _ = problem.init()
    batch = problem.fake_batch(4)
    grads = torch.func.grad(lambda p: problem.objective(p, batch))(params)
    kernels = [p for p in net.parameters() if p.ndim >= 2]
    (cross_entropy(net(batch.x), batch.y).mean() + 0.05 * sum(k.square().sum() for k in kernels)).backward()
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad)
    assert problem.regularized == ("0.weight", "4.weight")


def test_the_module_is_left_alone() -> None:
    net = small_net()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    params, _ = problems.from_module(net, cross_entropy, "mnist").init()
    params["4.bias"].add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert not any(tensor.is_meta for tensor in net.state_dict().values())


def test_accuracy_where_correct_is_given() -> None:
    problem = problems.from_module(small_net(), cross_entropy, "mnist", correct=lambda out, y: out.argmax(1) == y)
    assert problem.has_accuracy
    assert problem.evaluate(problem.init()[0], problem.fake_batch(4)).correct.shape == (4,)


def test_a_criterion_that_averages_is_refused() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(ConfigError, match=r"reduction='none'"):
        problems.from_module(net, F.cross_entropy, "mnist")


def test_a_measure_brings_all_that_it_knows() -> None:
    problem = problems.from_module(small_net(), measures.cross_entropy, "mnist")
    plain = problems.from_module(small_net(), cross_entropy, "mnist")
    params, batch = problem.init()[0], problem.fake_batch(4)
    torch.testing.assert_close(problem.loss(params, batch), plain.loss(params, batch))
    assert problem.has_accuracy
    assert problem.measure.convex
    assert not plain.measure.convex
    with pytest.raises(ConfigError, match="a Measure, which has its own correct"):
        problems.from_module(small_net(), measures.cross_entropy, "mnist", correct=lambda out, y: out.argmax(1) == y)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'mnist'"):
        problems.from_module(small_net(), cross_entropy, "mnits")


def test_a_module_that_does_not_fit_the_data_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"do not fit MNIST, whose inputs are \(3, 1, 28, 28\)"):
        problems.from_module(nn.Linear(7, 3), cross_entropy, "mnist")


class Counting(nn.Linear):
    """Remembers how often it was called."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x.flatten(1)) * self.calls


def test_a_module_that_remembers_is_refused() -> None:
    with pytest.raises(ConfigError, match="Two calls of the module on the same input differ"):
        problems.from_module(Counting(784, 10), cross_entropy, "mnist")


def test_batch_statistics_make_a_problem_that_is_not_separable() -> None:
    net = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(784, track_running_stats=False), nn.Linear(784, 10))
    assert not problems.from_module(net, cross_entropy, "mnist").separable
    assert problems.from_module(small_net(), cross_entropy, "mnist").separable


def test_frozen_parameters_are_not_trained() -> None:
    net = small_net()
    net[0].requires_grad_(False)
    params, state = problems.from_module(net, cross_entropy, "mnist").init()
    assert set(params) == {"1.weight", "1.bias", "4.weight", "4.bias"}
    assert set(state.moments) == {"0.weight", "0.bias"}
    with pytest.raises(ConfigError, match="no parameter to train"):
        problems.from_module(small_net().requires_grad_(False), cross_entropy, "mnist")


class Tied(nn.Module):
    """Encoder and decoder share a matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode = nn.Linear(784, 784, bias=False), nn.Linear(784, 784, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.decode(torch.tanh(self.encode(x.flatten(1))))


def test_tied_parameters_stay_tied() -> None:
    net = Tied()
    problem = problems.from_module(net, lambda out, y: out.square().mean(1), "mnist")
    params, _ = problem.init()
    assert set(params) == {"encode.weight"}
    batch = problem.fake_batch(2)
    torch.testing.assert_close(problem.loss(params, batch), net(batch.x).square().mean(1))


def test_tokens_stay_whole_numbers() -> None:
    ids, y = torch.arange(12).reshape(6, 2), torch.zeros(6, dtype=torch.int64)
    net = nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(8, 3))
    problem = problems.from_module(net, cross_entropy, datasets.from_arrays("tokens", (ids, y), (ids, y)))
    assert problem.loss(problem.init()[0], problem.fake_batch(2)).shape == (2,)


class Partly(nn.Module):
    """A layer that is trained, one that is frozen, a tied pair, and parameters that are empty or enter no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.first, self.second, self.last = (nn.Linear(6, 6) for _ in range(4))
        self.frozen.requires_grad_(False)
        self.second.weight = self.first.weight
        self.held = nn.ParameterList([nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6), requires_grad=False)])
        self.empty, self.unused = nn.Parameter(torch.empty(0, 6)), nn.Linear(2, 2)
        self.register_buffer("power", torch.tensor(2))
        self.register_buffer("phase", torch.polar(torch.ones(6), torch.linspace(0, 1, 6)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(torch.tanh(self.frozen(x))))
        x = torch.tanh(self.second(x)) * self.power + self.empty.sum(0)
        return self.last((x * self.held[0] * self.held[1] * self.phase).real)


TRAINED = {"first.weight", "first.bias", "second.bias", "last.weight", "last.bias", "held.0", "empty"}
TRAINED |= {"unused.weight", "unused.bias"}


def partly() -> tuple[nn.Module, Problem, dict[str, torch.Tensor], Batch, list[torch.Tensor]]:
    """A net in float64, its problem at its parameters, and these as leaves of the net itself."""
    torch.manual_seed(0)
    net = Partly().double()
    net.phase = net.phase.to(torch.complex128)
    problem = problem_of(net, measures.cross_entropy, weight_decay=0.1)
    params, state = problem.init(dtype=torch.float64)
    net.load_state_dict({**params, **state.moments}, strict=False)  # of float64, from the float32 of a run
    batch = Batch(X[:5].double(), LABELS[:5], {}, state)
    return net, problem, params, batch, [dict(net.named_parameters())[name] for name in params]


def test_a_problem_says_of_a_module_what_init_returns() -> None:
    _, problem, params, batch, _ = partly()
    assert set(params) == set(problem.shapes) == TRAINED
    assert {name: leaf.shape for name, leaf in params.items()} == problem.shapes
    constants = {"frozen.weight", "frozen.bias", "held.1", "power", "phase"}
    assert set(batch.state.moments) == constants
    assert batch.state.moments["phase"].dtype == torch.complex128
    assert batch.state.moments["power"].dtype == torch.int64
    assert problem.regularized == ("empty", "first.weight", "last.weight", "unused.weight")


def test_penalty_and_gradient_with_constants_ties_and_unused_parameters() -> None:
    net, problem, params, batch, leaves = partly()
    kernels = [net.first.weight, net.last.weight, net.unused.weight]
    penalty = 0.05 * sum(kernel.square().sum() for kernel in kernels)
    torch.testing.assert_close(problem.penalty(params), penalty)
    expected = torch.autograd.grad(
        cross_entropy(net(batch.x), batch.y).mean() + penalty, leaves, materialize_grads=True, allow_unused=True
    )
    for make in (make_value_and_grad, make_plain_value_and_grad):
        found = make(problem)(params, batch)
        for name, grad in zip(params, expected, strict=True):
            torch.testing.assert_close(found.grads[name], grad)
    assert found.grads["unused.weight"].any()  # the penalty alone
    assert not found.grads["unused.bias"].any()


def test_probes_with_constants_ties_and_unused_parameters() -> None:
    net, problem, params, batch, leaves = partly()
    options = {"allow_unused": True, "materialize_grads": True}
    losses = cross_entropy(net(batch.x), batch.y)
    rows = [torch.autograd.grad(loss, leaves, retain_graph=True, **options) for loss in losses]
    found = probes.per_example_grads(problem, params, batch)
    for name, grads in zip(params, zip(*rows, strict=True), strict=True):
        torch.testing.assert_close(found[name], torch.stack(grads))
    v = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    dots = torch.stack([sum((g * w).sum() for g, w in zip(row, v.values(), strict=True)) for row in rows])
    torch.testing.assert_close(probes.per_example_dots(problem, params, batch, v), dots)
    torch.testing.assert_close(
        probes.statistics(problem, params, batch, ["sq_norms"]).sq_norms,
        torch.stack([sum(g.square().sum() for g in row) for row in rows]),
    )
    grads = torch.autograd.grad(losses.mean(), leaves, create_graph=True, **options)
    slope = sum((g * w).sum() for g, w in zip(grads, v.values(), strict=True))
    products = dict(zip(params, torch.autograd.grad(slope, leaves, **options), strict=True))
    for mode in HVP_MODES:
        hvp = probes.hvp(problem, params, batch, v, mode=mode)
        for name in params:
            torch.testing.assert_close(hvp[name], products[name])


@pytest.mark.parametrize("optimizer", ["momentum", "torch.optim.Adam", "adahessian", "newton_cg", "sgd_cabs"])
def test_runs_leave_constants_alone(optimizer: str) -> None:
    torch.manual_seed(0)
    problem = problem_of(Partly(), measures.cross_entropy, weight_decay=0.1)
    record = run(RunConfig("partly", optimizer, lr=0.01, epochs=1, output_dir=None, compile="off"), problem)
    assert record.extra["status"] == "finished"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_module_of_another_precision_is_run_in_float32(dtype: torch.dtype) -> None:
    net = nn.Linear(6, 3).to(dtype)
    problem = problem_of(net)
    params, batch = problem.init()[0], problem.fake_batch(4)
    assert {leaf.dtype for leaf in params.values()} == {torch.float32}
    torch.testing.assert_close(problem.loss(params, batch), cross_entropy(net.float()(batch.x), batch.y))


@pytest.mark.parametrize(
    ("criterion", "y"),
    [
        (lambda out, y: F.huber_loss(out[:, 0], y, reduction="none"), X.double()[:, 0]),
        (lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], y, reduction="none"), (LABELS > 0).double()),
        (cross_entropy, F.one_hot(LABELS, 3).double()),
    ],
)
def test_float64_data_are_float32_in_the_check_and_in_the_run(criterion: Callable[..., Any], y: torch.Tensor) -> None:
    seen = set()

    def watched(out: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.add((out.dtype, targets.dtype))
        return criterion(out, targets)

    problem = problem_of(nn.Linear(6, 3), watched, data(X.double(), y))
    run(RunConfig("linear", "sgd", lr=0.01, epochs=1, output_dir=None, compile="off"), problem)
    assert seen == {(torch.float32, torch.float32)}


def test_accuracies_of_labels_as_rows_are_those_of_ids() -> None:
    torch.manual_seed(0)
    net, records = nn.Linear(6, 3), []
    for y in (LABELS, F.one_hot(LABELS, 3).double()):
        problem = problem_of(net, measures.cross_entropy, data(y=y))
        records.append(run(RunConfig("linear", "sgd", lr=1.0, epochs=2, output_dir=None, compile="off"), problem))
    assert records[0].test_accuracies == records[1].test_accuracies
    assert records[0].train_accuracies == records[1].train_accuracies


def _padded() -> datasets.DatasetSpec:
    y = torch.tensor([[0, 1, -100], [2, -100, -100], [1, 0, 0], [-100, -100, -100]] * 5)
    return datasets.from_arrays("toy", (X, y), (X, y), ignore_index=-100)


@pytest.mark.parametrize(
    ("net", "measure", "spec", "expected"),
    [
        (lambda: nn.Linear(6, 3), measures.cross_entropy, data(), 7 / 20),
        (lambda: nn.Linear(6, 3), measures.cross_entropy, data(y=F.one_hot(LABELS, 3).double()), 7 / 20),
        (lambda: nn.Linear(6, 3), measures.labels((1.0, 2.0, 1.0)), data(y=F.one_hot(LABELS, 3).double()), 2 / 3),
        (
            lambda: nn.Sequential(nn.Linear(6, 9), nn.Unflatten(1, (3, 3))),
            measures.tokens(-100),
            _padded(),
            (1 / 2 + 0 + 2 / 3 + 1) / 4,
        ),
    ],
    ids=["ids", "rows", "labels", "tokens"],
)
def test_accuracies_after_divergence_are_those_of_outputs_that_are_nan(net, measure, spec, expected) -> None:
    problem = problem_of(net(), measure, spec)
    config = RunConfig(problem.name, "sgd", lr=0.1, epochs=1, batch_size=20, output_dir=None, compile="off")
    evaluator = Training(make_plan(config, problem)).evaluator
    params, state = problem.init(0)
    broken = {name: leaf * torch.nan for name, leaf in params.items()}
    whole, diverged = (evaluator(0, Carry(each, None, state))["test"] for each in (params, broken))
    assert whole.class_zero == diverged.accuracy == pytest.approx(expected)


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_embeddings_that_scale_gradients_by_the_batch_are_refused(kind: Callable[..., nn.Module]) -> None:
    ids = data(torch.arange(40).reshape(20, 2) % 12)

    def net(**options: Any) -> nn.Module:
        return nn.Sequential(kind(12, 4, **options), nn.Flatten(), nn.LazyLinear(3))

    refused = net(scale_grad_by_freq=True)
    refused(torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ConfigError, match=r"\['0'\] have scale_grad_by_freq=True"):
        problem_of(refused, dataset=ids)


@pytest.mark.parametrize("dataset", [None, (X, LABELS)])
def test_what_is_no_data_set_is_refused(dataset: Any) -> None:
    with pytest.raises(ConfigError, match=r"dataset= is .*from_arrays"):
        problems.from_module(nn.Linear(6, 3), cross_entropy, dataset)


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    inner = torch.jit.script(nn.Linear(6, 6))
    for net in (torch.jit.script(nn.Linear(6, 3)), nn.Sequential(inner, nn.Linear(6, 3))):
        with pytest.raises(ConfigError, match="TorchScript"):
            problem_of(net)
