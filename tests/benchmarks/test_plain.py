"""The plain modules are the problems: as many parameters, the same loss where the parameters are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import plain, plain_losses
from deepobs_func import problems
from deepobs_func.base import Params

SECOND_BIAS = {"tolstoi_char_rnn": 2 * 4 * 128}  # of nn.LSTM
BEHIND_A_FLATTENING = {  # by the name of ours: the shape before it
    "mnist_2c2d": {"dense1.weight": (64, 7, 7)},
    "cifar10_3c3d": {"dense1.weight": (128, 3, 3)},
    "mnist_vae": {
        "encoder.mean.weight": (64, 7, 7),
        "encoder.log_std.weight": (64, 7, 7),
        "decoder.dense3.weight": (64, 14, 14),
    },
}
EQUAL = (
    *("mnist_logreg", "mnist_mlp", "mnist_2c2d", "mnist_vae", "cifar10_3c3d", "cifar100_allcnnc", "svhn_wrn164"),
    *("tolstoi_char_rnn", "quadratic_deep", "two_d_rosenbrock", "two_d_beale", "two_d_branin"),
    *("cifar10_resnet18", "cifar10_resnet18_gn", "cifar100_vit", "tolstoi_gpt"),
)


def _channels_first(weight: Tensor, shape: tuple[int, int, int] | None) -> Tensor:
    """From the order of a flattened image in TensorFlow to torch's."""
    if shape is None:
        return weight
    channels, height, width = shape
    return weight.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2).flatten(1)


def _lstm(params: Params, path: str) -> list[Tensor]:
    """What `nn.LSTM` holds: gates i, f, g, o; ours adds 1 to the forget gate."""
    weight, bias = (params[f"{path}.{leaf}"] for leaf in ("weight", "bias"))
    i, j, f, o = weight.chunk(4)
    weight = torch.cat((i, f, j, o))
    bi, bj, bf, bo = bias.chunk(4)
    return [weight[:, :128], weight[:, 128:], torch.cat((bi, bf + 1, bj, bo)), torch.zeros(512)]


def fill(module: plain.Plain, name: str, params: Params) -> None:
    """Gives the plain module the problem's parameters."""
    if name == "tolstoi_char_rnn":
        values = [params["embedding.weight"], *_lstm(params, "lstm1"), *_lstm(params, "lstm2")]
        values += [params["dense.weight"], params["dense.bias"]]
    else:
        shapes = BEHIND_A_FLATTENING.get(name, {})
        values = [_channels_first(value, shapes.get(path)) for path, value in params.items()]
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), values, strict=True):
            assert parameter.shape == value.shape
            parameter.copy_(value)


@pytest.mark.parametrize("name", plain.names())
def test_as_many_parameters(name: str) -> None:
    with torch.device("meta"):
        module = plain.module(name)
    assert sum(p.numel() for p in module.parameters()) == problems.spec_of(name).parameters + SECOND_BIAS.get(name, 0)


def test_all_but_inception_are_there() -> None:
    assert set(problems.SETS["deepobs"]) - set(plain.names()) == {"imagenet_inception_v3"}


@pytest.mark.large
@pytest.mark.parametrize("name", EQUAL)
def test_the_same_loss_and_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, module = problems.get(name), plain.module(name)
    params, _ = problem.init(seed=1)
    params = {path: value + 0.01 if "logreg" in name else value for path, value in params.items()}
    batch = problem.fake_batch(4, seed=2)
    batch = batch._replace(noise={path: draw for path, draw in batch.noise.items() if draw.dtype != torch.bool})
    fill(module, name, params)
    for part in module.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    monkeypatch.setattr(plain_losses.VAE, "epsilon", lambda self, mean: batch.noise["epsilon"], raising=True)
    torch.testing.assert_close(module.loss(batch.x, batch.y), problem.loss(params, batch).mean(), rtol=1e-5, atol=1e-6)
    if name != "tolstoi_char_rnn":  # whose second biases have gradients too
        module.loss(batch.x, batch.y).backward()
        grads = torch.func.grad(lambda p: problem.loss(p, batch).mean())(params)
        squares = sum(float(grad.square().sum()) for grad in grads.values())
        found = sum(float(p.grad.square().sum()) for p in module.parameters() if p.grad is not None)
        assert found == pytest.approx(squares, rel=1e-3)


def test_weight_decay_is_the_penalty() -> None:
    problem, module = problems.get("cifar10_3c3d"), plain.module("cifar10_3c3d")
    params, _ = problem.init(seed=1)
    fill(module, "cifar10_3c3d", params)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    plain.sgd(module, problem, lr=1.0).step()
    grads = torch.func.grad(problem.penalty)(params)
    moved = {name: params[name] - grads[name] for name in params}
    expected = plain.module("cifar10_3c3d")
    fill(expected, "cifar10_3c3d", moved)
    for found, wanted in zip(module.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)
