"""What a user's functions return: shape, type and finite values are checked when the problem is made."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures
from tests.problems.test_purity import refused
from tests.problems.user_functions import LABELS, VALUES, Net, X, cross_entropy, data, problem_of, square_error


@pytest.mark.parametrize(
    ("words", "criterion"),
    [
        (r"shape \(3, 3\) for a batch of 3.*are broadcast: nn.Flatten\(0\)", square_error),
        (r"shape \(3, 1\) for a batch of 3", lambda out, y: square_error(out, y[:, None])),
        (r"shape \(\) for a batch of 3.*reduction='none'", lambda out, y: F.mse_loss(out.squeeze(1), y)),
        (r"targets \(3,\), which are broadcast.*y\[:, None\]", lambda out, y: square_error(out, y).mean(1)),
        (r"measures.square compares tensors of one shape", measures.square),
        (r"type torch.bool; it must", lambda out, y: out.squeeze(1) > y),
        (r"returned an object of list", lambda out, y: [1.0] * len(y)),
        (r"returned \[nan, nan, nan\] for finite outputs", lambda out, y: (out.squeeze(1) - 1e9).sqrt()),
        (r"criterion raised ZeroDivisionError: division by zero\. ", lambda out, y: 1 / 0),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_criterion_returns_one_finite_loss_for_each_example(words: str, criterion: Any) -> None:
    refused(words, nn.Linear(6, 1), criterion, data(y=VALUES))


def test_a_loss_for_each_class_is_not_taken_for_one_of_each_example() -> None:
    refused("shape", nn.Linear(6, 3), lambda out, y: out.square().mean(0))


RIGHT = {
    "bool": lambda out, y: out.argmax(1) == y,
    "float": lambda out, y: (out.argmax(1) == y).float(),
    "int": lambda out, y: (out.argmax(1) == y).long(),
}
WRONG = [
    (r"shape \(\) for", lambda out, y: (out.argmax(1) == y).float().mean()),
    (r"shape \(3, 1\) for", lambda out, y: out.argmax(1, keepdim=True) == y[:, None]),
    (r"shape \(3, 3\) for", lambda out, y: out.argmax(1, keepdim=True) == y),
    (r"shape \(3, 2\) for", lambda out, y: out[:, :2] > 0),
    (r"returned 0.5; it must return a tensor", lambda out, y: 0.5),
    (r"returned \[.*nan", lambda out, y: out.sum(1) * float("nan")),
    (r"\[0, 1\]", lambda out, y: out.argmax(1) + 1.5),
    (r"for a batch and .* one by one", lambda out, y: out.sigmoid().mean().expand(len(y))),
    (r"for a batch and .* one by one|shape", lambda out, y: out.sigmoid().mean(0)),
    (r"correct= is a function", "top1"),
]


@pytest.mark.parametrize("kind", RIGHT)
def test_values_that_say_which_examples_are_correct(kind: str) -> None:
    net = nn.Linear(6, 3)
    problem = problem_of(net, correct=RIGHT[kind])
    params, batch = problem.init()[0], problem.fake_batch(5)
    expected = net(batch.x).argmax(1) == batch.y
    assert torch.equal(problem.evaluate(params, batch).correct.bool(), expected)


@pytest.mark.parametrize(("words", "correct"), WRONG)
def test_correct_returns_one_value_for_each_example(words: str, correct: Any) -> None:
    refused(words, nn.Linear(6, 3), correct=correct)


@pytest.mark.parametrize(
    ("words", "y", "criterion"),
    [
        (
            r"targets are \(3,\) torch.float32.*whole numbers, \(B,\): y.astype\('int64'\)",
            LABELS.float(),
            cross_entropy,
        ),
        (r"targets are \(3, 1\) torch.int64.*give y\[:, 0\]", LABELS[:, None], cross_entropy),
        (
            r"targets are \(3,\) torch.int64.*y.astype\('float32'\)",
            LABELS > 0,
            lambda out, y: F.binary_cross_entropy_with_logits(out[:, 0], y, reduction="none"),
        ),
    ],
)
def test_targets_of_another_kind_than_the_criterion_takes(words: str, y: Any, criterion: Any) -> None:
    refused(words, nn.Linear(6, 3), criterion, data(y=y))


def test_images_in_bytes_reach_the_module_as_they_are() -> None:
    images = (50 * X.abs()).to(torch.uint8)
    refused(r"inputs are \(3, 6\) torch.uint8.*/ 255", nn.Linear(6, 3), dataset=data(images))
    assert problem_of(Net(lambda self, x: self.layer(x / 255)), dataset=data(images)).separable


def test_outputs_and_parameters_must_be_finite() -> None:
    net = nn.Linear(6, 3)
    refused("outputs are not finite .*at its own parameters", Net(lambda self, x: self.layer(x) / 0))
    net.weight.data[0, 0] = float("nan")
    refused(r"outputs are not finite .*\['weight'\] hold NaN", net)


class Tempered(nn.Module):
    """Cross entropy at a temperature of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return cross_entropy(outputs / self.temperature, y)


def test_a_criterion_s_own_parameter_is_refused_or_frozen() -> None:
    criterion = Tempered()
    refused(
        r"criterion= has parameters of its own, \['temperature'\], which nothing would train",
        nn.Linear(6, 3),
        criterion,
    )
    refused("criterion computes with tensors that require gradients", nn.Linear(6, 3), criterion.forward)
    net = nn.Linear(6, 3)
    problem = problem_of(net, criterion.requires_grad_(False))
    torch.testing.assert_close(
        problem.loss(problem.init()[0], problem.fake_batch(4)),
        cross_entropy(net(problem.fake_batch(4).x) / 2, problem.fake_batch(4).y),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_class_weights_follow_the_outputs(dtype: torch.dtype) -> None:
    weight = torch.tensor([1.0, 2.0, 3.0])
    problem = problem_of(nn.Linear(6, 3), nn.CrossEntropyLoss(weight=weight, reduction="none"))
    params, batch = problem.init(dtype=dtype)[0], problem.fake_batch(4, dtype=dtype)
    expected = cross_entropy(problem.outputs(params, batch), batch.y) * weight.to(dtype)[batch.y]
    torch.testing.assert_close(problem.loss(params, batch), expected)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "0.1", True])
def test_a_weight_decay_is_finite_and_not_negative(value: Any) -> None:
    refused("A weight decay is a finite number, 0 or more", nn.Linear(6, 3), weight_decay=value)
    with pytest.raises(ConfigError, match="A weight decay is a finite number, 0 or more"):
        problem_of(nn.Linear(6, 3), weight_decay=0.1).with_weight_decay(value)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        (r"regularize\('weight', parameter\) returned 'yes'", {"regularize": lambda name, parameter: "yes"}),
        (
            r"regularize\('weight', parameter\) raised",
            {"regularize": lambda name, parameter: parameter.sum().item() > 0},
        ),
        (r"batch_size= is a whole number", {"epochs": 3, "batch_size": 0}),
        (r"epochs= is a whole number", {"epochs": 1.5, "batch_size": 3}),
        (r"criterion= is a function", {"criterion": "cross_entropy"}),
    ],
)
def test_other_arguments(words: str, options: dict[str, Any]) -> None:
    from deepobs_func import problems

    with pytest.raises(ConfigError, match=words):
        problems.from_module(nn.Linear(6, 3), options.pop("criterion", cross_entropy), data(), **options)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda net, x: net.layer(x[:, :4]),
            r"cannot be multiplied .* in the layer 'block.layer' \(Linear\)\. The module",
        ),
        (lambda net, x: net.layer(x.half()), r"in the layer 'block.layer' \(Linear\)\. A run is in float32"),
        (lambda net, x: x.nowhere, r"no attribute 'nowhere' in the layer 'block' \(Net\)"),
    ],
)
def test_what_a_layer_raises_names_the_layer(change: Any, words: str) -> None:
    net = nn.Sequential()
    net.add_module("block", Net(change))
    with pytest.raises(ConfigError, match=words):
        problem_of(net)


def test_what_cannot_be_copied_is_named() -> None:
    net = nn.Sequential(nn.Linear(6, 3), Net(lambda net, x: x, held=threading.Lock()))
    with pytest.raises(ConfigError, match=r"which is in the attribute 'held' of the layer '1' \(Net\)"):
        problem_of(net)


IDS = torch.stack((torch.zeros(20), torch.full((20,), 6), torch.arange(20) % 7), 1).long()


class Words(nn.Module):
    """Ids through an embedding, then a function of vectors `(B, 3, 4)`; a second input through one of its own."""

    def __init__(self, function: Any, rows: int = 7) -> None:
        super().__init__()
        self.embedding, self.other, self.function = nn.Embedding(7, 4), nn.Embedding(rows, 4), function

    def forward(self, x: torch.Tensor, kinds: torch.Tensor | None = None) -> Any:
        vectors = self.embedding(x)
        return self.function(vectors if kinds is None else vectors + self.other(kinds))


def test_the_ids_of_a_message_are_those_of_all_examples() -> None:
    x = torch.full((200, 3), 7)
    x[150, 1] = 30
    dataset = data(x, torch.arange(200) % 3)
    refused("ids from 7 to 30, which need 31 rows", Words(lambda vectors: vectors[:, 0]), dataset=dataset)


@pytest.mark.parametrize(
    ("words", "function", "x"),
    [
        ("let its layers fit their shape", nn.Linear(5, 3), IDS),
        ("Dimension out of range.*let its layers fit their shape", lambda vectors: vectors.sum(7), IDS),
        (r"Give ids as whole numbers: x.astype\('int64'\)", lambda vectors: vectors[:, 0], IDS.to(torch.int16)),
        (r"Give ids as whole numbers: x.astype\('int64'\)", lambda vectors: vectors[:, 0], IDS.to(torch.uint8)),
        ("ids x from 0 to 6, kinds from 0 to 6, which need 7 and 7 rows", nn.Identity(), {"x": IDS, "kinds": IDS}),
        ("ids from 3 to 9, which need 10 rows", lambda vectors: vectors[:, 0], IDS + 3),
    ],
)
def test_what_is_wrong_with_ids_is_told_apart(words: str, function: Any, x: Any) -> None:
    refused(words, Words(function, rows=2), dataset=data(x))
