"""Runs on a GPU: every way of executing a step, checkpoints, populations, optimizers of torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

from deepobs_func import RunConfig, problems, random, run
from deepobs_func.backend.memory import available_bytes
from deepobs_func.optimizers import FUNCTIONAL, shampoo, soap
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, Training, make_plan, run_population
from deepobs_func.runner.callbacks import Stop
from deepobs_func.runner.events import Logged
from deepobs_func.runner.training import TrainState

EAGER = Execution()
WAYS = {
    "eager": EAGER,
    "compiled": Execution(compile=True, compile_batch=True),
    "eager in a graph": Execution(cuda_graphs=True),
    "compiled in a graph": Execution(compile=True, compile_batch=True, cuda_graphs=True),
    "channels last": Execution(channels_last=True),
}
FEW = 4  # steps


def cut(name: str, steps: int = FEW, batch: int = 8) -> Problem:
    """The problem on the data of a few steps."""
    problem = problems.get(name)
    spec = problem.dataset
    if spec.generated:
        return replace(problem, batch_size=min(batch, problem.batch_size))
    one = batch if spec.sequence_length is None else batch * spec.sequence_length
    more = 0 if spec.sequence_length is None else 1
    sizes: dict[str, Any] = {"train_size": steps * one + more, "test_size": one + more, "file_sizes": ()}
    if spec.train_eval_size:
        sizes["train_eval_size"] = one + more
    return replace(problem, dataset=replace(spec, **sizes), batch_size=batch)


def config(problem: Problem, device: torch.device, optimizer: str = "momentum", **changes: Any) -> RunConfig:
    values: dict[str, Any] = {"lr": 1e-4, "epochs": 1, "data": "synthetic", "output_dir": None, "train_log_interval": 1}
    rate = {"two_d_rosenbrock": 1e-6}.get(problem.name, 1e-4)
    return RunConfig(problem.name, optimizer, **(values | {"lr": rate, "device": str(device)} | changes))


def losses(problem: Problem, device: torch.device, execution: Execution, **changes: Any) -> list[float]:
    record = run(config(problem, device, **changes), problem, execution=execution).record
    assert record.status == "finished"
    return [*record.minibatch_train_losses, record.train_losses[-1], record.test_losses[-1]]


ways = pytest.mark.parametrize("way", WAYS)


@ways
@pytest.mark.parametrize(
    "name",
    ["mnist_mlp", "mnist_2c2d", "cifar10_3c3d", "svhn_wrn164", "mnist_vae", "quadratic_deep", "two_d_rosenbrock"],
)
def test_runs_are_those_of_the_cpu(name: str, way: str, device: torch.device) -> None:
    """The same steps, to rounding."""
    if device.type != "cuda" and WAYS[way].cuda_graphs:
        return  # tried on another device, where there are none
    problem = cut(name)
    found, expected = losses(problem, device, WAYS[way]), losses(problem, torch.device("cpu"), EAGER)
    np.testing.assert_allclose(found, expected, rtol=2e-4)


def test_a_recurrent_net_carries_its_state_on(device: torch.device) -> None:
    problem = cut("tolstoi_char_rnn")
    found = losses(problem, device, EAGER, lr=0.1)
    np.testing.assert_allclose(found, losses(problem, torch.device("cpu"), EAGER, lr=0.1), rtol=1e-4)
    if device.type == "cuda":
        in_a_graph = losses(problem, device, Execution(cuda_graphs=True), lr=0.1)
        np.testing.assert_allclose(in_a_graph, found, rtol=1e-5)


# The eigenvalues of a Gram matrix that is not of full rank are rounding, and its eigenvectors any: with their defaults,
# 1e-7 of the matrix moves the loss by 2 percent. Eight gradients have no full rank on the axis of 784 pixels.
CONDITIONED: dict[str, dict[str, Any]] = {"shampoo": {"epsilon": 0.1}, "soap": {"max_dim": 10, "epsilon": 1e-5}}


@pytest.mark.parametrize("name", list(FUNCTIONAL.own))
def test_functional_optimizers(name: str, device: torch.device) -> None:
    problem = cut("mnist_logreg", batch=64 if name == "soap" else 8)
    how = {"optimizer": name, "lr": 1e-3, "hyperparams": CONDITIONED.get(name, {})}
    found = losses(problem, device, EAGER, **how)
    np.testing.assert_allclose(found, losses(problem, torch.device("cpu"), EAGER, **how), rtol=1e-3)


@pytest.mark.parametrize("name", ["shampoo", "soap"])
def test_decompositions_in_float64(name: str, device: torch.device) -> None:
    """Of matrices of full rank, several times renewed; with the gradients of the CPU."""
    make, found = {"shampoo": shampoo, "soap": soap}[name], []
    for place in (torch.device("cpu"), device):
        optimizer = make(0.1, update_every=2, epsilon=1e-3)
        params = {"w": torch.ones(5, 5, dtype=torch.float64, device=place)}
        state = optimizer.init(params, random.key(0, place))
        for step in range(8):
            draw = random.normal(random.key(step), (5, 5), dtype=torch.float64).to(place)
            params, state = optimizer.update(Given({"w": draw}), state, params)
        found.append(params["w"].cpu())
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-8)


class Given(NamedTuple):
    """An oracle of which the gradient alone is asked."""

    grads: dict[str, torch.Tensor]

    def grad(self) -> dict[str, torch.Tensor]:
        return self.grads


@pytest.mark.parametrize("name", ["adahessian", "newton_cg", "sophia_h"])
def test_compiled_second_order_optimizers(name: str, device: torch.device) -> None:
    problem = cut("quadratic_deep")
    found = losses(problem, device, WAYS["compiled"], optimizer=name, lr=1e-3)
    np.testing.assert_allclose(found, losses(problem, torch.device("cpu"), EAGER, optimizer=name, lr=1e-3), rtol=1e-3)


CLASSES = ("Adam", "AdamW", "SGD", "RMSprop", "Adagrad", "LBFGS", "NAdam", "Rprop")


@pytest.mark.parametrize("name", CLASSES)
def test_classes_of_torch(name: str, device: torch.device) -> None:
    problem = cut("mnist_mlp")
    path = f"torch.optim.{name}"
    found = losses(problem, device, EAGER, optimizer=path, lr=1e-3)
    np.testing.assert_allclose(found, losses(problem, torch.device("cpu"), EAGER, optimizer=path, lr=1e-3), rtol=1e-3)


# Checkpoints


class Leaves:
    """Ends a run after some steps, as a signal would."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, event: Any) -> Stop | None:
        if isinstance(event, Logged):
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return None


@pytest.mark.parametrize("way", ["eager", "compiled in a graph"])
@pytest.mark.parametrize("optimizer", ["adam", "torch.optim.Adam", "torch.optim.SGD", "tests.optimizers.classes.Noisy"])
def test_a_run_goes_on_from_its_checkpoint(optimizer: str, way: str, device: torch.device, tmp_path: Path) -> None:
    """Bit for bit: Adam's counts stay on the CPU, and generators of both devices go on."""
    if device.type != "cuda" and WAYS[way].cuda_graphs:
        return
    problem, how = cut("mnist_mlp"), {"lr": 1e-3, "epochs": 2, "optimizer": optimizer}
    expected = run(config(problem, device, **how), problem, execution=WAYS[way]).record
    made = config(problem, device, **how, output_dir=str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        run(made, problem, callbacks=[Leaves(FEW + 2)], execution=WAYS[way])
    found = run(made, problem, resume=True, execution=WAYS[way]).record
    assert found.minibatch_train_losses == expected.minibatch_train_losses
    assert found.test_losses == expected.test_losses


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("name", ["mnist_mlp", "cifar10_3c3d", "svhn_wrn164", "tolstoi_char_rnn"])
def test_deterministic_runs_have_equal_bits(name: str, compile: bool, device: torch.device) -> None:
    """Max pooling, embeddings and convolutions add up gradients in any order otherwise."""
    problem = cut(name, steps=8, batch=32)
    if compile and not problem.compile_step:
        return
    how = Execution(compile=compile, deterministic=True)
    one, other, third = (losses(problem, device, how, deterministic=True) for _ in range(3))
    assert one == other == third


# Populations, precision, what is measured


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("graphs", [False, True], ids=["", "in a graph"])
@pytest.mark.parametrize("way", ["vmap", "loop"])
def test_members_are_their_own_runs(way: str, graphs: bool, compile: bool, device: torch.device) -> None:
    problem, seeds, lrs = cut("mnist_mlp"), [1, 2], [1e-3, 1e-2]
    if graphs and device.type != "cuda":
        return
    execution = Execution(way=way, members=4, compile=compile, cuda_graphs=graphs)
    population = run_population(config(problem, device), seeds=seeds, lrs=lrs, problem=problem, execution=execution)
    for member in population.members:
        assert member.error == ""
        alone = run(member.config, problem, execution=EAGER).record
        np.testing.assert_allclose(member.record.minibatch_train_losses, alone.minibatch_train_losses, rtol=1e-4)
        np.testing.assert_allclose(member.record.test_losses, alone.test_losses, rtol=1e-4)


def test_a_run_chooses_its_execution(device: torch.device) -> None:
    problem = cut("mnist_2c2d")
    training = Training(make_plan(config(problem, device, compile="on"), problem))
    assert training.execution.compile
    states = [event.state for event in training(training.start())]
    assert isinstance(states[-1], TrainState)
    tensors = [leaf for leaf in pytree.tree_leaves(states[-1].carry) if isinstance(leaf, torch.Tensor)]
    assert {leaf.device.type for leaf in tensors} == {device.type}


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_precisions_are_near(precision: str, device: torch.device) -> None:
    if precision == "tf32" and device.type != "cuda":
        return
    for name in ("mnist_2c2d", "svhn_wrn164", "tolstoi_char_rnn"):
        problem = cut(name)
        found, expected = (losses(problem, device, EAGER, precision=each) for each in (precision, "float32"))
        np.testing.assert_allclose(found, expected, rtol=0.05)


def test_quantities_are_tracked(device: torch.device) -> None:
    problem, found = cut("mnist_2c2d"), []
    for place in (torch.device("cpu"), device):
        made = config(problem, place, optimizer="sgd", track="full", track_every=2)
        found.append(run(made, problem, execution=EAGER).record.extra["tracked"])
    assert found[0]["steps"] == found[1]["steps"]
    for name, expected in found[0]["quantities"].items():
        np.testing.assert_allclose(found[1]["quantities"][name], expected, rtol=2e-2, atol=1e-4, err_msg=name)


def test_memory_that_is_free(device: torch.device) -> None:
    assert available_bytes(device) > 2**28
