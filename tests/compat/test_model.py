"""Models of compat beside the functional core."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from deepobs_func import optimizers, problems, random
from deepobs_func.base import Batch
from deepobs_func.compat import config, layers, testproblems
from deepobs_func.compat.model import Stream
from deepobs_func.compat.testproblems import RegisteredTestProblem, architectures, testproblems_modules
from deepobs_func.errors import ConfigError
from deepobs_func.nets.rnn import LSTM
from deepobs_func.runner.step import Carry, make_step

# One problem of each family, with a batch as small as its net is large.
SMALL = {
    "quadratic_deep": 8,
    "two_d_rosenbrock": 8,
    "mnist_logreg": 8,
    "digits_mlp": 8,
}
LARGE = {
    "fmnist_2c2d": 2,
    "cifar10_3c3d": 2,
    "mnist_mlp": 8,
    "mnist_vae": 4,
    "cifar100_allcnnc": 2,
    "svhn_wrn164": 2,
    "tolstoi_char_rnn": 3,
    "tolstoi_gpt": 2,
    "mnist_convnext": 2,
    "cifar100_vit": 2,
}
LARGEST = {"imagenet_inception_v3": 2}
EVALUATED = {
    "cifar10_vgg16": 1,  # its layers are those of other families; ten steps of it take minutes and 7 GB
}
FAMILIES = (
    *SMALL,
    *(pytest.param(name, marks=pytest.mark.large) for name in LARGE),
    *(pytest.param(name, marks=pytest.mark.large) for name in LARGEST),
)
SIZES = SMALL | LARGE | LARGEST | EVALUATED
RATES = {
    "quadratic_deep": 1e-3,
    "two_d_rosenbrock": 1e-4,
    "mnist_vae": 1e-4,
    "imagenet_inception_v3": 1e-6,  # its auxiliary head normalises over two values: at 1e-4 rounding grows 20-fold
}
STEPS = {"imagenet_inception_v3": 2}  # of the others ten; one of these takes seven seconds


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    config.set_dtype("float64")
    config.set_data_dir("synthetic")
    yield
    config.set_dtype("float32")


def made(name: str, batch_size: int = 2) -> RegisteredTestProblem:
    """A test problem whose data set is not asked for."""
    return testproblems.testproblem(name, batch_size=batch_size, device="cpu")


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Data sets are made without data: batches are given."""
    monkeypatch.setattr("deepobs_func.compat.datasets.dataset.RegisteredDataSet._make_loaders", lambda self: None)


def inject(model: nn.Module, noise: dict[str, Tensor]) -> None:
    """Hooks that put a mask or an epsilon, by the path of its layer, in the place of what the layer draws."""
    for path, module in model.named_modules():
        if isinstance(module, nn.Dropout):

            def dropped(module: nn.Module, inputs: tuple[Tensor], output: Tensor, path: str = path) -> Tensor:
                (x,) = inputs
                return x * noise[path] / (1 - module.p) if module.training else output

            module.register_forward_hook(dropped)
        elif type(module).__name__ == "Normal":
            module.register_forward_hook(lambda module, inputs, output, path=path: noise[path].to(output.dtype))


def shown(problem: RegisteredTestProblem, batch: Batch) -> tuple[Tensor, Tensor]:
    return problem.dataset.shown(batch.x, batch.y)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.usefixtures("no_data")
def test_a_plain_torch_loop_equals_the_core_s_steps(name: str) -> None:
    """Steps of SGD with momentum on the same batches, masks and epsilons: the same losses, and the same model."""
    tproblem, lr = made(name), RATES.get(name, 0.01)
    core, size = tproblem.core, SIZES[name]
    params, state = core.init(3, dtype=torch.float64)
    tproblem.load_core_state(params, state)
    optimizer = torch.optim.SGD(tproblem.model.parameters(), lr=lr, momentum=0.9)
    functional = optimizers.momentum(lr, momentum=0.9)
    step = make_step(core, functional)
    carry = Carry(params, functional.init(params, random.key(0)), state)
    noise: dict[str, Tensor] = {}
    inject(tproblem.model, noise)

    tproblem.model.train()
    for seed in range(STEPS.get(name, 10)):
        batch = core.fake_batch(size, seed, dtype=torch.float64)
        noise |= batch.noise
        carry, metrics = step(carry, batch)
        loss, _ = tproblem.get_batch_loss_and_accuracy(shown(tproblem, batch))
        objective = loss + tproblem.get_regularization_loss()
        torch.testing.assert_close(loss, metrics.loss, rtol=1e-10, atol=0)
        torch.testing.assert_close(objective, metrics.loss + metrics.penalty, rtol=1e-10, atol=0)
        optimizer.zero_grad()
        objective.backward()
        optimizer.step()

    after, state = tproblem.core_state()
    torch.testing.assert_close(after, carry.params, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(state, carry.state, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("name", [*FAMILIES, *(pytest.param(name, marks=pytest.mark.large) for name in EVALUATED)])
@pytest.mark.usefixtures("no_data")
def test_evaluation_and_the_way_there_and_back(name: str) -> None:
    tproblem = made(name)
    core = tproblem.core
    params, state = core.init(5, dtype=torch.float64)
    params = {key: value + 0.01 * random.normal(random.key(7), value.shape).to(value) for key, value in params.items()}
    moments = {
        key: value + 0.1 if key.endswith(("mean", "variance")) else value for key, value in state.moments.items()
    }
    state = state._replace(moments=moments)
    tproblem.load_core_state(params, state)
    torch.testing.assert_close(tproblem.core_state(), (params, state), rtol=0, atol=0)

    batch = core.fake_batch(SIZES[name], 1, dtype=torch.float64)._replace(state=state)
    inject(tproblem.model, batch.noise)
    tproblem.model.eval()
    with torch.no_grad():
        losses, accuracy = tproblem.get_batch_loss_and_accuracy(shown(tproblem, batch), reduction="none")
    expected = core.evaluate(params, batch)
    torch.testing.assert_close(losses, expected.losses, rtol=1e-10, atol=0)
    if expected.correct is None:
        assert accuracy is None
    else:
        assert float(accuracy) == pytest.approx(float(expected.correct.double().mean()))
    assert tproblem.core_state()[1].moments.keys() == moments.keys()
    assert all(torch.equal(tproblem.core_state()[1].moments[key], value) for key, value in moments.items())


@pytest.mark.parametrize(
    "name",
    [
        "mnist_mlp",
        pytest.param("svhn_wrn164", marks=pytest.mark.large),
        pytest.param("mnist_vae", marks=pytest.mark.large),
    ],
)
@pytest.mark.usefixtures("no_data")
def test_layers_are_torch_s_own(name: str) -> None:
    model = made(name).model
    leaves = [module for module in model.modules() if not [*module.children()] and [*module.parameters()]]
    assert leaves
    assert all(type(module).__module__.startswith("torch.nn") for module in leaves)
    assert sum(parameter.numel() for parameter in model.parameters()) == problems.spec_of(name).parameters


@pytest.mark.usefixtures("no_data")
def test_the_lstm_is_torch_s_with_one_bias_that_is_trained() -> None:
    model = made("tolstoi_char_rnn").model
    assert isinstance(model.lstm1, nn.LSTM)
    assert "lstm1.bias_hh_l0" not in dict(model.named_parameters())
    assert "lstm1.bias_hh_l0" in model.state_dict()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_lstm_of_any_biases_comes_back_exactly(dtype: torch.dtype) -> None:
    layer = LSTM(3, 5)
    tensors = {
        name: torch.randn(value.shape, generator=torch.manual_seed(0), dtype=dtype)
        for name, value in layer.named_parameters()
    }
    twin = layers.twin_of(layer)
    torch.testing.assert_close(twin.to_core(twin.to_torch(tensors)), tensors, rtol=0, atol=0)


@pytest.mark.usefixtures("no_data")
def test_a_model_is_copied_and_saved_like_any_other(tmp_path) -> None:
    tproblem = made("mnist_logreg")
    x = torch.rand(2, 1, 28, 28, dtype=torch.float64)
    twin = copy.deepcopy(tproblem.model)
    torch.save(tproblem.model, tmp_path / "model.pt")
    again = torch.load(tmp_path / "model.pt", weights_only=False)
    for other in (twin, again):
        assert torch.equal(other(x), tproblem.model(x))
    with torch.no_grad():
        twin.dense[0].bias.add_(1)
    assert not torch.equal(twin(x), tproblem.model(x))
    twin.load_state_dict(tproblem.model.state_dict())
    assert torch.equal(twin(x), tproblem.model(x))


@pytest.mark.usefixtures("no_data")
def test_a_recurrent_state_is_of_its_pass() -> None:
    """An evaluation in the middle of an epoch leaves the training stream's state alone."""
    model = made("tolstoi_char_rnn").model.eval()
    x = torch.arange(100).reshape(2, 50) % 83
    train, test = Stream(), Stream()
    model.stream = train
    first = model(x)
    second = model(x)
    assert not torch.equal(first, second)
    model.stream = test
    assert torch.equal(model(x), first)
    model.stream = train
    third = model(x)
    assert not torch.equal(third, first)
    assert not torch.equal(third, second)
    assert all(not tensor.requires_grad for tensor in model.stream.carry.values())
    assert model(x[:1]).shape == (1, 50, 83), "another batch size starts from zeros"


@pytest.mark.usefixtures("no_data")
def test_tensors_of_another_net_are_refused() -> None:
    tproblem = made("mnist_logreg")
    params, state = problems.get("mnist_mlp").init()
    with pytest.raises(ConfigError, match=r"not those of this problem's net"):
        tproblem.load_core_state(params, state)


def test_networks_by_the_names_of_a_port() -> None:
    torch.manual_seed(1)
    model = architectures.MLP(num_outputs=10)
    assert model(torch.rand(3, 1, 28, 28, dtype=torch.float64)).shape == (3, 10)
    assert (model.fc1.in_features, model.fc4.out_features) == (784, 10)
    assert "fc1.weight" not in model.state_dict()
    torch.manual_seed(1)
    assert torch.equal(architectures.MLP(10).fc2.weight, model.fc2.weight)
    assert float(architectures.LogisticRegression(10).fc.weight.detach().abs().max()) == 0.0
    with pytest.raises(ConfigError, match="cifar100_3c3d"):
        architectures.ThreeC3D(num_outputs=7)
    with pytest.raises(AttributeError, match="fc5"):
        _ = model.fc5


def test_residual_networks_by_the_names_of_a_port() -> None:
    """Their batch norm moves in training and is used, not moved, in evaluation."""
    model = architectures.wrn_16_4(num_outputs=10)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert model(x).shape == (2, 10)
    assert any(not torch.equal(before[name], value) for name, value in model.named_buffers())
    model.eval()
    assert torch.equal(model(x), model(x))
    with pytest.raises(ConfigError, match=r"WRN404 has 100 \(cifar100_wrn404\)"):
        architectures.wrn_40_4(num_outputs=10)
    with pytest.raises(ConfigError, match="imagenet_vgg16"):
        architectures.vgg16(num_outputs=1000)


@pytest.mark.usefixtures("no_data")
def test_a_test_problem_s_model_is_such_a_network() -> None:
    assert type(made("mnist_logreg").model) is architectures.LogisticRegression
    assert architectures.of_problem("fmnist_vae") is architectures.VAE


def test_sizes_that_no_network_of_deepobs_1_2_has() -> None:
    assert testproblems_modules.net_mlp is architectures.MLP
    with pytest.raises(ConfigError, match=r"num_residual_blocks 4.*svhn_wrn164"):
        testproblems_modules.net_wrn(4, 4, 10)
    with pytest.raises(ConfigError, match="num_outputs 7"):
        testproblems_modules.net_wrn(2, 4, 7)
    with pytest.raises(ConfigError, match="variant 11"):
        testproblems_modules.net_vgg(10, variant=11)
    with pytest.raises(ConfigError, match="n_latent 5: VAE has 8"):
        testproblems_modules.net_vae(5)


@pytest.mark.large
def test_networks_by_the_names_of_deepobs_1_2() -> None:
    """The numbers of parameters are those of the reference."""
    made = {
        "mnist_logreg": testproblems_modules.net_mnist_logreg(num_outputs=10),
        "fmnist_2c2d": testproblems_modules.net_mnist_2c2d(10),
        "cifar100_3c3d": testproblems_modules.net_cifar10_3c3d(100),
        "cifar100_allcnnc": testproblems_modules.net_cifar100_allcnnc(),
        "svhn_wrn164": testproblems_modules.net_wrn(2, 4, 10),
    }
    for name, network in made.items():
        assert sum(parameter.numel() for parameter in network.parameters()) == problems.spec_of(name).parameters


@pytest.mark.large
def test_the_halves_of_the_vae_are_its_whole() -> None:
    model = testproblems_modules.net_vae(n_latent=8).eval()
    x = torch.rand(3, 1, 28, 28, dtype=torch.float64)
    torch.manual_seed(0)
    image, mean, log_std = model(x)
    torch.manual_seed(0)
    z, *others = model.encode(x)
    assert (z.shape, model.decode(z).shape) == ((3, 8), (3, 1, 28, 28))
    assert torch.equal(model.decode(z).flatten(1), image)
    assert all(torch.equal(one, other) for one, other in zip(others, (mean, log_std), strict=True))
    torch.manual_seed(0)
    torch.testing.assert_close(z, mean + torch.randn_like(mean) * log_std.exp(), rtol=0, atol=0)
    model.train()
    assert not torch.equal(model.decode(z), model.decode(z)), "dropout acts in training"
