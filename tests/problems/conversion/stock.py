"""Stock modules beside the problems that are made of them: the same masks, put where torch draws."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import datasets, problems
from deepobs_func.base import Batch, ModelState, Params
from deepobs_func.problems.problem import Problem

F64 = torch.float64


SHAPES = {"vector": (6,), "signal": (4, 6), "image": (4, 6, 6), "volume": (2, 4, 4, 4)}


def data(kind: str) -> datasets.DatasetSpec:
    r = np.random.RandomState(0)
    x = r.randint(0, 7, (12, 5)) if kind == "ids" else r.normal(size=(12, *SHAPES[kind])).astype(np.float32)
    return datasets.from_arrays("toy", (x, np.arange(12) % 3), (x, np.arange(12) % 3))


def stock(problem: Problem, params: Params, state: ModelState) -> nn.Module:
    """The user's module with leaves of its own at some values, in float64."""
    net = problem.to_module({n: p.clone() for n, p in params.items()}, ModelState(cloned(state.moments), {}))
    assert not any(leaf.is_meta for leaf in net.state_dict().values())
    return net


def cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tensors.items()}


@contextlib.contextmanager
def masks(noise: dict[str, Tensor]) -> Iterator[None]:
    """Within it, dropout of every kind takes the next of some masks, which are all used up at the end."""
    left = list(noise.values())
    real = {name: getattr(F, name) for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")}

    def kept(x: Tensor, p: float, function: Any = None) -> Tensor:
        mask = left.pop(0)
        if mask.ndim > x.ndim:  # one for all examples, or heads of all examples in one axis
            mask = mask[0] if mask[0, ..., 0].numel() == 1 else mask.flatten(0, 1)
        elif mask.shape[0] != x.shape[0]:  # examples behind
            mask = mask.transpose(0, 1)
        assert function is None or mask.shape == drawn_shape(function, x)
        return x * mask.to(x.dtype) / (1 - p)

    def dropping(function: Any) -> Any:
        def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
            y = kept(x, p, function) if training and p else x
            return x.copy_(y) if inplace else y

        return dropout

    def attention(
        q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout_p: float = 0.0, is_causal: bool = False
    ) -> Tensor:
        weights = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        if is_causal:
            mask = torch.full(weights.shape[-2:], -1e300, dtype=F64).triu(1)
        weights = (weights if mask is None else weights + mask).softmax(-1)
        return (kept(weights, dropout_p) if dropout_p else weights) @ v

    def stochastic_depth(x: Tensor, p: float, mode: str, training: bool = True) -> Tensor:
        return kept(x, p) if training and p else x

    with contextlib.ExitStack() as patches:
        for name, function in real.items():
            patches.enter_context(mock.patch.object(F, name, dropping(function)))
        patches.enter_context(mock.patch.object(F, "scaled_dot_product_attention", attention))
        depth = sys.modules.get("torchvision.ops.stochastic_depth")
        if depth is not None:
            patches.enter_context(mock.patch.object(depth, "stochastic_depth", stochastic_depth))
        yield
    assert not left, f"{len(left)} masks were not asked for"


def drawn_shape(function: Any, x: Tensor) -> tuple[int, ...]:
    """Of what a function of torch draws for an input: along an axis of one draw all is dropped or nothing is."""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that an axis of examples is missing
        torch.manual_seed(0)
        drawn = torch.stack([function(torch.ones(x.shape), 0.5, True) for _ in range(20)])
    return tuple(
        1 if torch.equal(drawn, drawn.select(axis, 0).unsqueeze(axis).expand_as(drawn)) else drawn.shape[axis]
        for axis in range(1, drawn.ndim)
    )


def at_float64(problem: Problem, size: int = 3, seed: int = 1) -> tuple[Params, Batch]:
    """The start of a problem, moved a little, and a batch."""
    params, state = problem.init(dtype=F64)
    generator = torch.Generator().manual_seed(0)
    moved = {n: p + 0.05 * torch.randn(p.shape, generator=generator, dtype=F64) for n, p in params.items()}
    return moved, problem.fake_batch(size, seed, dtype=F64)._replace(state=state)


def losses(problem: Problem, net: nn.Module, batch: Batch) -> Tensor:
    """Of a stock module in its training phase, under the batch's masks."""
    with masks(batch.noise):
        return problem.measure.losses(net(batch.x), batch)


def assert_training_phase(problem: Problem, size: int = 3) -> None:
    """Losses and running statistics are those of the stock module under the same masks, for three batches."""
    params, batch = at_float64(problem, size)
    net = stock(problem, params, batch.state)
    held = dict(net.named_buffers())
    for step in range(3 if held else 1):
        batch = batch._replace(x=problem.fake_batch(size, step + 1, dtype=F64).x)
        right = losses(problem, net, batch)
        found, state = problem.loss_and_state(params, batch)
        close(found, right)
        for name, moment in state.moments.items():
            if name in held:
                close(moment, held[name])
        batch = batch._replace(state=state)
    assert batch.noise.keys() == {name for name, place in problem.noises.items() if place.in_training}


def close(found: Any, right: Any, rtol: float = 1e-10) -> None:
    torch.testing.assert_close(found, right, rtol=rtol, atol=rtol)


def assert_test_phase(problem: Problem, size: int = 3) -> None:
    """Evaluation is that of the stock module in `eval()`."""
    params, batch = at_float64(problem, size)
    net = stock(problem, params, batch.state).eval()
    with torch.no_grad():
        right = problem.measure.losses(net(batch.x), batch)
    close(problem.evaluate(params, batch).losses, right)


def make(net: Any, data: Any, **options: Any) -> Problem:
    from deepobs_func.problems import measures

    return problems.from_module(net, measures.cross_entropy, data, name="made", batch_size=4, **options)
