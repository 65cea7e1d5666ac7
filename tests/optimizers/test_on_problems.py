"""Every optimizer makes steps on every problem, two with batch norm among them, or says why it does not."""

import pkgutil

import pytest
import torch

from deepobs_func import optimizers, problems, random
from deepobs_func.errors import ConfigError
from deepobs_func.runner.step import Carry, make_step

QUICK = ("mnist_logreg", "quadratic_deep", "two_d_rosenbrock", "digits_mlp")
BIG = ("vgg", "imagenet", "resnet18_gn", "vit", "gpt", "convnext", "wrn404")  # memory, or the same layers again
LATER = optimizers.names()[optimizers.names().index("nadamw") :]
REFUSED = {"kfac": "needs a GGN", "ekfac": "needs a GGN"}
NAMES = [name for name in problems.names() if not any(part in name for part in BIG)]


def options_for(name, problem):
    """Small matrices, so that a step takes no time, what batch norm asks for, and searches that end on steep slopes."""
    known = optimizers.FUNCTIONAL[name].hyperparameters
    found = {"max_dim": 64, "bn": None if problem.separable else "frozen", "memory": 3, "max_backtracks": 40}
    found["d0"] = 0.01  # whose own is lost in the rounding of float32
    return {key: value for key, value in found.items() if key in known}


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize(
    "problem_name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.large) for name in NAMES]
)
def test_it_makes_steps_or_says_why_not(name, problem_name):
    problem = problems.get(problem_name)
    optimizer = pkgutil.resolve_name(optimizers.FUNCTIONAL[name].make)(1e-3, **options_for(name, problem))
    if name in REFUSED and not problem.measure.convex:
        with pytest.raises(ConfigError, match=REFUSED[name]):
            optimizer.check(problem)
        return
    optimizer.check(problem)
    params, state = problem.init(0)
    carry, step = Carry(params, optimizer.init(params, random.key(0)), state), make_step(problem, optimizer)
    for index in range(2):
        carry, metrics = step(carry, problem.fake_batch(2, seed=index)._replace(state=carry.state))
    assert metrics.loss.isfinite()
    assert all(leaf.isfinite().all() for leaf in carry.params.values())
    assert any(not torch.equal(leaf, params[key]) for key, leaf in carry.params.items())


@pytest.mark.parametrize("name", ["kfac", "ekfac"])
def test_batch_norm_needs_a_choice(name):
    with pytest.raises(ConfigError, match="needs a choice: bn='coupled'"):
        getattr(optimizers, name)(0.1).check(problems.get("svhn_wrn164"))
