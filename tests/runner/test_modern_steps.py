"""Whole training steps of the modern set by Inductor, beside eager ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from deepobs_func import problems, random
from deepobs_func.datasets.loading import load
from deepobs_func.nets.convnext import ConvNeXt
from deepobs_func.nets.gpt import GPT
from deepobs_func.nets.resnet import ResNet18
from deepobs_func.nets.vit import VisionTransformer
from deepobs_func.optimizers import Optimizer
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import Execution, RunConfig, make_plan
from deepobs_func.runner.step import Carry, StepInput, make_train_step

F64, KEY, B, STEPS = torch.float64, random.key(0), 4, 3
# Each has every layer of its net and few numbers: the compiler takes minutes for 6 blocks.
NETS: dict[str, Callable[[], nn.Module]] = {
    "cifar10_resnet18": partial(ResNet18, 10, "batch", channels=2),
    "cifar10_resnet18_gn": partial(ResNet18, 10, "group", channels=2),
    "cifar100_vit": partial(VisionTransformer, 1, 100, width=6, heads=2),
    "tolstoi_gpt": partial(GPT, 83, 50, blocks=1, width=6, heads=2, rate=0.5),
    "mnist_convnext": partial(ConvNeXt, (2, 3), 1, 10),
}


def narrow(name: str) -> Problem:
    """The problem on a few examples that are prepared in float64, with a net of its layers; digits_mlp as it is.

    In float32 there is no tolerance for what Adam makes of a gradient that is rounding alone, as of the black pixels of
    `digits`: it is divided by its own size.
    """
    problem = problems.get(name)
    data = problem.dataset
    prepare = data.function("prepare")
    length = data.sequence_length
    train, test = (size if length is None else size * length + 1 for size in (B * STEPS, B))
    changes: dict[str, Any] = {"train_size": train, "test_size": test, "train_eval_size": test, "file_sizes": ()}
    data = replace(data, prepare=lambda x, dtype: prepare(x, F64), **changes)
    return replace(problem, dataset=data, make_net=NETS.get(name, problem.make_net))


def recommended(name: str) -> Optimizer:
    """The optimizer of the settings that the problem recommends."""
    recipe = problems.spec_of(name).recipe
    assert recipe is not None
    options: dict[str, Any] = {"schedule": recipe.schedule, "warm_up": recipe.warm_up, "output_dir": None}
    options |= {"data": "synthetic", "hyperparams": dict(recipe.hyperparams)}
    return make_plan(RunConfig(name, recipe.optimizer, recipe.lr, **options)).optimizer


def trained(problem: Problem, optimizer: Optimizer, execution: Execution) -> list[Tensor]:
    """All that some steps leave: parameters, the optimizer's state, moments, and the losses."""
    data, spec = load(problem.dataset, "synthetic").arranged(B).train, problem.dataset
    rows = torch.arange(B * STEPS).view(STEPS, 1, B)
    draw = spec.draw and spec.function("draw")
    step = make_train_step(problem, optimizer, execution)
    params, state = problem.init(0, dtype=F64)
    carry, losses = Carry(params, optimizer.init(params, KEY), state), []
    for index, key in enumerate(random.split(KEY, STEPS)):
        drawn = draw(key[None], B, F64) if draw else ()
        carry, metrics = step(carry, StepInput(data, rows[index], key[None], drawn))
        losses.append(metrics.loss)
    return [leaf for leaf in pytree.tree_leaves((carry, losses)) if isinstance(leaf, Tensor)]


@pytest.mark.large
@pytest.mark.parametrize("name", problems.SETS["modern"])
def test_a_compiled_step_of_recommended_settings_is_one_graph_and_the_same(name: str) -> None:
    """Gather, augmentation, gradient and update over three steps. A break of the graph or a second one is an error."""
    problem, optimizer = narrow(name), recommended(name)
    with torch._dynamo.config.patch(error_on_recompile=True):
        eager, compiled = (trained(problem, optimizer, Execution(compile=compile)) for compile in (False, True))
    assert len(eager) == len(compiled)
    for found, right in zip(compiled, eager, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-10)
