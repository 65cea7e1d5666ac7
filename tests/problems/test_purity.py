"""What a user's functions do beside computing a loss: each is found when the problem is made, and named."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures
from tests.problems.user_functions import LABELS, VALUES, Net, X, cross_entropy, data, problem_of, square_error


def refused(words: str, net: nn.Module, *args: Any, **options: Any) -> None:
    with pytest.raises(ConfigError, match=words):
        problem_of(net, *args, **options)


class Embedded(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embed, self.last = nn.Embedding(12, 4, **options), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.embed(x).flatten(1))


IDS = torch.arange(40).reshape(20, 2) % 12
GENERATORS: list[tuple[str, Callable[[], Any]]] = [
    ("torch", lambda: torch.rand(())),
    ("torch", lambda: (torch.manual_seed(0), 0.0)[1]),
    ("NumPy", np.random.rand),
    ("NumPy", lambda: np.random.randint(3)),
    ("Python", random.random),
    ("Python", lambda: random.gauss(0, 1)),
]


@pytest.mark.parametrize(("name", "draw"), GENERATORS)
@pytest.mark.parametrize("who", ["module", "criterion", "correct function"])
def test_draws_from_global_generators_are_refused_and_undone(name: str, draw: Callable[[], Any], who: str) -> None:
    def maybe(asked: str) -> Any:
        return draw() if asked == who else 0.0

    net = Net(lambda self, x: self.layer(x) + maybe("module"))
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()
    refused(
        f"The {who} draws random numbers of its own, from the generator of {name},",
        net,
        lambda out, y: cross_entropy(out, y) + maybe("criterion"),
        correct=lambda out, y: (out.argmax(1) == y) & (maybe("correct function") < 9),
    )
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), np.random.get_state()[2], random.getstate()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def averaged(self: Any, x: Tensor) -> Tensor:
    """Centred by a moving average that it keeps."""
    mean = x.mean(0)
    self.mean = mean if self.mean is None else 0.9 * self.mean + 0.2 * mean
    return self.layer(x - self.mean)


def in_place(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        self.layer.weight.clamp_(-0.1, 0.1)
    return self.layer(x)


def by_data(self: Any, x: Tensor) -> Tensor:
    self.layer.weight.data = 0.9 * self.layer.weight
    return self.layer(x)


def renewed(self: Any, x: Tensor) -> Tensor:
    self.layer.weight = nn.Parameter(0.5 * self.layer.weight)
    return self.layer(x)


def counted_in_a_buffer(self: Any, x: Tensor) -> Tensor:
    self.n = self.n + 1
    return self.layer(x) / self.n


def warmed_up(self: Any, x: Tensor) -> Tensor:
    self.calls += 1
    return self.layer(x) if self.calls < 100 else 2 * self.layer(x)


def collected(self: Any, x: Tensor) -> Tensor:
    self.seen.append(x.shape)
    return self.layer(x)


def kept(self: Any, x: Tensor) -> Tensor:
    """A product of weights, kept as equivariant layers keep their filters."""
    if self.product is None:
        self.product = self.inner.T @ self.inner
    return self.layer(x @ self.product)


class OwnNorm(nn.BatchNorm1d):
    """Batch norm with a forward method of its own, which moves the running statistics."""

    def __init__(self) -> None:
        super().__init__(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(super().forward(x))


def own_norm(self: Any, x: Tensor) -> Tensor:
    return self.layer(x)[:, :3]


def keeping() -> Net:
    torch.manual_seed(0)
    return Net(kept, product=None, inner=nn.Parameter(torch.randn(6, 6)))


GENERATOR = torch.Generator().manual_seed(0)
NUMPY_GENERATOR = np.random.default_rng(0)
REMEMBERING: list[tuple[str, Callable[[], nn.Module]]] = [
    ("Two calls of the module on the same input differ", lambda: Net(averaged, mean=None)),
    ("Two calls of the module", lambda: Net(lambda self, x: self.layer(x) + torch.rand((), generator=GENERATOR))),
    ("Two calls of the module", lambda: Net(lambda self, x: self.layer(x) + NUMPY_GENERATOR.random())),
    ("Two calls of the module", lambda: Net(lambda self, x: self.layer(x) + time.perf_counter() % 1)),
    (r"changes its parameters \['layer.weight'\] in place", lambda: Net(in_place)),
    (r"changes its parameters \['layer.weight'\] in place", lambda: Net(by_data)),
    (r"puts new tensors in the place of .* \['layer.weight'\]", lambda: Net(renewed)),
    (r"puts new tensors in the place of .* \['n'\]", lambda: Net(counted_in_a_buffer, n=nn.Buffer(torch.zeros(())))),
    (r"The module's attributes \['calls'\] change", lambda: Net(warmed_up, calls=0)),
    (r"The module's attributes \['seen'\] change", lambda: Net(collected, seen=[])),
    ("depends on the parameters of an earlier call", keeping),
    (r"changes its buffers \['layer.running_mean'", lambda: Net(own_norm, layer=OwnNorm())),
]


@pytest.mark.parametrize(("words", "make"), REMEMBERING)
def test_modules_that_remember_are_refused(words: str, make: Callable[[], nn.Module]) -> None:
    refused(words, make())


@pytest.mark.parametrize("grad", [True, False])
def test_a_product_that_was_kept_before_is_refused_too(grad: bool) -> None:
    net = keeping()
    with torch.set_grad_enabled(grad):
        net(X)
    refused(
        "require gradients and are none of its" if grad else r"'inner', beside which the module holds \['product", net
    )


@pytest.mark.parametrize("max_norm", [0.1, 100.0])
def test_embeddings_that_renormalise_their_weights_are_refused(max_norm: float) -> None:
    """Also where no row is longer yet."""
    refused(r"\['embed.weight'\] in place .*max_norm", Embedded(max_norm=max_norm), dataset=data(IDS))


@pytest.mark.parametrize("layer", [nn.ReLU(inplace=True), nn.Hardtanh(inplace=True)])
@pytest.mark.parametrize("x", [X, X.abs()])
def test_an_input_that_is_changed_in_place_is_refused(layer: nn.Module, x: Tensor) -> None:
    refused(
        r"The module changes inputs x, .* in place.*x.clone\(\)", nn.Sequential(layer, nn.Linear(6, 3)), dataset=data(x)
    )
    assert problem_of(nn.Sequential(nn.Linear(6, 3), layer)).separable


IN_PLACE = [
    (r"criterion changes outputs 0", lambda out, y: out.squeeze(1).sub_(y).square(), None),
    (r"criterion changes targets y", lambda out, y: y.sub_(out.squeeze(1)).square(), None),
    (r"correct function changes outputs 0", None, lambda out, y: out.zero_().squeeze(1) == y),
    (r"correct function changes targets y", None, lambda out, y: y.zero_() == out.squeeze(1)),
]


@pytest.mark.parametrize(("words", "criterion", "correct"), IN_PLACE)
def test_outputs_and_targets_that_are_changed_in_place(words: str, criterion: Any, correct: Any) -> None:
    plain = lambda out, y: square_error(out.squeeze(1), y)
    refused(words, nn.Linear(6, 1), criterion or plain, data(y=VALUES), correct=correct)


def test_harmless_attributes_are_no_memory() -> None:
    """A constant that is made at the first call, and the last activation."""

    def forward(self: Any, x: Tensor) -> Tensor:
        if self.scale is None:
            self.scale = torch.full((6,), 2.0)
        self.last = self.layer(x * self.scale)
        return self.last

    net = Net(forward, scale=None, last=None)
    problem = problem_of(net, measures.cross_entropy)
    params, batch = problem.init()[0], problem.fake_batch(4)
    torch.testing.assert_close(problem.outputs(params, batch), net.layer(2 * batch.x))
    torch.testing.assert_close(problem.to_module(params)(batch.x), net.layer(2 * batch.x))


def checkpointed(self: Any, x: Tensor) -> Tensor:
    def layers(x: Tensor) -> Tensor:
        return self.layer(torch.tanh(x @ self.layer.weight.T @ self.layer.weight))

    return torch.utils.checkpoint.checkpoint(layers, x, use_reentrant=False)


@pytest.mark.parametrize(
    ("words", "net"),
    [
        ("does not depend on the parameters.*cuts the graph", Net(lambda self, x: self.layer(x).detach())),
        ("does not depend on the parameters", Net(torch.no_grad()(lambda self, x: self.layer(x)))),
        ("does not depend on the parameters", Net(lambda self, x: x[:, :3])),
        (
            r"require gradients and are none of its parameters.*nn.ParameterList",
            Net(lambda self, x: self.layer(x @ self.plain[0]), plain=[nn.Parameter(torch.eye(6))]),
        ),
        (
            r"gradient of the loss raised .*Leave out activation checkpointing",
            Net(checkpointed),
        ),
    ],
)
def test_a_loss_without_a_gradient_is_refused(words: str, net: nn.Module) -> None:
    refused(words, net)


def test_a_problem_is_made_under_no_grad_and_in_inference_mode() -> None:
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert problem_of(nn.Linear(6, 3)).separable


def test_labels_of_both_splits_and_ids_of_the_inputs_reach_the_functions() -> None:
    beyond = LABELS.clone()
    beyond[5] = 3
    for criterion in (
        cross_entropy,
        measures.cross_entropy,
        lambda out, y: -out.log_softmax(1).gather(1, y[:, None]).squeeze(1),
    ):
        refused(
            "criterion raised .* targets of both splits hold ids from 0 to 3, .*4 outputs",
            nn.Linear(6, 3),
            criterion,
            data(test_y=beyond),
        )
        assert problem_of(nn.Linear(6, 4), criterion, data(test_y=beyond)).dataset.num_classes == 4
    more = IDS.clone()
    more[-1, 1] = 12
    refused(
        "module raised .* inputs of both splits hold ids from 0 to 12, .*13 rows",
        Embedded(),
        dataset=data(IDS, test_x=more),
    )
    refused("10 outputs", nn.Sequential(nn.Flatten(), nn.Linear(784, 9)), dataset="mnist")
