"""Problems of foreign modules: derivatives that are right, or refused with the name of the layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from deepobs_func import datasets, probes, problems
from deepobs_func.backend.kernels import using
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.probes.catalog import MODES
from deepobs_func.probes.differences import nodes
from deepobs_func.problems import measures
from deepobs_func.problems.oracle import make_plain_value_and_grad
from deepobs_func.problems.problem import Problem

F64 = torch.float64
Tree = dict[str, Tensor]


class Exponential(torch.autograd.Function):
    """The exponential, whose backward pass hides from a second derivative what it depends on."""

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        return x.exp(), x.detach().exp()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.factor = output[1].detach().clone()
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> Tensor:
        return grad * ctx.factor


class OldStyle(torch.autograd.Function):
    """The square; `torch.func` asks for setup_context."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return 2 * grad * ctx.saved_tensors[0]


class Custom(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Looks(nn.Module):
    """Reads a value, which `vmap` cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (2.0 if x.sum().item() > 1e9 else 1.0)


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.inner, self.reentrant = nn.Linear(5, 5), reentrant

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(lambda h: torch.tanh(self.inner(h)), x, use_reentrant=self.reentrant)


def problem_of(*middle: nn.Module) -> tuple[Problem, Tree, Batch, nn.Module]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), *middle, nn.Linear(5, 3))
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(6, 4)), generator.integers(0, 3, 6)
    data = datasets.from_arrays("small", (x, y), (x, y))
    problem = problems.from_module(net, measures.cross_entropy, data, name="small")
    params, state = problem.init(dtype=F64)
    return problem, params, Batch(torch.from_numpy(x), torch.from_numpy(y), {}, state), net.double()


def rows_by_loop(net: nn.Module, batch: Batch) -> Tensor:
    rows = []
    for x, y in zip(batch.x, batch.y, strict=True):
        loss = F.cross_entropy(net(x.unsqueeze(0)), y.unsqueeze(0))
        rows.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(net.parameters()))]))
    return torch.stack(rows)


def matrix_of(tree: Tree) -> Tensor:
    return torch.cat([leaf.reshape(len(leaf), -1) for leaf in tree.values()], 1)


def test_a_wrong_second_derivative_is_refused_by_the_name_of_the_layer() -> None:
    problem, params, batch, net = problem_of(Custom(lambda x: Exponential.apply(x)[0]))
    assert not [mode for mode in MODES if problem.ways.offers(mode)]
    for ask in (probes.hvp, lambda *at: probes.trace(*at[:3], key=torch.tensor([0, 1]))):
        with pytest.raises(ConfigError, match=r"the layer '1' \(tests's Custom\)"):
            ask(problem, params, batch, params)
    rows = probes.per_example_grads(problem, params, batch)  # the first derivative is right
    torch.testing.assert_close(matrix_of(rows), rows_by_loop(net, batch))


def test_a_function_without_transforms_keeps_its_first_derivatives() -> None:
    problem, params, batch, net = problem_of(Custom(OldStyle.apply))
    right = rows_by_loop(net, batch)
    torch.testing.assert_close(matrix_of(probes.per_example_grads(problem, params, batch)), right)
    statistics = probes.statistics(problem, params, batch, ["gram", "sum_of_squares"])
    torch.testing.assert_close(statistics.gram, right @ right.T)
    with pytest.raises(ConfigError, match=r"(?s)the layer '1'.*setup_context"):
        probes.hvp(problem, params, batch, params)


def test_what_vmap_cannot_do_goes_one_by_one() -> None:
    problem, params, batch, net = problem_of(Looks())
    assert not problem.ways.offers("vmap")
    torch.testing.assert_close(matrix_of(probes.per_example_grads(problem, params, batch)), rows_by_loop(net, batch))
    two = {name: torch.stack((leaf, 2 * leaf)) for name, leaf in params.items()}
    both = probes.hvp(problem, params, batch, two)
    for name, leaf in probes.hvp(problem, params, batch, params).items():
        torch.testing.assert_close(both[name], torch.stack((leaf, 2 * leaf)))


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpoints_are_refused(reentrant: bool) -> None:
    with pytest.raises(ConfigError, match=r"(?i)leave out activation checkpointing"):
        problem_of(Checkpointed(reentrant))


def test_a_stopped_gradient_is_held_constant() -> None:
    """`w s(w)` with s held has the Hessian of `w` times a constant: none but that of the criterion."""
    problem, params, batch, _ = problem_of(
        Custom(lambda x: x * x.detach().sin()), Custom(torch.special.erfcx)
    )  # an operation that is not known, so that all is examined
    assert not problem.ways.faults
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    grads = torch.autograd.grad(problem.loss(leaves, batch).mean(), list(leaves.values()), create_graph=True)
    inner = sum((g * params[name]).sum() for name, g in zip(leaves, grads, strict=True))
    right = torch.autograd.grad(inner, list(leaves.values()))
    found = probes.hvp(problem, params, batch, params)
    for name, leaf in zip(leaves, right, strict=True):
        torch.testing.assert_close(found[name], leaf)


def test_plain_gradients_keep_the_kernels_of_torch() -> None:
    problem, params, batch, _ = problem_of(nn.LayerNorm(5))
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    with using(fused=True):
        fused = nodes(problem.loss(leaves, batch).mean())
    assert "NativeLayerNormBackward0" in fused
    assert "NativeLayerNormBackward0" not in nodes(problem.loss(leaves, batch).mean())


def test_sparse_gradients_are_dense_unless_asked_for() -> None:
    torch.manual_seed(0)
    ids, y = np.random.default_rng(0).integers(0, 9, (6, 4)), np.arange(6) % 3
    data = datasets.from_arrays("ids", (ids, y), (ids, y))
    net = nn.Sequential(nn.Embedding(9, 2, sparse=True), nn.Flatten(), nn.Linear(8, 3))
    problem = problems.from_module(net, partial(F.cross_entropy, reduction="none"), data, name="ids")
    params, state = problem.init()
    batch = Batch(torch.from_numpy(ids), torch.from_numpy(y), {}, state)
    dense, sparse = (
        make_plain_value_and_grad(problem, sparse=s)(params, batch).grads["0.weight"] for s in (False, True)
    )
    assert sparse.is_sparse
    assert not dense.is_sparse
    torch.testing.assert_close(sparse.to_dense(), dense)


@pytest.mark.parametrize("mode", [None, *MODES])
def test_a_plain_loss_is_right_too(mode: Any) -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    weights = torch.arange(6, dtype=F64)

    def loss(params: Tree, batch: Tensor) -> Tensor:
        return (F.layer_norm(batch @ params["w"], (6,)) * weights).sin().sum(1)

    params = {"w": torch.randn(4, 6, generator=torch.Generator().manual_seed(1), dtype=F64)}
    v = {"w": torch.randn(4, 6, generator=torch.Generator().manual_seed(2), dtype=F64)}

    def gradient(step: float) -> Tensor:
        w = (params["w"] + step * v["w"]).requires_grad_()
        return torch.autograd.grad(loss({"w": w}, x).mean(), w)[0]

    right = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    torch.testing.assert_close(probes.hvp(loss, params, x, v, mode=mode)["w"], right, rtol=1e-6, atol=1e-8)


def test_a_plain_loss_with_a_wrong_derivative_is_refused() -> None:
    loss = lambda params, batch: Exponential.apply(batch @ params["w"])[0]
    params = {"w": torch.ones(3, dtype=F64)}
    with pytest.raises(ConfigError, match="no right derivative through the loss"):
        probes.hvp(loss, params, torch.ones(2, 3, dtype=F64), params)


@pytest.mark.parametrize("probe", [probes.hvp, probes.ggnvp, probes.fisher_vp, probes.per_example_dots])
def test_an_empty_batch_is_an_error(probe: Callable[..., Any]) -> None:
    problem = problems.get("mnist_logreg")
    params, _ = problem.init()
    batch = problem.fake_batch(2)
    empty = batch._replace(x=batch.x[:0], y=batch.y[:0])
    with pytest.raises(ConfigError, match="no examples"):
        probe(problem, params, empty, params)


@pytest.mark.parametrize("wanted", ["grads", "sq_norms", "gram", "scatter", "sum_of_squares"])
def test_inputs_may_record_gradients(wanted: Any) -> None:
    problem = problems.get("mnist_logreg")
    params, _ = problem.init()
    params = {name: leaf + 0.1 for name, leaf in params.items()}
    batch = problem.fake_batch(3)
    recording = batch._replace(x=batch.x.clone().requires_grad_())
    found, right = (getattr(probes.statistics(problem, params, b, [wanted]), wanted) for b in (recording, batch))
    torch.testing.assert_close(found, right)


@pytest.mark.parametrize("seed", [8, 113])
def test_a_net_with_batch_norm_is_taken_whatever_its_weights(seed: int) -> None:
    """Of two examples, batch norm makes 1 and -1: the gradient of what comes before is rounding alone."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    generator = np.random.default_rng(0)
    split = generator.normal(size=(32, 5)).astype(np.float32), generator.integers(0, 3, size=32)
    data = datasets.from_arrays("mine", split, split)
    assert problems.from_module(net, measures.cross_entropy, data, name="mine", batch_size=8).normalizes
