"""`from_module`: a user's own network as a test problem."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepobs_func import datasets, problems
from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures

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


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Dropout(0.5), "draws random numbers"),
        (nn.BatchNorm1d(784), "changes its buffers"),
        (nn.AlphaDropout(0.5), "draws random numbers"),
    ],
)
def test_layers_with_hidden_state_or_noise_are_refused(layer: nn.Module, words: str) -> None:
    net = nn.Sequential(nn.Flatten(), layer, nn.Linear(784, 10))
    with pytest.raises(ConfigError, match=words):
        problems.from_module(net, cross_entropy, "mnist")
    assert problems.from_module(net.eval(), cross_entropy, "mnist").fake_batch(2).x.shape == (2, 1, 28, 28)


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
