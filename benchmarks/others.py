"""What BackPACK, Opacus, curvlinops and a plain `vmap(grad)` compute of a problem, under the names of our own probes.

Each is called as its manual says: on the sum of the losses, so that per-example gradients have no factor 1/B, and
curvlinops on the mean.
"""

from __future__ import annotations

from collections.abc import Callable

import backpack
import curvlinops
import torch
from backpack import extensions
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn
from torch.func import grad, vmap

from benchmarks import plain
from benchmarks.sequential import equivalent
from benchmarks.shares import MODERN
from deepobs_func.base import BATCH_DIMS, Batch, Params, one_example
from deepobs_func.problems.problem import Problem

Tree = dict[str, Tensor]


class BackPACK:
    """Extensions of the backward pass; the gradient itself comes with it."""

    def __init__(self, problem: Problem, params: Params, batch: Batch) -> None:
        net, self._by_name = equivalent(problem, params, batch)
        self._net, self._batch = backpack.extend(net), batch
        self._loss = backpack.extend(nn.CrossEntropyLoss(reduction="sum"))

    def per_example_grads(self) -> Tree:
        return self._extended(extensions.BatchGrad())

    def sq_norms(self) -> Tensor:
        return torch.stack(list(self._extended(extensions.BatchL2Grad()).values())).sum(0)

    def sum_of_squares(self) -> Tree:
        return self._extended(extensions.SumGradSquared())

    def variance(self) -> Tree:
        return self._extended(extensions.Variance())

    def ggn_diagonal(self) -> Tree:
        """Of the mean, as ours; BackPACK's is of the sum here."""
        size = len(self._batch.x)
        return {name: leaf / size for name, leaf in self._extended(extensions.DiagGGNExact()).items()}

    def _extended(self, extension: extensions.backprop_extension.BackpropExtension) -> Tree:
        self._net.zero_grad()
        with backpack.backpack(extension):
            self._loss(self._net(self._batch.x), self._batch.y).backward()
        found = {}
        for name, parameter in self._by_name.items():
            found[name] = getattr(parameter, extension.savefield)
            delattr(parameter, extension.savefield)  # else it is held until the next call
        return found


def stock(problem: Problem, params: Params, batch: Batch) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A problem's net of torch's own layers, on the parameters' memory, and its parameters under the problem's names.

    Dropout is left out.
    """
    if problem.name not in MODERN:
        return equivalent(problem, params, batch)
    module = plain.module(problem.name)
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    net = getattr(module, "net", module)
    by_name = dict(zip(params, net.parameters(), strict=True))
    for name, parameter in by_name.items():
        parameter.data = params[name].detach()
    return net, by_name


class Opacus:
    """Per-example gradients by hooks, and their norms."""

    def __init__(self, problem: Problem, params: Params, batch: Batch) -> None:
        net, self._by_name = stock(problem, params, batch)
        self._net, self._batch = GradSampleModule(net, loss_reduction="sum"), batch
        self._losses = problem.criterion

    def per_example_grads(self) -> Tree:
        self._net.zero_grad()  # of per-example gradients too
        self._losses(self._net(self._batch.x), self._batch).sum().backward()
        found = {name: parameter.grad_sample for name, parameter in self._by_name.items()}
        self._net.zero_grad()
        return found

    def sq_norms(self) -> Tensor:
        return _sq_norms(self.per_example_grads())


class OpacusGhost:
    """Opacus' norms without the gradients, where it knows how (dense layers)."""

    def __init__(self, problem: Problem, params: Params, batch: Batch) -> None:
        net, _ = stock(problem, params, batch)
        self._net, self._batch = GradSampleModuleFastGradientClipping(net, loss_reduction="sum"), batch
        self._losses = problem.criterion

    def sq_norms(self) -> Tensor:
        self._net.zero_grad()
        self._losses(self._net(self._batch.x), self._batch).sum().backward()
        return self._net.get_norm_sample().square()


class Curvlinops:
    """Products with curvature matrices of the mean loss."""

    def __init__(self, problem: Problem, params: Params, batch: Batch) -> None:
        net, by_name = equivalent(problem, params, batch)
        arguments = net, nn.CrossEntropyLoss(), list(by_name.values()), [(batch.x, batch.y)]
        self._hessian = curvlinops.HessianLinearOperator(*arguments, check_deterministic=False)
        self._ggn = curvlinops.GGNLinearOperator(*arguments, check_deterministic=False)

    def hvp(self, v: Tree) -> Tree:
        return dict(zip(v, self._hessian @ list(v.values()), strict=True))

    def ggnvp(self, v: Tree) -> Tree:
        return dict(zip(v, self._ggn @ list(v.values()), strict=True))


def make_vmap_grad(problem: Problem) -> dict[str, Callable[[Params, Batch], Tensor | Tree]]:
    """Pure functions of `(params, batch)`: per-example gradients by transforms alone, and statistics of them."""
    grads = vmap(grad(one_example(problem.loss)), (None, BATCH_DIMS))

    def of_each(statistic: Callable[[Tensor], Tensor]) -> Callable[[Params, Batch], Tree]:
        return lambda params, batch: {name: statistic(leaf) for name, leaf in grads(params, batch).items()}

    def gram(params: Params, batch: Batch) -> Tensor:
        rows = [leaf.flatten(1) for leaf in grads(params, batch).values()]
        return torch.stack([each @ each.mT for each in rows]).sum(0)

    return {
        "per_example_grads": grads,
        "sq_norms": lambda params, batch: _sq_norms(grads(params, batch)),
        "sum_of_squares": of_each(lambda leaf: leaf.square().sum(0)),
        "variance": of_each(lambda leaf: leaf.var(0, correction=0)),
        "gram": gram,
    }


def _sq_norms(grads: Tree) -> Tensor:
    return torch.stack([leaf.flatten(1).square().sum(1) for leaf in grads.values()]).sum(0)
