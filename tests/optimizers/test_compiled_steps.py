"""Whole steps of the optimizers of today as one graph, on digits: its products, and the numbers of Inductor's code."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from deepobs_func import optimizers, problems, random
from deepobs_func.backend.compiling import compiled
from deepobs_func.runner.step import Carry, make_step

F64 = torch.float64
BATCH = 32
RATES = {"sgd_line_search": 1.0, "lbfgs": 0.1, "schedule_free_sgd": 0.1, "prodigy": 1.0}
# Prodigy's own distance grows for hundreds of steps. Of a matrix that has a null space, as that of the longer side of a
# gradient, SOAP's basis there is a matter of rounding: eager steps from parameters that are 1e-15 away are 3e-3 away.
OPTIONS = {"prodigy": {"d0": 1e-3}, "soap": {"max_dim": 32}}
NAMES = (
    *("kfac", "ekfac", "shampoo", "soap", "muon", "schedule_free_adamw", "schedule_free_sgd", "nadamw", "lion"),
    *("prodigy", "lbfgs", "sgd_line_search"),
)
STEPS = 5  # of which the first, the third and the fifth renew what is renewed in every second one


def made(name):
    options = OPTIONS.get(name, {})
    if "update_every" in optimizers.FUNCTIONAL[name].hyperparameters:
        options = options | {"update_every": 2}
    return getattr(optimizers, name)(RATES.get(name, 1e-2), **options)


def start(problem, optimizer):
    params, state = problem.init(0, dtype=F64)
    return Carry(params, optimizer.init(params, random.key(0)), state)


def batches(problem):
    return [problem.fake_batch(BATCH, seed=index, dtype=F64) for index in range(STEPS)]


@pytest.mark.large
@pytest.mark.parametrize("name", NAMES)
def test_inductors_step_is_the_eager_one(name):
    problem, optimizer = problems.get("digits_mlp"), made(name)
    eager = make_step(problem, optimizer)
    fast = compiled(eager, problem)
    carries = {eager: start(problem, optimizer), fast: start(problem, optimizer)}
    for batch in batches(problem):
        found = {step: step(carry, batch) for step, carry in carries.items()}
        torch.testing.assert_close(found[fast][1], found[eager][1], rtol=1e-9, atol=1e-12)
        carries = {step: carry for step, (carry, _) in found.items()}
    torch.testing.assert_close(carries[fast].params, carries[eager].params, rtol=1e-8, atol=1e-10)
    moved = [(leaf - start(problem, optimizer).params[key]).abs().max() for key, leaf in carries[eager].params.items()]
    assert min(moved) > 1e-6


def products_with_arguments(graph, shapes):
    """How many products of a graph, outside its branches, have an argument of such a shape, or its transpose."""
    aten, count = torch.ops.aten, 0
    for node in graph.nodes:
        if node.target not in (aten.mm.default, aten.addmm.default):
            continue
        operands = list(node.args[-2:])
        for index, each in enumerate(operands):
            while each.target in (aten.permute.default, aten.t.default, aten.transpose.int):
                each = each.args[0]
            operands[index] = each
        count += any(each.op == "placeholder" and tuple(each.meta["val"].shape) in shapes for each in operands)
    return count


@pytest.mark.parametrize("name", ["sgd", "kfac"])
def test_an_ordinary_step_has_one_forward_and_one_backward_pass(name):
    """Three products of the weights forward, two back: those of the factors are in the branch that is not due."""
    problem, graphs = problems.get("digits_mlp"), []
    optimizer = getattr(optimizers, name)(1e-2)

    def seen(module, inputs):
        graphs.append(module.graph)
        return module

    step = torch.compile(make_step(problem, optimizer), backend=aot_autograd(fw_compiler=seen), fullgraph=True)
    step(start(problem, optimizer), batches(problem)[0])
    shapes = {(128, 64), (64, 128), (10, 64)}
    assert [products_with_arguments(graph, shapes) for graph in graphs if len(graph.nodes) > 20] == [5]
