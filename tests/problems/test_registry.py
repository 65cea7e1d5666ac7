"""One table over all problems: the properties that everything built on them rests on."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.func import grad, grad_and_value, jvp, vjp, vmap
from torch.utils import _pytree as pytree

from deepobs_func import datasets, problems, random, tree
from deepobs_func.backend.kernels import using
from deepobs_func.base import BATCH_DIMS, Batch, ModelState, one_example
from deepobs_func.errors import ConfigError
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem
from tests.problems.blocks import assert_close
from tests.problems.linear_pieces import LinearPieces
from tests.problems.small_nets import narrow_resnet, short_text

LARGE = 5_000_000  # parameters; the VAE is the one larger net whose images are small
LARGE_NAMES = [n for n in problems.names() if problems.spec_of(n).parameters > LARGE and not n.endswith("_vae")]
NAMES = [n for n in problems.names() if n not in LARGE_NAMES]
# Of the large nets of one class, which differ in depth and classes, the first has every property tested, two minutes
# each; the others have what differs tested: draws, golden figures, five epochs.
FIRST_OF_A_NET = {(problems.spec_of(n).net, problems.spec_of(n).separable): n for n in reversed(LARGE_NAMES)}
LARGE_NETS = [n for n in LARGE_NAMES if n in FIRST_OF_A_NET.values()]


def structure(name: str) -> tuple[Any, ...]:
    """All that the functions of a problem follow from: what a fake batch looks like, the net and the measure."""
    row = problems.spec_of(name)
    data = datasets.spec(row.dataset)
    fields = ("net", "net_args", "measure", "weight_decay", "regularize", "separable", "compile_step", "hvp_mode")
    looks = ("shape", "num_classes", "fake", "prepare", "augment", "sequence_length")
    return (*(getattr(row, field) for field in fields), *(getattr(data, look) for look in looks))


# Fashion-MNIST has the nets of MNIST, and svhn_3c3d is cifar10_3c3d: the same functions of the same fake batches.
TWINS = [n for i, n in enumerate(NAMES) if structure(n) in map(structure, NAMES[:i])]


# Of cifar10_3c3d in another number of classes.
NEAR = ["cifar100_3c3d"]
MODERN = [n for n in problems.SETS["modern"] if n != "digits_mlp"]  # which stands for them in the quick suite


def table(names: Sequence[str] = problems.names(), *late: str) -> list[Any]:
    """Problems as parameters of tests: the largest, those whose functions are another's, ours are for `test-large`.

    Args:
        names: of the problems.
        late: others that are for `test-large`, since the test takes long for them.
    """
    marks = {True: pytest.mark.large, False: ()}
    large = {*LARGE_NAMES, *TWINS, *NEAR, *MODERN, *late}
    return [pytest.param(name, marks=marks[name in large]) for name in names]


# Nets of dense layers and of convolutions beside others that are compiled; the compiler takes seconds for each.
LATE_TO_COMPILE = (
    *("mnist_logreg", "mnist_vae", "cifar10_3c3d", "cifar100_allcnnc", "svhn_wrn164"),
    *("two_d_branin", "two_d_rosenbrock", "digits_mlp"),
)
# A window of 50 characters has 10,000 nodes; WRN-10-1 has every kind of unit of WRN-16-4.
SMALL_GRAPHS = {"tolstoi_char_rnn": short_text, "svhn_wrn164": functools.partial(narrow_resnet, 10)}
# Two more in whole steps, in `runner/test_step.py`; a kernel of convolutions takes the C++ compiler seconds.
INDUCTOR_NAMES = ["two_d_rosenbrock", "mnist_2c2d"]


@pytest.fixture(scope="module", params=table([*NAMES, *LARGE_NETS]))
def problem(request: pytest.FixtureRequest) -> Iterator[Problem]:
    """All tests of one problem come in a row and share what is dear; a VGG's parameters are a gigabyte in float64."""
    yield problems.get(request.param)
    for shared in (instance, point, value_and_gradient):
        shared.cache_clear()


@pytest.fixture(scope="module")
def light(problem: Problem) -> Problem:
    """For derivatives: WRN-10-1 for WRN-16-4, whose derivatives take seconds each."""
    return narrow_resnet(10) if problem.name == "svhn_wrn164" else problem


def size(problem: Problem) -> int:
    """The batch size of these tests."""
    return 2 if problem.name in LARGE_NAMES else 3


@functools.lru_cache(maxsize=2)
def instance(problem: Problem) -> tuple[tree.Tree, Batch]:
    return problem.init(0)[0], problem.fake_batch(size(problem), seed=1)


def perturbed(params: tree.Tree, seed: int = 7) -> tree.Tree:
    """Away from the start, where logistic regression is at zero and its gradients hide mistakes; activations stay."""
    generator = torch.Generator().manual_seed(seed)  # many times faster than a key, and there are 140 million numbers
    scales = (min(0.05, (p.shape[:1].numel() / p.numel()) ** 0.5) for p in params.values())  # 1 / sqrt(fan-in)
    noise = (torch.randn(p.shape, generator=generator).to(p) for p in params.values())
    return {name: n.mul_(s).add_(p) for (name, p), n, s in zip(params.items(), noise, scales, strict=True)}


def doubled(values: Any) -> Any:
    """Floating-point numbers in float64, which are the same ones: to draw them again takes ten times longer."""
    return pytree.tree_map(lambda leaf: leaf.double() if leaf.is_floating_point() else leaf, values)


@functools.lru_cache(maxsize=2)
def point(problem: Problem) -> tuple[tree.Tree, Batch]:
    """Where derivatives are compared, in float64."""
    params, batch = instance(problem)
    return perturbed(doubled(params)), doubled(batch)


@functools.lru_cache(maxsize=2)
def value_and_gradient(problem: Problem) -> tuple[torch.Tensor, tree.Tree]:
    """Of the objective at the `point`."""
    params, batch = point(problem)
    grads, value = grad_and_value(lambda p: problem.objective(p, batch))(params)
    return value, grads


def leaves(params: tree.Tree, batch: Batch) -> list[torch.Tensor]:
    return [*params.values(), batch.x, batch.y, *batch.noise.values(), *batch.state.moments.values()]


def test_listing_the_problems_imports_no_torch() -> None:
    code = "from deepobs_func import problems; import sys; problems.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_twins_are_known() -> None:
    """Those that the table leaves to `test-large`; every other small problem has functions of its own."""
    assert TWINS == ["fmnist_logreg", "fmnist_mlp", "fmnist_2c2d", "fmnist_vae", "svhn_3c3d"]
    for twin in TWINS:
        (first,) = (name for name in NAMES if name not in TWINS and structure(name) == structure(twin))
        ours, theirs = problems.get(twin), problems.get(first)
        assert (ours.measure, str(ours.net), str(ours.noises)) == (theirs.measure, str(theirs.net), str(theirs.noises))
        assert (ours.regularized, list(ours.layers)) == (theirs.regularized, list(theirs.layers))


@pytest.mark.parametrize("name", ["mnist_2c2d", "svhn_wrn164", "tolstoi_char_rnn"])
def test_another_default_dtype_is_no_obstacle(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        problem = problems.get(name)
        params, batch = problem.init(dtype=torch.float64)[0], problem.fake_batch(2, dtype=torch.float64)
        assert problem.loss(params, batch).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_every_large_net_is_in_the_table() -> None:
    assert [n for n in LARGE_NAMES if n not in LARGE_NETS] == [
        *("cifar10_vgg19", "cifar100_vgg16", "cifar100_vgg19", "imagenet_vgg16", "imagenet_vgg19")
    ]


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown problem 'mnist_mpl'\. Did you mean 'mnist_mlp'\?"):
        problems.get("mnist_mpl")


@pytest.mark.parametrize("name", problems.names())
def test_get_returns_one_hashable_value(name: str) -> None:
    assert problems.get(name) is problems.get(name)
    assert hash(problems.get(name)) == hash(problems.get(name))


def test_row_says_what_the_problem_is(problem: Problem) -> None:
    row = problems.spec_of(problem.name)
    assert tree.size(instance(problem)[0]) == row.parameters
    assert problem.has_accuracy == row.accuracy
    assert all(tensor.is_meta for tensor in problem.net.state_dict().values())


def test_init_depends_on_the_seed_alone(problem: Problem) -> None:
    first, _ = instance(problem)
    generator = torch.get_rng_state()
    again, state = problem.init(random.key(0))
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert state.carry == {}
    drawn = any(first[name].std() > 0 for name in first if first[name].numel() > 1)
    other, _ = problem.init(4)
    assert drawn == any(not torch.equal(first[name], other[name]) for name in first)


def test_loss_is_one_finite_number_an_example(problem: Problem) -> None:
    for dtype, (params, batch) in ((torch.float32, instance(problem)), (torch.float64, point(problem))):
        losses = problem.loss(params, batch)
        assert losses.shape == (size(problem),)
        assert losses.dtype == dtype
        assert torch.isfinite(losses).all()


def test_loss_is_pure(problem: Problem) -> None:
    """The same bits twice, inputs untouched, no global generator read or moved."""
    params, batch = instance(problem)
    before = [leaf.clone() for leaf in leaves(params, batch)]
    versions = [leaf._version for leaf in leaves(params, batch)]
    torch.manual_seed(1)
    generator = torch.get_rng_state()
    first = problem.loss(params, batch)
    assert torch.equal(generator, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, problem.loss(params, batch))
    assert all(torch.equal(old, new) for old, new in zip(before, leaves(params, batch), strict=True))
    assert versions == [leaf._version for leaf in leaves(params, batch)]


def test_a_fake_batch_depends_on_the_seed_alone(problem: Problem) -> None:
    _, batch = instance(problem)
    generator = torch.get_rng_state()
    again = problem.fake_batch(size(problem), seed=1)
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(leaves({}, batch), leaves({}, again), strict=True))


def test_separable_problems_equal_their_vmapped_per_example_selves(problem: Problem) -> None:
    params, batch = point(problem)
    per_example = vmap(one_example(problem.loss), in_dims=(None, BATCH_DIMS))(params, batch)
    agree = torch.allclose(per_example, problem.loss(params, batch), rtol=1e-10, atol=1e-10)
    assert agree == problem.separable


@pytest.mark.parametrize("name", table([*NAMES, *LARGE_NETS], *LATE_TO_COMPILE))
def test_loss_equals_its_compiled_self_and_does_not_recompile(name: str) -> None:
    problem, graphs = problems.get(name), []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    if problem.name in SMALL_GRAPHS:
        problem = SMALL_GRAPHS[problem.name]()
    compiled = torch.compile(lambda params, batch: problem.loss(params, batch), backend=backend, fullgraph=True)
    params, batch = problem.init(0)[0], problem.fake_batch(size(problem), seed=1)
    x, y = problem.dataset.function("fake")(problem.dataset, random.key(2), size(problem), torch.float32)
    for inputs in ((params, batch), (perturbed(params), batch._replace(x=x, y=y))):
        torch.testing.assert_close(compiled(*inputs), problem.loss(*inputs), rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.large
@pytest.mark.parametrize("name", INDUCTOR_NAMES)
def test_gradient_by_inductor_is_one_graph_and_the_same(name: str) -> None:
    problem = problems.get(name)
    value_and_grad = make_value_and_grad(problem)
    compiled = torch.compile(value_and_grad, fullgraph=True)
    for seed in (0, 1):
        params, batch = problem.init(seed)[0], problem.fake_batch(3, seed=seed + 1)
        with torch._dynamo.config.patch(error_on_recompile=seed > 0):
            torch.testing.assert_close(compiled(params, batch), value_and_grad(params, batch), rtol=1e-3, atol=1e-5)


def test_loss_is_the_criterion_of_the_outputs(problem: Problem) -> None:
    params, batch = instance(problem)
    torch.testing.assert_close(
        problem.criterion(problem.outputs(params, batch), batch), problem.loss(params, batch), rtol=0, atol=0
    )


def test_objective_is_mean_loss_plus_penalty(problem: Problem) -> None:
    params, batch = instance(problem)
    expected = problem.loss(params, batch).mean() + problem.penalty(params)
    torch.testing.assert_close(problem.objective(params, batch), expected)
    assert (problem.penalty(params) == 0) == (problem.weight_decay is None)


def test_every_missing_or_unknown_tensor_is_an_error(problem: Problem) -> None:
    params, batch = instance(problem)
    for name in params:
        with pytest.raises(RuntimeError, match=name):
            problem.loss({key: p for key, p in params.items() if key != name}, batch)
    for name in batch.state.moments:
        moments = {key: m for key, m in batch.state.moments.items() if key != name}
        with pytest.raises(RuntimeError, match=name):
            problem.loss(params, batch._replace(state=ModelState(moments, {})))
    with pytest.raises(RuntimeError, match="nobody"):
        problem.loss({**params, "nobody": torch.zeros(())}, batch)


def test_per_example_gradients_average_to_the_batch_gradient(light: Problem) -> None:
    """Those of separable problems by `vmap(grad)`; coupled ones as rows of the Jacobian of the loss vector."""
    params, batch = point(light)
    if light.separable:
        rows = vmap(grad(one_example(light.loss)), in_dims=(None, BATCH_DIMS))(params, batch)
    else:
        _, pull_back = vjp(lambda p: light.loss(p, batch), params)
        (rows,) = vmap(pull_back)(torch.eye(size(light), dtype=torch.float64))
    whole, decay = value_and_gradient(light)[1], grad(light.penalty)(params)
    for name, row in rows.items():
        assert row.shape == (size(light), *params[name].shape)
        assert_close(row.mean(0), whole[name] - decay[name], rtol=1e-9, atol=1e-11)


def test_hessian_products_are_symmetric(light: Problem) -> None:
    params, batch = point(light)
    gradient = grad(lambda p: light.objective(p, batch))
    u, v = perturbed(params, 1), perturbed(params, 2)

    def product(direction: tree.Tree) -> tree.Tree:
        return jvp(gradient, (params,), (direction,))[1]

    torch.testing.assert_close(tree.dot(u, product(v)), tree.dot(v, product(u)), rtol=1e-8, atol=1e-8)


def test_gradient_is_the_slope_of_the_objective(light: Problem) -> None:
    """Central differences along a random unit direction, in float64, of the smooth piece that the point lies on.

    The objective itself is no judge of the largest nets: a step of 1e-6 crosses enough kinks of Inception to move the
    slope by 5e-5, and rounding, 1e-13 of the objective, moves it by as much at 1e-9.
    """
    (params, batch), (value, gradient), step = point(light), value_and_gradient(light), 1e-5
    direction = tree.sub(perturbed(params, 5), params)
    direction = tree.scale(1.0 / tree.norm(direction), direction)
    pieces = LinearPieces()
    with pieces:
        torch.testing.assert_close(light.objective(params, batch), value, rtol=1e-12, atol=0)
    with pieces.hold():
        ahead = light.objective(tree.add(params, tree.scale(step, direction)), batch)
    with pieces.hold():
        behind = light.objective(tree.sub(params, tree.scale(step, direction)), batch)
    torch.testing.assert_close((ahead - behind) / (2 * step), tree.dot(gradient, direction), rtol=1e-5, atol=1e-9)


def test_missing_noise_is_neutral_and_the_test_phase_ignores_dropout(problem: Problem) -> None:
    params, batch = instance(problem)
    kept = {name: noise for name, noise in batch.noise.items() if problem.noises[name].in_evaluation}
    quiet = problem.evaluate(params, batch._replace(noise=kept)).losses
    assert torch.equal(problem.evaluate(params, batch).losses, quiet)
    silent = batch._replace(noise={})
    if problem.separable:  # batch norm has another test phase
        torch.testing.assert_close(problem.loss(params, silent), problem.evaluate(params, silent).losses)
    if batch.noise:  # and present noise counts
        assert not torch.equal(problem.loss(params, batch), problem.loss(params, silent))
    if kept:
        assert not torch.equal(quiet, problem.evaluate(params, silent).losses)


def test_evaluation_says_who_is_correct(problem: Problem) -> None:
    params, batch = instance(problem)
    evaluation = problem.evaluate(params, batch)
    assert evaluation.losses.shape == (size(problem),)
    if problem.has_accuracy:
        assert evaluation.correct.shape == (size(problem),)
        assert ((evaluation.correct >= 0) & (evaluation.correct <= 1)).all()
    else:
        assert evaluation.correct is None


def test_noise_is_a_function_of_its_key(problem: Problem) -> None:
    first, again = (problem.draw_noise(random.key(5), size(problem)) for _ in range(2))
    assert first.keys() == problem.noises.keys()
    for name, draw in first.items():
        assert draw.shape[0] == size(problem)
        assert torch.equal(draw, again[name])
        assert not torch.equal(draw, problem.draw_noise(random.key(6), size(problem))[name])


def test_a_population_of_two_agrees_with_its_members(light: Problem) -> None:
    params, batch = point(light)
    other = perturbed(doubled(instance(light)[0]), 1)
    gradient = grad(lambda p: light.objective(p, batch))
    together = vmap(gradient)({name: torch.stack([params[name], other[name]]) for name in params})
    for index, alone in enumerate((value_and_gradient(light)[1], gradient(other))):
        for name in alone:
            assert_close(together[name][index], alone[name], rtol=1e-9, atol=1e-12)


def test_a_problem_without_penalty_refuses_a_weight_decay(problem: Problem) -> None:
    assert problem.with_weight_decay(None) is problem
    if problem.weight_decay is None:
        with pytest.raises(ConfigError, match="no L2 penalty"):
            problem.with_weight_decay(0.1)
    else:
        assert problem.with_weight_decay(0.1).weight_decay == 0.1


@pytest.mark.parametrize("name", problems.names())
def test_deviations_are_complete_sentences(name: str) -> None:
    for deviation in problems.get(name).deviations:
        assert all(len(part) > 5 for part in deviation)


def test_training_moves_the_moments_and_evaluation_leaves_them(problem: Problem) -> None:
    params, batch = instance(problem)
    before = batch.state.moments
    after = problem.loss_and_state(params, batch)[1].moments
    assert after.keys() == before.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if name.endswith((".mean", ".variance"))}
    assert bool(moved) != problem.separable
    evaluated = problem.evaluate_and_state(params, batch)[1].moments
    assert all(torch.equal(before[name], evaluated[name]) for name in before)


def test_an_empty_carry_means_zeros(problem: Problem) -> None:
    params, batch = instance(problem)
    zeros = problem.zero_carry(size(problem))
    explicit = batch._replace(state=batch.state._replace(carry=zeros))
    losses, state = problem.loss_and_state(params, explicit)
    torch.testing.assert_close(losses, problem.loss(params, batch))
    assert {name: value.shape for name, value in state.carry.items()} == {n: z.shape for n, z in zeros.items()}
    if zeros:  # and what is carried counts
        assert not torch.equal(problem.loss(params, batch._replace(state=state)), losses)


def test_plain_gradients_and_fused_kernels_give_the_same_numbers(light: Problem) -> None:
    """In float64: float32 rounds WRN-40-4's gradient at two examples by half a percent, either way."""
    (params, batch), (value, expected) = point(light), value_and_gradient(light)
    plain = make_plain_value_and_grad(light)(params, batch)
    torch.testing.assert_close(plain.objective, value, rtol=1e-12, atol=0)
    for name, gradient in expected.items():
        assert_close(plain.grads[name], gradient, rtol=1e-8, atol=1e-9)
    assert not any(leaf.requires_grad for leaf in pytree.tree_leaves(plain))
    state = light.loss_and_state(params, batch)[1]
    torch.testing.assert_close(plain.state, state, rtol=1e-10, atol=1e-12)
    with using(fused=True):
        fused = light.evaluate(params, batch).losses
    torch.testing.assert_close(light.evaluate(params, batch).losses, fused)
