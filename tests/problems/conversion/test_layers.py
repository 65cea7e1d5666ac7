"""Each converted layer beside the stock one: its training phase under the same masks, its test phase, its gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deepobs_func import probes, problems
from deepobs_func.backend.kernels import using
from deepobs_func.base import Batch
from deepobs_func.datasets.torchvision_parts import torchvision_datasets
from deepobs_func.errors import ConfigError
from deepobs_func.probes.per_example import explain
from deepobs_func.problems.conversion.base import Converted
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem
from tests.problems.conversion.stock import (
    SHAPES,
    assert_test_phase,
    assert_training_phase,
    at_float64,
    cloned,
    close,
    data,
    make,
    stock,
)

torchvision_datasets()  # so that torchvision can be imported
from torchvision.ops import StochasticDepth  # noqa: E402


class Net(nn.Module):
    """A layer between a trained scale and a dense layer; of a layer's results the first."""

    def __init__(self, kind: str, layer: nn.Module, call: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.layer, self.call = layer, call
        self.scale = nn.Parameter(torch.full(SHAPES[kind], 1.1)) if kind != "ids" else None
        training = layer.training
        features = self.seen(torch.zeros(2, 5, dtype=torch.int64) if kind == "ids" else torch.randn(2, *SHAPES[kind]))
        self.head = nn.Linear(features.shape[1], 3)
        self.train(training)
        for buffer in self.buffers():
            if buffer.is_floating_point():
                buffer.add_(0.3)  # running statistics that are not those of the start

    def seen(self, x: Tensor) -> Tensor:
        found = self.layer(x) if self.call is None else self.call(self.layer, x)
        return (found[0] if isinstance(found, tuple) else found).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.seen(x if self.scale is None else x * self.scale))


def problem_of(kind: str, layer: nn.Module, call: Callable[..., Any] | None = None) -> Problem:
    torch.manual_seed(0)
    return make(Net(kind, layer, call), data(kind))


def attended(layer: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Self-attention in which the last key of half of the examples is hidden."""
    hidden = torch.zeros(x.shape[:2], dtype=torch.bool).index_fill(1, torch.tensor([x.shape[1] - 1]), True)
    return layer(x, x, x, key_padding_mask=hidden & (x[:, :, 0] > 0), **options)[0]


def steps_first(layer: nn.Module, x: Tensor) -> Tensor:
    y = layer(x.transpose(0, 1))
    return (y[0] if isinstance(y, tuple) else y).transpose(0, 1)


def not_tracking(layer: nn.Module) -> nn.Module:
    layer.track_running_stats = False
    return layer


LAYERS: dict[str, tuple[Any, ...]] = {
    "BatchNorm1d": ("vector", lambda: nn.BatchNorm1d(6)),
    "BatchNorm1d of signals": ("signal", lambda: nn.BatchNorm1d(4, momentum=None)),
    "BatchNorm2d": ("image", lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=0.3)),
    "BatchNorm2d, not affine": ("image", lambda: nn.BatchNorm2d(4, affine=False)),
    "BatchNorm3d": ("volume", lambda: nn.BatchNorm3d(2)),
    "BatchNorm1d, not tracking later": ("vector", lambda: not_tracking(nn.BatchNorm1d(6))),
    "InstanceNorm2d, not tracking later": (
        "image",
        lambda: not_tracking(nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    ),
    "InstanceNorm2d": ("image", lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True)),
    "spectral_norm": ("vector", lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 4))),
    "Dropout": ("vector", lambda: nn.Dropout(0.4)),
    "Dropout1d": ("signal", lambda: nn.Dropout1d(0.4)),
    "Dropout2d": ("image", lambda: nn.Dropout2d(0.4)),
    "Dropout1d of rows": ("vector", lambda: nn.Dropout1d(0.4)),
    "Dropout2d of rows": ("vector", lambda: nn.Dropout2d(0.4)),
    "Dropout2d of signals": ("signal", lambda: nn.Dropout2d(0.4)),
    "Dropout3d of images": ("image", lambda: nn.Dropout3d(0.4)),
    "Dropout3d of signals": ("signal", lambda: nn.Dropout3d(0.4)),
    "Dropout3d": ("volume", lambda: nn.Dropout3d(0.4)),
    "StochasticDepth": ("image", lambda: StochasticDepth(0.4, "row")),
    "StochasticDepth, batch": ("image", lambda: StochasticDepth(0.4, "batch")),
    "MultiheadAttention": ("signal", lambda: nn.MultiheadAttention(6, 2, 0.3, batch_first=True), attended),
    "MultiheadAttention, extended": (
        "signal",
        lambda: nn.MultiheadAttention(6, 2, 0.3, False, True, True, batch_first=True),
        attended,
    ),
    "TransformerEncoderLayer": ("signal", lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.2, batch_first=True)),
    "TransformerEncoderLayer, steps first": ("signal", lambda: nn.TransformerEncoderLayer(6, 2, 8, 0.2), steps_first),
    "LSTM": ("signal", lambda: nn.LSTM(6, 3, 2, batch_first=True)),
    "GRU": ("signal", lambda: nn.GRU(6, 3, 2, batch_first=True)),
    "F.dropout": ("vector", nn.Identity, lambda layer, x: F.dropout(F.dropout(x, 0.2, layer.training).tanh(), 0.5)),
    "F.scaled_dot_product_attention": (
        "signal",
        nn.Identity,
        lambda layer, x: F.scaled_dot_product_attention(x, x, x, None, 0.3 if layer.training else 0.0, True),
    ),
    "Conv1d": ("signal", lambda: nn.Conv1d(4, 4, 3, 2, "valid", 1, 2)),
    "Conv2d": ("image", lambda: nn.Conv2d(4, 4, 3, 2, 1, dilation=2, padding_mode="circular")),
    "Conv2d, depthwise": ("image", lambda: nn.Conv2d(4, 8, 3, padding="same", groups=4, bias=False)),
    "Conv3d": ("volume", lambda: nn.Conv3d(2, 2, 2)),
    "ConvTranspose2d": ("image", lambda: nn.ConvTranspose2d(4, 2, 3, 2, 1, output_padding=1)),
    "Embedding": ("ids", lambda: nn.Embedding(7, 4, padding_idx=2)),
    "LayerNorm": ("signal", lambda: nn.LayerNorm(6)),
    "LayerNorm of two axes": ("image", lambda: nn.LayerNorm((6, 6), bias=False)),
    "GroupNorm": ("image", lambda: nn.GroupNorm(2, 4)),
    "RMSNorm": ("signal", lambda: nn.RMSNorm(6)),
}
QUICK = (
    "BatchNorm2d",
    "InstanceNorm2d, not tracking later",
    "Dropout1d of rows",
    "Dropout2d",
    "Dropout3d of images",
    "MultiheadAttention",
    "F.dropout",
    "Conv2d, depthwise",
)
TABLE = [pytest.param(name, marks=() if name in QUICK else pytest.mark.large) for name in LAYERS]


@pytest.mark.parametrize("name", TABLE)
def test_a_layer_is_the_stock_one(name: str) -> None:
    kind, layer, *call = LAYERS[name]
    problem = problem_of(kind, layer(), *call)
    assert_training_phase(problem)
    if name != "F.dropout":  # whose second call draws in evaluation too
        assert_test_phase(problem)
    params, batch = at_float64(problem)
    by_kernels, by_primitives = (
        make(problem)(params, batch) for make in (make_plain_value_and_grad, make_value_and_grad)
    )
    close(by_kernels.grads, by_primitives.grads, 1e-9)
    close(by_kernels.state.moments, by_primitives.state.moments)
    bn = None if problem.separable else "eval"
    found = probes.per_example_grads(problem, params, batch, bn=bn)
    loss = problem.loss if problem.separable else problem.loss_by_moments
    for n in range(3):
        example = Batch(
            batch.x[n : n + 1], batch.y[n : n + 1], {k: m[n : n + 1] for k, m in batch.noise.items()}, batch.state
        )
        trained = {key: leaf.clone().requires_grad_() for key, leaf in params.items()}
        right = torch.autograd.grad(loss(trained, example).sum(), list(trained.values()))
        for key, grad in zip(trained, right, strict=True):
            close(found[key][n], grad, 1e-9)
    if name not in BY_ROWS:
        ways = explain(problem, params, bn=bn)
        assert all("layer" in way for key, way in ways.items() if key.startswith("layer.")), ways


BY_ROWS = ("LSTM", "GRU", "spectral_norm", "MultiheadAttention, extended", "TransformerEncoderLayer, steps first")
"""Some of whose parameters have no formula."""


@pytest.mark.parametrize("given", ["train", "eval"])
def test_the_setting_of_each_part_holds_in_the_training_phase(given: str) -> None:
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    net[0].train(given == "train")
    problem = make(net, data("vector"))
    assert problem.separable == (given == "eval")
    assert problem.normalizes == (given == "train")
    assert list(problem.noises) == ["1"]
    params, batch = at_float64(problem)
    assert batch.noise["1"].shape == (3, 6)
    moved = problem.loss_and_state(params, batch)[1].moments["0.running_mean"]
    assert torch.equal(moved, batch.state.moments["0.running_mean"]) == (given == "eval")
    assert not make(net.eval(), data("vector")).noises


def test_batch_norm_frozen_and_eval() -> None:
    problem = make(nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), data("vector"))
    params, batch = at_float64(problem, 8)
    frozen = batch._replace(state=problem.batch_moments(params, batch))
    close(problem.loss_by_moments(params, frozen), problem.loss(params, batch))
    coupled = probes.per_example_grads(problem, params, batch, bn="coupled")
    right = torch.func.jacrev(lambda p: problem.loss(p, batch))(params)
    for name in params:
        close(coupled[name], right[name])
    with pytest.raises(ConfigError, match="bn='coupled'"):
        probes.per_example_grads(problem, params, batch)


def test_nets_that_couple_otherwise_too_take_bn_coupled_alone() -> None:
    net = nn.Sequential(nn.BatchNorm1d(6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    problem = make(net, data("vector"))
    params, batch = at_float64(problem, 4)
    assert not problem.normalizes
    with pytest.raises(ConfigError, match="couples its examples by other means"):
        probes.per_example_grads(problem, params, batch, bn="eval")


def test_a_layer_that_is_called_twice_draws_twice() -> None:
    drop = nn.Dropout(0.5)
    problem = make(nn.Sequential(drop, nn.Linear(6, 5), drop, nn.Linear(5, 3)), data("vector"))
    batch = problem.fake_batch(4)
    assert {name: mask.shape for name, mask in batch.noise.items()} == {"0": (4, 6), "0#1": (4, 5)}
    assert_training_phase(problem)


def test_tied_weights_have_no_formula() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(7, 7), nn.Linear(7, 7)
            self.head.weight = self.embed.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.embed(x)).mean(1)

    problem = make(Tied(), data("ids"))
    params, batch = at_float64(problem)
    ways = explain(problem, params)
    assert ways["embed.weight"] == "vmap(grad)"
    assert "layer" not in ways["embed.weight"]
    assert "head" in ways["head.bias"]
    found = probes.per_example_grads(problem, params, batch)["embed.weight"]
    right = torch.func.jacrev(lambda p: problem.loss(p, batch))(params)["embed.weight"]
    close(found, right)


def test_dropout_between_recurrent_layers() -> None:
    torch.manual_seed(0)
    problem = problem_of("signal", nn.GRU(6, 3, 2, batch_first=True, dropout=0.5, bidirectional=True))
    params, batch = at_float64(problem)
    mask = batch.noise["layer"]
    assert mask.shape == (3, 4, 6)
    first, second = (nn.GRU(6, 3, batch_first=True, bidirectional=True).double() for _ in range(2))
    for layer, gru in enumerate((first, second)):
        named = {name: params[f"layer.{name.replace('l0', f'l{layer}')}"] for name, _ in gru.named_parameters()}
        gru.load_state_dict(named)
    hidden = second(first(batch.x * params["scale"])[0] * mask / 0.5)[0].flatten(1)
    logits = hidden @ params["head.weight"].mT + params["head.bias"]
    close(problem.outputs(params, batch), logits)
    assert_test_phase(problem)


class Jitter(nn.Module):
    """Adds noise in training, and declares how it draws."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) if self.training else x

    def draw_noise(self, key: Tensor, shape: tuple[int, ...]) -> Tensor:
        from deepobs_func import random

        return random.normal(key, shape)

    def forward_with_noise(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + noise.to(x.dtype)


def test_a_declared_draw() -> None:
    problem = make(nn.Sequential(Jitter(), nn.Linear(6, 3)), data("vector"))
    params, batch = at_float64(problem)
    moved = (batch.x + batch.noise["0"]) @ params["1.weight"].mT + params["1.bias"]
    close(problem.outputs(params, batch), moved)
    assert_test_phase(problem)


class Drawing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand(x.shape[1])


def test_a_layer_that_draws_is_refused_by_its_name() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.Sequential(Drawing()), nn.Linear(6, 3))
    with pytest.raises(ConfigError, match=r"in the layer '1.0' \(Drawing\), from the generator of torch"):
        make(net, data("vector"))
    pool = nn.Sequential(nn.FractionalMaxPool2d(2, 3), nn.Flatten(), nn.Linear(36, 3))
    with pytest.raises(ConfigError, match=r"'0' \(FractionalMaxPool2d\).*draw_noise\(key, shape\)"):
        make(pool, data("image"))


def test_draws_without_an_axis_of_examples_are_refused() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.drop(torch.cat((x, x[:1])))[: len(x)])

    with pytest.raises(ConfigError, match=r"The layer 'drop' draws numbers of the shape \(3, 6\)"):
        make(Padded(), data("vector"))


def test_alpha_dropout_keeps_mean_and_variance_in_the_mean() -> None:
    net = nn.Sequential(nn.AlphaDropout(0.3), nn.Linear(6, 3))
    problem = make(net, data("vector"))
    (layer,) = (module for module in problem.net.modules() if isinstance(module, Converted) and module.path == "0")
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0))
    keep = torch.rand(20000, generator=torch.Generator().manual_seed(1)) < 0.7
    y = layer.apply_mask(x, keep, 0.3)
    assert abs(float(y.mean())) < 0.02
    assert abs(float(y.var()) - 1) < 0.03
    torch.manual_seed(3)
    stock_y = F.alpha_dropout(torch.full((4000,), 2.0), 0.3, training=True).unique()
    ours = torch.stack([layer.apply_mask(torch.tensor(2.0), torch.tensor(kept), 0.3) for kept in (False, True)])
    torch.testing.assert_close(ours.sort().values, stock_y)


def test_random_slopes_are_in_their_range() -> None:
    problem = make(nn.Sequential(nn.RReLU(0.1, 0.4), nn.Linear(6, 3)), data("vector"))
    params, batch = at_float64(problem)
    slopes = 0.1 + 0.3 * batch.noise["0"].double()
    hidden = torch.where(batch.x >= 0, batch.x, slopes * batch.x)
    close(problem.outputs(params, batch), hidden @ params["1.weight"].mT + params["1.bias"])
    assert_test_phase(problem)


def test_the_module_comes_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    before = cloned(net.state_dict())
    problem = make(net, data("vector"))
    params, batch = at_float64(problem)
    _, state = problem.loss_and_state(params, batch)
    back = problem.to_module(params, state)
    assert [type(part) for part in back] == [nn.BatchNorm1d, nn.Dropout, nn.Linear]
    assert list(back.state_dict()) == list(before)
    assert back[0].num_batches_tracked == 1
    assert back[2].weight.data_ptr() == params["2.weight"].data_ptr()
    fresh = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).double()
    fresh.load_state_dict(back.state_dict())
    close(fresh.eval()(batch.x), back.eval()(batch.x))
    assert all(torch.equal(before[name], leaf) for name, leaf in net.state_dict().items())
    assert stock(problem, params, state)[0].training


def test_masks_of_examples_that_are_not_in_front_are_refused() -> None:
    class StepsFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.head = nn.Dropout(0.5), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            steps = self.drop(x.transpose(0, 1).flatten(0, 1)).unflatten(0, (4, len(x)))
            return self.head(steps.mean(0))

    with pytest.raises(ConfigError, match=r"The masks that the layers \['drop'\] draw"):
        make(StepsFirst(), data("signal"))


def test_batch_norm_that_starts_at_zero_couples_all_the_same() -> None:
    net = nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3))
    nn.init.zeros_(net[0].weight)
    assert not make(net, data("vector")).separable


def test_half_precision_leaves_counts_whole() -> None:
    problem = make(nn.Sequential(nn.BatchNorm1d(6), nn.Linear(6, 3)), data("vector"))
    params, state = problem.init()
    with using(autocast=torch.bfloat16):
        _, after = problem.loss_and_state(params, problem.fake_batch(4)._replace(state=state))
    assert {name: leaf.dtype for name, leaf in after.moments.items()} == {
        "0.running_mean": torch.float32,
        "0.running_var": torch.float32,
        "0.num_batches_tracked": torch.int64,
    }


def test_a_module_of_another_precision_is_listened_to() -> None:
    for dtype in (torch.float16, torch.float64):
        problem = make(nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 3)).to(dtype), data("vector"))
        assert list(problem.noises) == ["0"]
        assert list(problem.layers) == ["1"]


def test_a_module_that_cannot_be_listened_to_is_refused() -> None:
    class Picky(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) == 2:
                raise RuntimeError("two are a crowd")
            return super().forward(x)

    with pytest.raises(ConfigError, match="RuntimeError: two are a crowd"):
        make(nn.Sequential(nn.Dropout(0.5), Picky(6, 3)), data("vector"))


def test_formulas_hold_before_an_operation_in_place() -> None:
    def net(inplace: bool) -> nn.Module:
        torch.manual_seed(0)
        relu = nn.ReLU(inplace=inplace)
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 6), relu, nn.Linear(6, 10), relu)

    found = []
    for inplace in (False, True):
        problem = problems.from_module(net(inplace), nn.CrossEntropyLoss(reduction="none"), "mnist")
        assert [layer.known for layer, _ in problem.layers.values()] == [("weight", "bias")] * 2
        params, _ = problem.init(0)
        found.append(probes.per_example_sq_norms(problem, params, problem.fake_batch(5)))
    torch.testing.assert_close(found[1], found[0])
