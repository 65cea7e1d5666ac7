"""Blocks that are computed anew in the backward pass: the same bits, in less memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from deepobs_func import RunConfig, optimizers, problems, random, run
from deepobs_func.backend.allocations import allocations
from deepobs_func.backend.kernels import using
from deepobs_func.errors import ConfigError
from deepobs_func.nets.convnext import ConvNeXt
from deepobs_func.nets.gpt import GPT
from deepobs_func.nets.inception import Block5
from deepobs_func.nets.layers import Pass, name_layers
from deepobs_func.nets.resnet import ResNet18
from deepobs_func.nets.vgg import VGG
from deepobs_func.nets.vit import VisionTransformer
from deepobs_func.nets.wrn import WideResNet
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, make_plan, make_step
from deepobs_func.runner.step import Carry
from tests.runner.small import config, small_problem

SMALL: dict[str, Callable[[], nn.Module]] = {
    "svhn_wrn164": partial(WideResNet, 10, 1, 10),
    "cifar10_resnet18": partial(ResNet18, 10, "batch", 2),
    "cifar10_resnet18_gn": partial(ResNet18, 10, "group", 2),
    "cifar100_vit": partial(VisionTransformer, 2, 100, 12),
    "tolstoi_gpt": partial(GPT, 83, 50, 2, 8, 2, 0.2),
    "mnist_convnext": partial(ConvNeXt, (2, 4), 1, 10),
}


def small(name: str) -> Problem:
    """The problem with a small net."""
    return replace(problems.get(name), make_net=partial(named, SMALL[name]), description=None)


def named(make: Callable[[], nn.Module]) -> nn.Module:
    return name_layers(make())


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_and_the_state_have_the_same_bits(name: str) -> None:
    problem = small(name)
    assert problem.in_blocks
    params, state = problem.init(0)
    batch = problem.fake_batch(3)._replace(state=state)
    plain = make_plain_value_and_grad(problem)
    expected = plain(params, batch)
    with using(recompute=True):
        found = plain(params, batch)
        torch.testing.assert_close(make_value_and_grad(problem)(params, batch).grads, expected.grads)
    assert expected.grads.keys() == found.grads.keys()
    torch.testing.assert_close(tuple(found), tuple(expected), rtol=0, atol=0)


def saved(function: Callable[[], Any]) -> int:
    """The most bytes at once of a second call."""
    function()
    return allocations(function, torch.device("cpu")).peak


def test_less_is_kept() -> None:
    """Of a chain of blocks, the inputs alone, and what one block needs at a time."""
    problem = replace(small("svhn_wrn164"), make_net=partial(named, partial(WideResNet, 22, 1, 10)), description=None)
    params, state = problem.init(0)
    batch = problem.fake_batch(16)._replace(state=state)
    plain = make_plain_value_and_grad(problem)
    whole = saved(lambda: plain(params, batch))
    with using(recompute=True):
        assert saved(lambda: plain(params, batch)) < 0.65 * whole


def test_a_block_of_inception() -> None:
    block = name_layers(Block5(8, 4))
    tensors = {
        name: torch.rand(leaf.shape, generator=torch.Generator().manual_seed(0)) + 0.1
        for name, leaf in (*block.named_parameters(), *block.named_buffers())
    }
    x, found = torch.rand(2, 8, 5, 5, generator=torch.Generator().manual_seed(1)), []
    for recompute in (False, True):
        leaves = {
            name: leaf.clone().requires_grad_(name in dict(block.named_parameters())) for name, leaf in tensors.items()
        }
        p = Pass(True, {}, {}, recompute=recompute)
        outer = Outer(block)
        y = torch.func.functional_call(outer, {f"block.{name}": leaf for name, leaf in leaves.items()}, (x, p))
        wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
        found.append((torch.autograd.grad(y.square().sum(), wanted), p.moments))
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)


class Outer(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: torch.Tensor, p: Pass) -> torch.Tensor:
        return p.through(self.block, x)


def test_the_largest_nets_are_in_blocks() -> None:
    assert VGG.in_blocks
    assert problems.get("imagenet_inception_v3").in_blocks


def step_of(problem: Problem, execution: Execution) -> Any:
    optimizer = optimizers.momentum(0.1)
    params, state = problem.init(0)
    carry = Carry(params, optimizer.init(params, random.key(0)), state)
    with execution.apply("float32", torch.device("cpu")):
        return make_step(problem, optimizer, plain=True)(carry, problem.fake_batch(3))


def test_an_execution_says_so() -> None:
    problem = small("cifar10_resnet18")
    torch.testing.assert_close(
        step_of(problem, Execution(activation_checkpointing=True)), step_of(problem, Execution()), rtol=0, atol=0
    )


def test_a_run_is_the_same_run() -> None:
    problem = small("mnist_convnext")
    cut = replace(problem.dataset, train_size=32, test_size=16, file_sizes=())
    problem = replace(problem, dataset=cut, batch_size=16, epochs=1)
    made = RunConfig("mnist_convnext", "adam", 1e-3, data="synthetic", output_dir=None, compile="auto")
    made = replace(made, memory_format="contiguous")
    plain, anew = (run(replace(made, activation_checkpointing=each), problem).record for each in (False, True))
    assert anew.extra["execution"]["activation_checkpointing"]
    assert not anew.extra["execution"]["compile"]
    assert anew.extra["run_id"] == plain.extra["run_id"]
    assert anew.extra["execution_id"] != plain.extra["execution_id"]
    assert (anew.train_losses, anew.test_losses) == (plain.train_losses, plain.test_losses)


REFUSED = {
    "the net of small is not made of blocks": ({"problem": "small"}, small_problem),
    "compiler decides itself what a compiled step keeps": ({"compile": "on"}, lambda: small("svhn_wrn164")),
    "newton_cg asks for curvature": ({"optimizer": "newton_cg"}, lambda: small("svhn_wrn164")),
    "kfac asks for curvature": ({"optimizer": "kfac", "hyperparams": {"bn": "frozen"}}, lambda: small("svhn_wrn164")),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_would_save_no_memory_is_refused(message: str) -> None:
    changes, make = REFUSED[message]
    with pytest.raises(ConfigError, match=message):
        make_plan(config(**{"problem": "svhn_wrn164", "activation_checkpointing": True, **changes}), make())


def test_an_execution_that_compiles_is_refused() -> None:
    from deepobs_func.runner.agreeing import agreed

    plan = make_plan(config(problem="svhn_wrn164", activation_checkpointing=True), small("svhn_wrn164"))
    with pytest.raises(ConfigError, match="execution compiles the step, and activation_checkpointing is of eager code"):
        agreed(plan, Execution(compile=True))
    assert agreed(plan, Execution()).activation_checkpointing


@pytest.mark.large
def test_a_step_of_wrn_needs_little_more_than_half() -> None:
    """WRN-16-4 has two units a stage."""
    problem = problems.get("svhn_wrn164")
    params, state = problem.init(0)
    batch = problem.fake_batch(32)._replace(state=state)
    plain = make_plain_value_and_grad(problem)
    whole = saved(lambda: plain(params, batch))
    with using(recompute=True):
        anew = saved(lambda: plain(params, batch))
    print(f"{anew / whole:.3f}")
    assert anew < 0.65 * whole
