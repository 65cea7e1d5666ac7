"""Small smooth problems of every kind of criterion, and dense float64 oracles that share no code with the probes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from deepobs_func import datasets, problems
from deepobs_func.base import Batch
from deepobs_func.nets.images import flatten
from deepobs_func.nets.inception import InceptionOutputs
from deepobs_func.nets.layers import BatchNorm, Conv, Dense, Pass
from deepobs_func.nets.vae import VAEOutputs
from deepobs_func.probes import LinearMap
from deepobs_func.problems import measures
from deepobs_func.problems.problem import Problem

F64 = torch.float64


class Sequential(nn.Module):
    """Dense layers with tanh between them; the last one makes the outputs."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, dtype=F64) for a, b in itertools.pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


class Standardised(Sequential):
    """The same after subtracting the mean of the batch, as batch norm does."""

    def forward(self, x: Tensor) -> Tensor:
        z = super().forward(x)
        return z - z.mean(0)


class Heads(nn.Module):
    """Two or three outputs that are made from a common hidden layer."""

    def __init__(self, inputs: int, hidden: int, sizes: tuple[int, ...], combine: Callable[..., object]) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, hidden, dtype=F64)
        self.heads = nn.ModuleList(nn.Linear(hidden, size, dtype=F64) for size in sizes)
        self.combine = combine

    def forward(self, x: Tensor) -> object:
        hidden = torch.tanh(self.first(x.flatten(1)))
        return self.combine(*(head(hidden) for head in self.heads))


def vae_outputs(image: Tensor, mean: Tensor, log_std: Tensor) -> VAEOutputs:
    return VAEOutputs(torch.sigmoid(image), mean, log_std)


def one_head(main: Tensor) -> InceptionOutputs:
    return InceptionOutputs(main, None)


class ConvNet(nn.Module):
    """3x7x7 with TensorFlow's padding, symmetric and not."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.conv1, self.conv2, self.dense = Conv(3, 4, 3), Conv(4, 2, 4, stride=2, bias=None), Dense(32, 10)
        self.norm = BatchNorm(4, momentum=0.9, epsilon=1e-3) if norm else None

    def forward(self, x: Tensor, p: Pass) -> Tensor:
        x = self.conv1(x, p)
        x = torch.relu(x if self.norm is None else self.norm(x, p))
        return self.dense(flatten(torch.relu(self.conv2(x, p))), p)


def conv_problem(*, norm: bool = False) -> Problem:
    x, y = np.random.default_rng(0).normal(size=(6, 3, 7, 7)), np.arange(6)
    data = datasets.from_arrays("small", (x, y), (x, y))
    return Problem("conv", data, functools.partial(ConvNet, norm=norm), measures.cross_entropy, None, not norm, 1, 1)


KINDS: dict[str, tuple[Callable[[], nn.Module], measures.Measure, tuple[int, ...], str]] = {
    "classifier": (lambda: Sequential(3, 4, 3), measures.cross_entropy, (3,), "class"),
    "regressor": (lambda: Sequential(3, 4, 2), measures.square, (3,), "target"),
    "sequence": (lambda: Sequential(3, 4, 3), measures.sequence, (2, 3), "classes"),
    "vae": (lambda: Heads(4, 3, (4, 2, 2), vae_outputs), measures.vae, (1, 2, 2), "class"),
    "two heads": (lambda: Heads(3, 3, (3, 3), InceptionOutputs), measures.inception, (3,), "class"),
    "one head": (lambda: Heads(3, 3, (3,), one_head), measures.inception, (3,), "class"),
    "coupled": (lambda: Standardised(3, 3, 3), measures.cross_entropy, (3,), "class"),
}


def targets(kind: str, generator: np.random.Generator, count: int) -> np.ndarray:
    if kind == "target":
        return generator.normal(size=(count, 2))
    return generator.integers(0, 3, size=(count, 2) if kind == "classes" else count)


def data_of(shape: tuple[int, ...], kind: str, count: int = 12) -> datasets.DatasetSpec:
    generator = np.random.default_rng(0)
    arrays = generator.normal(size=(count, *shape)), targets(kind, generator, count)
    return datasets.from_arrays("toy", arrays, arrays)


@functools.cache
def toy(kind: str) -> Problem:
    make, measure, shape, target = KINDS[kind]
    torch.manual_seed(0)
    module = make()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    data = data_of(shape, target)
    return problems.from_module(module.float(), measure, data, name=kind, weight_decay=0.1)


def instance(problem: Problem, batch_size: int = 5, seed: int = 0) -> tuple[dict[str, Tensor], Batch]:
    """Float64 parameters, away from the start, where much vanishes; and a batch."""
    params, _ = problem.init(seed, dtype=F64)
    moves = vector(params, seed + 100)
    params = {name: p + 0.1 * moves[name] for name, p in params.items()}
    return params, problem.fake_batch(batch_size, seed=seed + 1, dtype=F64)


def vector(params: dict[str, Tensor], seed: int = 1, count: int | None = None) -> dict[str, Tensor]:
    """Standard normal entries, one vector or K along a leading axis."""
    generator = torch.Generator().manual_seed(seed)
    lead = () if count is None else (count,)
    return {n: torch.randn((*lead, *p.shape), generator=generator, dtype=p.dtype) for n, p in params.items()}


def flat(tree: dict[str, Tensor]) -> Tensor:
    return torch.cat([leaf.reshape(-1) for leaf in tree.values()])


def unflat(vector: Tensor, like: dict[str, Tensor]) -> dict[str, Tensor]:
    result, start = {}, 0
    for name, leaf in like.items():
        result[name] = vector[start : start + leaf.numel()].reshape(leaf.shape)
        start += leaf.numel()
    return result


def dense_hessian(function: Callable[[dict[str, Tensor]], Tensor], params: dict[str, Tensor]) -> Tensor:
    """`(P, P)`, by double `jacrev` on flat vectors."""
    return torch.func.jacrev(torch.func.jacrev(lambda f: function(unflat(f, params))))(flat(params))


def flat_outputs(problem: Problem, params: dict[str, Tensor], batch: Batch) -> tuple[Callable, Callable]:
    """The outputs as a flat function of flat parameters, and the inverse of flattening them."""
    shape_of = problem.outputs(params, batch)
    leaves = [shape_of] if isinstance(shape_of, Tensor) else list(shape_of)

    def outputs(f: Tensor) -> Tensor:
        result = problem.outputs(unflat(f, params), batch)
        parts = [result] if isinstance(result, Tensor) else [part for part in result if part is not None]
        return torch.cat([part.reshape(-1) for part in parts])

    def rebuilt(z: Tensor) -> object:
        parts, start = [], 0
        for leaf in leaves:
            size = 0 if leaf is None else leaf.numel()
            parts.append(None if leaf is None else z[start : start + size].reshape(leaf.shape))
            start += size
        return parts[0] if isinstance(shape_of, Tensor) else type(shape_of)(*parts)

    return outputs, rebuilt


def dense_ggn(problem: Problem, params: dict[str, Tensor], batch: Batch) -> Tensor:
    """`J^T H J`, `(P, P)`, with J and H dense."""
    outputs, rebuilt = flat_outputs(problem, params, batch)
    jacobian = torch.func.jacrev(outputs)(flat(params))
    criterion = lambda z: problem.criterion(rebuilt(z), batch).mean()
    hessian = torch.func.jacrev(torch.func.jacrev(criterion))(outputs(flat(params)))
    return jacobian.T @ hessian @ jacobian


def dense_empirical_fisher(problem: Problem, params: dict[str, Tensor], batch: Batch) -> Tensor:
    """`1/B sum_n g_n g_n^T`, in a loop over the losses."""
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    losses = problem.loss(leaves, batch)
    total = torch.zeros(flat(params).numel(), flat(params).numel(), dtype=F64)
    for loss in losses:
        grads = torch.autograd.grad(loss, list(leaves.values()), retain_graph=True)
        row = torch.cat([g.reshape(-1) for g in grads])
        total += torch.outer(row, row) / len(losses)
    return total


LIKE = {"a": torch.zeros(2, 3, dtype=F64), "b": torch.zeros((), dtype=F64), "c": torch.zeros(4, dtype=F64)}  # P = 11


def symmetric(size: int, seed: int = 0, *, definite: bool = False) -> Tensor:
    """A random symmetric matrix with eigenvalues of both signs, or positive ones."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(size, size, generator=generator, dtype=F64)
    return square @ square.T / size + 0.1 * torch.eye(size, dtype=F64) if definite else (square + square.T) / 2


def map_of(matrix: Tensor, like: dict[str, Tensor] = LIKE) -> LinearMap:
    return LinearMap(lambda v: unflat(matrix @ flat(v), like), like)


def map_of_size(matrix: Tensor) -> LinearMap:
    return map_of(matrix, {"v": torch.zeros(len(matrix), dtype=F64)})
