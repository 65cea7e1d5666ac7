"""Measures at shapes and targets that a user's data have."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from deepobs_func import datasets, probes, problems, random
from deepobs_func.backend.kernels import using
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError, DataError
from deepobs_func.problems import measures
from tests.problems.user_functions import LABELS, X, data, problem_of

F64 = torch.float64


@pytest.mark.parametrize("shape", [(4,), (4, 1), (4, 3), (4, 2, 3)])
def test_square_sums_over_all_but_the_examples(shape: tuple[int, ...]) -> None:
    outputs, y = torch.randn(2, *shape, dtype=F64)
    losses = measures.square.losses(outputs, Batch.of(outputs, y))
    expected = torch.stack([((o - t) ** 2).sum() for o, t in zip(outputs, y, strict=True)])
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(("outputs", "y"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 1)), ((4, 3), (3,))])
def test_square_broadcasts_nothing(outputs: tuple[int, ...], y: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"measures.square compares tensors of one shape.*nn.Flatten\(0\)"):
        measures.square.losses(torch.zeros(outputs), Batch.of(torch.zeros(4, 2), torch.zeros(y)))


def test_labels_as_probabilities_are_evaluated_by_the_most_probable() -> None:
    onehot = F.one_hot(LABELS, 3).double().numpy()
    torch.manual_seed(0)
    net = torch.nn.Linear(6, 3)
    ids, soft = (problem_of(net, measures.cross_entropy, data(y=y)) for y in (LABELS, onehot))
    params = ids.init(dtype=F64)[0]
    x = X.double()
    by_ids = ids.evaluate(params, Batch.of(x, LABELS))
    by_rows = soft.evaluate(params, Batch.of(x, torch.from_numpy(onehot)))
    torch.testing.assert_close(by_rows.losses, by_ids.losses)
    assert torch.equal(by_rows.correct, by_ids.correct)
    assert by_ids.correct.any()


numbers = st.sampled_from([0.0, -1.5, 3.0, 88.0, -200.0, 1e30, -1e30, 3e38, math.inf, -math.inf, math.nan])


@given(st.data(), st.integers(1, 3), st.sampled_from([1, 2, 3, 10, 15, 16, 17]), st.sampled_from([torch.float32, F64]))
def test_the_cross_entropy_of_few_classes_is_torch_s_at_every_logit(drawn, size: int, classes: int, dtype) -> None:
    rows = drawn.draw(st.lists(st.lists(numbers, min_size=classes, max_size=classes), min_size=size, max_size=size))
    y = torch.tensor(drawn.draw(st.lists(st.integers(0, classes - 1), min_size=size, max_size=size)))
    logits, others = (torch.tensor(rows, dtype=dtype, requires_grad=True) for _ in range(2))
    losses = measures.cross_entropy.fused(logits, Batch.of(logits, y))
    expected = F.cross_entropy(others, y, reduction="none")
    torch.testing.assert_close(losses, expected, equal_nan=True)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(logits.grad, others.grad, equal_nan=True)


def test_the_cross_entropy_of_few_classes_serves_probabilities_too() -> None:
    logits, y = torch.randn(2, 4, 3, dtype=F64)
    batch = Batch.of(logits, y.softmax(-1))
    torch.testing.assert_close(
        measures.cross_entropy.fused(logits, batch), measures.cross_entropy.losses(logits, batch)
    )


@pytest.mark.parametrize("name", ["two_d_rosenbrock", "two_d_beale", "two_d_branin"])
def test_only_the_losses_of_a_test_function_are_of_a_point_that_all_examples_share(name: str) -> None:
    problem = problems.get(name)
    params, batch = problem.init(dtype=F64)[0], problem.fake_batch(4, dtype=F64)
    expected = problem.loss(params, batch)
    of_columns = problem.measure._replace(fused=None)  # as a measure of one's own is
    with using(fused=True):
        outputs, _ = problem.test_outputs_and_state(params, batch)
        found = [each.loss(params, batch) for each in (problem, replace(problem, measure=of_columns))]
    assert outputs.shape == problem.outputs(params, batch).shape == (4, 2)
    for losses in (*found, problem.measure.fused(outputs, batch)):
        torch.testing.assert_close(losses, expected)


def test_samples_for_probabilities_have_the_covariance_of_the_hessian() -> None:
    """Also where the targets do not sum to one."""
    logits, y = torch.randn(1, 3, dtype=F64), torch.tensor([[0.5, 1.0, 0.25]], dtype=F64)
    hessian = torch.func.hessian(lambda z: F.cross_entropy(z[None], y[0][None]))(logits[0])
    many = Batch.of(torch.zeros(40_000, 1), y.expand(40_000, 3))
    drawn = measures.cross_entropy.sample(logits.expand(40_000, 3), many, random.key(0))
    torch.testing.assert_close(drawn.T @ drawn / len(drawn), hessian, atol=0.01, rtol=0)


def test_the_ggn_of_probabilities_is_that_of_the_loss() -> None:
    y = torch.rand(20, 3)
    problem = problem_of(torch.nn.Linear(6, 3), measures.cross_entropy, data(y=y))
    params, batch = problem.init(dtype=F64)[0], Batch.of(X.double(), y.double())
    v = {name: torch.randn_like(leaf) for name, leaf in params.items()}
    product, expected = probes.ggnvp(problem, params, batch, v), probes.hvp(problem, params, batch, v)
    for name in params:  # of a linear model they are the same
        torch.testing.assert_close(product[name], expected[name])


@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
def test_binary_is_the_mean_over_labels(shape: tuple[int, ...]) -> None:
    logits, y = torch.randn(shape, dtype=F64), (torch.rand(shape) < 0.5).double()
    losses = measures.binary.losses(logits, Batch.of(logits, y))
    p = logits.sigmoid()
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).reshape(4, -1).mean(1)
    torch.testing.assert_close(losses, expected)
    right = ((p > 0.5) == (y > 0.5)).double().reshape(4, -1).mean(1)
    torch.testing.assert_close(measures.binary.correct(logits, Batch.of(logits, y)), right)


@pytest.mark.parametrize("weight", [None, (1.0, 0.5, 2.0), (0.1, 0.05, 0.2)])
def test_tokens_leaves_padding_out(weight: tuple[float, ...] | None) -> None:
    measure = measures.tokens(ignore_index=-1, weight=weight)
    logits, y = torch.randn(3, 4, 3, dtype=F64), torch.tensor([[0, 1, 2, -1], [2, -1, -1, -1], [-1, -1, -1, -1]])
    losses = measure.losses(logits, Batch.of(logits, y))
    given = None if weight is None else torch.tensor(weight, dtype=F64)
    for n in (0, 1):
        torch.testing.assert_close(losses[n], F.cross_entropy(logits[n], y[n], given, ignore_index=-1))
    assert losses[2] == 0
    right = (logits.argmax(-1) == y)[0, :3].double().mean()
    torch.testing.assert_close(measure.correct(logits, Batch.of(logits, y))[0], right)
    with pytest.raises(ConfigError, match="finite and at least 0"):
        measures.tokens(weight=(1.0, -1.0))
    for wrong in ((1.0, 2.0), (1.0, 2.0, 3.0, 4.0)):
        with pytest.raises(ConfigError, match=rf"weight= has {len(wrong)} numbers for logits of 3 classes"):
            measures.tokens(weight=wrong).losses(logits, Batch.of(logits, y))


@pytest.mark.parametrize("make", [torch.tensor, np.array, list, tuple])
def test_weights_come_as_any_numbers(make) -> None:
    numbers, logits = [1.0, 0.5, 2.0], torch.randn(2, 4, 3, dtype=F64)
    batch = Batch.of(logits, torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]]))
    expected = measures.tokens(weight=(1.0, 0.5, 2.0)).losses(logits, batch)
    torch.testing.assert_close(measures.tokens(weight=make(numbers)).losses(logits, batch), expected)
    with pytest.raises(ConfigError, match=r"weight=.*give a number for each class"):
        measures.tokens(weight=make([[1.0, 2.0], [3.0, 4.0]]))


def test_shapes_that_measures_do_not_take_are_named() -> None:
    logits, y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
    with pytest.raises(ConfigError, match=r"logits \(B, ..., V\) of ids \(B, ...\), not \(4, 3\) of \(4,\)"):
        measures.tokens().losses(logits, Batch.of(logits, y))
    with pytest.raises(ConfigError, match=r"pos_weight= has 1 number for logits of 3 labels"):
        measures.labels((2.0,)).losses(logits, Batch.of(logits, torch.zeros(4, 3)))
    with pytest.raises(ConfigError, match=r"measures.labels takes logits \(B, labels\), not \(4,\)"):
        measures.labels((2.0,)).losses(logits[:, 0], Batch.of(logits, torch.zeros(4)))


def test_an_example_of_padding_alone_counts_as_right() -> None:
    y = torch.tensor([[0, 1], [-1, -1]])
    logits = F.one_hot(y.clamp(min=0), 3).double()
    assert measures.tokens(ignore_index=-1).correct(logits, Batch.of(logits, y)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("measure", [measures.tokens(), measures.tokens(-1), measures.cross_entropy, measures.sequence])
def test_a_measure_leaves_out_what_the_data_set_says(measure) -> None:
    y = torch.tensor([0, 1, 2, -100] * 5)
    named = datasets.from_arrays("toy", (X, y), (X, y), ignore_index=-100)
    said = rf"ignore_index=-100, and the measure has ignore_index={measure.ignore_index}.*tokens\(ignore_index=-100\)"
    with pytest.raises(ConfigError, match=said):
        problem_of(torch.nn.Linear(6, 3), measure, named)
    own = measures.Measure(lambda z, b: F.cross_entropy(z, b.y, reduction="none"), ignore_index=-100)
    assert problem_of(torch.nn.Linear(6, 3), own, named).measure.ignore_index == -100


@pytest.mark.parametrize("ignore_index", [1.5, True, "0"])
def test_an_id_that_does_not_count_is_a_whole_number(ignore_index: Any) -> None:
    with pytest.raises(ConfigError, match="ignore_index= is a whole number"):
        measures.tokens(ignore_index=ignore_index)


SIGNS = 2.0 * (torch.arange(20) % 2) - 1


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize(
    ("measure", "right"),
    [
        (measures.binary, (SIGNS[:, None] + 1) / 2),
        (measures.binary, ((SIGNS[:, None] + 1) / 2).long()),
        (measures.labels((1.0, 2.0)), torch.full((20, 2), 0.5)),
        (measures.cross_entropy, torch.full((20, 3), 1 / 3)),
    ],
)
def test_targets_outside_of_the_range_are_refused(measure: measures.Measure, right: torch.Tensor, split: str) -> None:
    """One number of one split is enough."""
    net = torch.nn.Linear(6, right.shape[1])
    wrong = right.clone()
    wrong[13, 0] = 2 if right.dtype == torch.long else -1
    options = {"y": wrong, "test_y": right} if split == "train" else {"y": right, "test_y": wrong}
    with pytest.raises(ConfigError, match=r"targets of toy go from .* to .*give 0 and 1"):
        problem_of(net, measure, data(**options))
    assert problem_of(net, measure, data(y=right)).separable


def test_class_ids_are_in_no_range() -> None:
    assert problem_of(torch.nn.Linear(6, 3), measures.cross_entropy).dataset.num_classes == 3
    assert problem_of(torch.nn.Linear(6, 1), measures.square, data(y=10 * SIGNS[:, None])).separable


def streamed_of(targets: torch.Tensor) -> datasets.DatasetSpec:
    pairs = [(x, target[None]) for x, target in zip(X, targets, strict=True)]
    return datasets.from_torch("signs", pairs, pairs, stream=True)


def test_streamed_targets_outside_of_the_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="targets of signs go from -1"):
        problem_of(torch.nn.Linear(6, 1), measures.binary, streamed_of(SIGNS))


def test_streamed_targets_are_looked_at_as_they_are_read() -> None:
    signs = torch.zeros(20)
    problem = problem_of(torch.nn.Linear(6, 1), measures.binary, streamed_of(signs))
    signs[7] = -1.0
    reader = problem.dataset.function("reader")
    rows = torch.arange(20).view(5, 4)
    with pytest.raises(DataError, match=r"items \[4, 5, 6, 7\], go from -1 to 0"):
        list(reader(problem.dataset, None, "train", rows, random.key(0), augment=False))
