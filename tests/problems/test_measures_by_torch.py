"""Targets of every kind: losses beside torch's own criterion, products with the GGN beside a dense one, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import probes, random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.problems import measures
from tests.problems.user_functions import data, problem_of

F64, B, LABELS, CLASSES, T, OUT = torch.float64, 5, 4, 3, 6, -100
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(20, 6, generator=GENERATOR)
IDS = torch.randint(0, CLASSES, (20,), generator=GENERATOR)
BITS = (torch.rand(20, LABELS, generator=GENERATOR) < 0.4).float()
SENTENCES = torch.randint(0, CLASSES, (20, T), generator=GENERATOR)
SENTENCES[torch.arange(T) >= 1 + torch.arange(20)[:, None] % T] = OUT
WEIGHT = (0.5, 2.0, 1.5)


class Kind(NamedTuple):
    """A kind of targets: the measure, torch's loss of one example, the targets, the shape of an example's outputs."""

    measure: measures.Measure
    stock: Callable[[Tensor, Tensor], Tensor]
    y: Tensor
    outputs: tuple[int, ...]


def ce(**options: Any) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda outputs, y: F.cross_entropy(outputs, y, **options)


W = torch.tensor(WEIGHT, dtype=F64)
PW = torch.tensor((0.5, 3.0, 1.0, 2.0), dtype=F64)
KINDS = {
    "regression": Kind(measures.square, nn.MSELoss(reduction="sum"), X[:, :2] ** 2, (2,)),
    "binary": Kind(measures.binary, nn.BCEWithLogitsLoss(), BITS[:, 0], ()),
    "multi-label": Kind(measures.binary, nn.BCEWithLogitsLoss(), BITS, (LABELS,)),
    "weighted multi-label": Kind(
        measures.labels(tuple(PW.tolist())), nn.BCEWithLogitsLoss(pos_weight=PW), BITS, (LABELS,)
    ),
    "classes": Kind(measures.cross_entropy, ce(), IDS, (CLASSES,)),
    "weighted classes": Kind(measures.classes(WEIGHT), ce(weight=W, reduction="sum"), IDS, (CLASSES,)),
    "tokens": Kind(measures.tokens(ignore_index=OUT), ce(ignore_index=OUT), SENTENCES, (T, CLASSES)),
    "weighted tokens": Kind(
        measures.tokens(ignore_index=OUT, weight=WEIGHT), ce(ignore_index=OUT, weight=W), SENTENCES, (T, CLASSES)
    ),
}


def net(shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    size = int(torch.tensor(shape).prod()) if shape else 1
    end = nn.Unflatten(1, shape) if shape else nn.Flatten(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, size), end)


def made(kind: Kind) -> tuple[Any, Any, Batch]:
    dataset = data(X, kind.y) if kind.y.is_floating_point() else _of_ids(kind)
    problem = problem_of(net(kind.outputs), kind.measure, dataset)
    y = kind.y[:B].double() if kind.y.is_floating_point() else kind.y[:B]
    return problem, problem.init(dtype=F64)[0], Batch.of(X[:B].double(), y)


def _of_ids(kind: Kind) -> Any:
    from deepobs_func import datasets

    return datasets.from_arrays("toy", (X, kind.y), (X, kind.y), ignore_index=kind.measure.ignore_index)


@pytest.mark.parametrize("name", KINDS)
def test_losses_are_torch_s(name: str) -> None:
    problem, params, batch = made(KINDS[name])
    outputs = problem.outputs(params, batch)
    expected = torch.stack([KINDS[name].stock(z, y) for z, y in zip(outputs, batch.y, strict=True)])
    torch.testing.assert_close(problem.loss(params, batch), expected, rtol=1e-12, atol=1e-12)
    assert problem.evaluate(params, batch).losses.isfinite().all()


@pytest.mark.parametrize("name", KINDS)
def test_products_are_those_of_a_dense_ggn(name: str) -> None:
    """`1/B sum_n J_n^T H_n J_n`, with H by torch's own criterion."""
    problem, params, batch = made(KINDS[name])
    flat = torch.cat([leaf.flatten() for leaf in params.values()])

    def outputs(vector: Tensor) -> Tensor:
        parts = vector.split([leaf.numel() for leaf in params.values()])
        given = {key: part.view_as(leaf) for (key, leaf), part in zip(params.items(), parts, strict=True)}
        return problem.outputs(given, batch)

    jacobian, z = torch.func.jacrev(outputs)(flat), outputs(flat)
    dense = torch.zeros(len(flat), len(flat), dtype=F64)
    for n in range(B):
        hessian = torch.func.hessian(lambda own, n=n: KINDS[name].stock(own, batch.y[n]))(z[n])
        size = max(1, z[n].numel())
        j = jacobian[n].reshape(size, -1)
        dense += j.mT @ hessian.reshape(size, size) @ j / B
    v = {key: torch.randn_like(leaf) for key, leaf in params.items()}
    found = torch.cat([leaf.flatten() for leaf in probes.ggnvp(problem, params, batch, v).values()])
    expected = dense @ torch.cat([leaf.flatten() for leaf in v.values()])
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_samples_have_the_hessian_as_covariance(name: str) -> None:
    kind, draws = KINDS[name], 6000
    z = torch.randn(1, *kind.outputs, dtype=F64, generator=torch.Generator().manual_seed(1))
    y = kind.y[4:5].double() if kind.y.is_floating_point() else kind.y[4:5]
    batch = Batch.of(torch.zeros(draws, 1), y.expand(draws, *y.shape[1:]))
    drawn = kind.measure.sample(z.expand(draws, *kind.outputs), batch, random.key(0)).reshape(draws, -1)
    hessian = torch.func.hessian(lambda own: kind.stock(own, y[0]))(z[0]).reshape(drawn.shape[1], -1)
    torch.testing.assert_close(drawn.mT @ drawn / draws, hessian, rtol=0.1, atol=0.06)


@pytest.mark.parametrize("make", [measures.classes, measures.labels])
def test_weights_that_are_none_are_refused(make: Callable[[Any], measures.Measure]) -> None:
    with pytest.raises(ConfigError, match="finite and at least 0"):
        make((1.0, -1.0))
    logits = torch.zeros(2, 3)
    y = torch.zeros(2, 3) if make is measures.labels else torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ConfigError, match=r"has 2 numbers for logits of 3 (classes|labels)"):
        make((1.0, 1.0)).losses(logits, Batch.of(logits, y))
