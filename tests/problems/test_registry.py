"""One table over all problems: the properties that everything built on them rests on."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap

from deepobs_func import problems, random, tree
from deepobs_func.base import BATCH_DIMS, Batch, ModelState, one_example
from deepobs_func.errors import ConfigError
from deepobs_func.problems.oracle import make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.problem import Problem

LARGE = 5_000_000  # parameters; the VAE is the one larger net whose images are small
LARGE_NAMES = [n for n in problems.names() if problems.row(n).parameters > LARGE and not n.endswith("_vae")]
NAMES = [n for n in problems.names() if n not in LARGE_NAMES]
TABLE_LARGE = ["cifar100_wrn404"]  # a VGG at 224 x 224 takes minutes in float64
INDUCTOR_NAMES = ["quadratic_deep", "two_d_rosenbrock", "mnist_logreg", "mnist_2c2d"]


@pytest.fixture(params=[*NAMES, *(pytest.param(name, marks=pytest.mark.large) for name in TABLE_LARGE)])
def problem(request: pytest.FixtureRequest) -> Problem:
    return problems.get(request.param)


def size(problem: Problem) -> int:
    """The batch size of these tests."""
    return 2 if problem.name in LARGE_NAMES else 3


@functools.lru_cache(maxsize=2)
def instance(problem: Problem, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[tree.Tree, Batch]:
    return problem.init(seed, dtype=dtype)[0], problem.fake_batch(size(problem), seed=seed + 1, dtype=dtype)


def perturbed(params: tree.Tree, seed: int = 7) -> tree.Tree:
    """Away from the start, where logistic regression is at zero and its gradients hide mistakes."""
    key = random.key(seed)
    return {
        name: p + 0.05 * random.normal(random.fold_in(key, i), p.shape, p.dtype)
        for i, (name, p) in enumerate(params.items())
    }


def leaves(params: tree.Tree, batch: Batch) -> list[torch.Tensor]:
    return [*params.values(), batch.x, batch.y, *batch.noise.values(), *batch.state.moments.values()]


def test_listing_the_problems_imports_no_torch() -> None:
    code = "from deepobs_func import problems; import sys; problems.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["mnist_2c2d", "svhn_wrn164", "tolstoi_char_rnn"])
def test_another_default_dtype_is_no_obstacle(name: str) -> None:
    torch.set_default_dtype(torch.float64)
    try:
        problem = problems.get(name)
        params, batch = problem.init(dtype=torch.float64)[0], problem.fake_batch(2, dtype=torch.float64)
        assert problem.loss(params, batch).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown problem 'mnist_mpl'\. Did you mean 'mnist_mlp'\?"):
        problems.get("mnist_mpl")


def test_get_returns_one_hashable_value(problem: Problem) -> None:
    assert problems.get(problem.name) is problem
    assert hash(problem) == hash(problems.get(problem.name))


def test_row_says_what_the_problem_is(problem: Problem) -> None:
    row = problems.row(problem.name)
    params, _ = problem.init(0)
    assert tree.size(params) == row.parameters
    assert problem.has_accuracy == row.accuracy
    assert all(tensor.is_meta for tensor in problem.net.state_dict().values())


def test_init_depends_on_the_seed_alone(problem: Problem) -> None:
    first, state = problem.init(3)
    again, _ = problem.init(random.key(3))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert state.carry == {}
    drawn = any(first[name].std() > 0 for name in first if first[name].numel() > 1)
    other, _ = problem.init(4)
    assert drawn == any(not torch.equal(first[name], other[name]) for name in first)


def test_loss_is_one_finite_number_an_example(problem: Problem) -> None:
    for dtype in (torch.float32, torch.float64):
        params, batch = instance(problem, dtype)
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


def test_drawing_moves_no_global_generator(problem: Problem) -> None:
    generator = torch.get_rng_state()
    problem.init(0)
    problem.fake_batch(size(problem))
    assert torch.equal(generator, torch.get_rng_state())


def test_separable_problems_equal_their_vmapped_per_example_selves(problem: Problem) -> None:
    params, batch = instance(problem, torch.float64)
    params = perturbed(params)
    per_example = vmap(one_example(problem.loss), in_dims=(None, BATCH_DIMS))(params, batch)
    agree = torch.allclose(per_example, problem.loss(params, batch), rtol=1e-10, atol=1e-10)
    assert agree == problem.separable


def test_loss_equals_its_compiled_self_and_does_not_recompile(problem: Problem) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(lambda params, batch: problem.loss(params, batch), backend=backend, fullgraph=True)
    for seed in (0, 1):
        params, batch = instance(problem, seed=seed)
        torch.testing.assert_close(compiled(params, batch), problem.loss(params, batch), rtol=1e-5, atol=1e-5)
    assert len(graphs) == 1


@pytest.mark.parametrize("name", INDUCTOR_NAMES)
def test_gradient_by_inductor_is_one_graph_and_the_same(name: str) -> None:
    problem = problems.get(name)
    value_and_grad = make_value_and_grad(problem)
    compiled = torch.compile(value_and_grad, fullgraph=True)
    for seed in (0, 1):
        params, batch = instance(problem, seed=seed)
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


def test_per_example_gradients_average_to_the_batch_gradient(problem: Problem) -> None:
    """Those of separable problems by `vmap(grad)`; coupled ones as rows of the Jacobian of the loss vector."""
    params, batch = instance(problem, torch.float64)
    params = perturbed(params)
    if problem.separable:
        rows = vmap(grad(one_example(problem.loss)), in_dims=(None, BATCH_DIMS))(params, batch)
    else:
        _, pull_back = vjp(lambda p: problem.loss(p, batch), params)
        (rows,) = vmap(pull_back)(torch.eye(size(problem), dtype=torch.float64))
    whole = grad(lambda p: problem.loss(p, batch).mean())(params)
    for name, row in rows.items():
        assert row.shape == (size(problem), *params[name].shape)
        torch.testing.assert_close(row.mean(0), whole[name], rtol=1e-9, atol=1e-11)


def test_hessian_products_are_symmetric(problem: Problem) -> None:
    params, batch = instance(problem, torch.float64)
    params = perturbed(params)
    gradient = grad(lambda p: problem.objective(p, batch))
    u, v = perturbed(params, 1), perturbed(params, 2)

    def product(direction: tree.Tree) -> tree.Tree:
        return jvp(gradient, (params,), (direction,))[1]

    torch.testing.assert_close(tree.dot(u, product(v)), tree.dot(v, product(u)), rtol=1e-8, atol=1e-8)


def test_gradient_is_the_slope_of_the_objective(problem: Problem) -> None:
    """Central differences along a random unit direction, in float64; the step is too short to cross many kinks."""
    params, batch = instance(problem, torch.float64)
    params, step = perturbed(params), 1e-7
    direction = tree.sub(perturbed(params, 5), params)
    direction = tree.scale(1.0 / tree.norm(direction), direction)
    ahead = problem.objective(tree.add(params, tree.scale(step, direction)), batch)
    behind = problem.objective(tree.sub(params, tree.scale(step, direction)), batch)
    slope = tree.dot(grad(lambda p: problem.objective(p, batch))(params), direction)
    torch.testing.assert_close((ahead - behind) / (2 * step), slope, rtol=1e-5, atol=1e-6)


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
    key = random.key(5)
    first, again = problem.draw_noise(key, size(problem)), problem.draw_noise(key, size(problem))
    assert first.keys() == problem.noises.keys()
    for name, draw in first.items():
        assert draw.shape[0] == size(problem)
        assert torch.equal(draw, again[name])
        assert not torch.equal(draw, problem.draw_noise(random.key(6), size(problem))[name])


def test_a_population_of_two_agrees_with_its_members(problem: Problem) -> None:
    members = [perturbed(instance(problem, torch.float64)[0], seed) for seed in (1, 2)]
    batch = problem.fake_batch(size(problem), dtype=torch.float64)
    stacked = {name: torch.stack([member[name] for member in members]) for name in members[0]}
    together = vmap(grad(lambda p: problem.objective(p, batch)))(stacked)
    for index, member in enumerate(members):
        alone = grad(lambda p: problem.objective(p, batch))(member)
        for name in alone:
            torch.testing.assert_close(together[name][index], alone[name], rtol=1e-9, atol=1e-12)


def test_a_problem_without_penalty_refuses_a_weight_decay(problem: Problem) -> None:
    assert problem.with_weight_decay(None) is problem
    if problem.weight_decay is None:
        with pytest.raises(ConfigError, match="no L2 penalty"):
            problem.with_weight_decay(0.1)
    else:
        assert problem.with_weight_decay(0.1).weight_decay == 0.1


def test_deviations_are_complete_sentences(problem: Problem) -> None:
    for deviation in problem.deviations:
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


def test_plain_gradients_and_fused_kernels_give_the_same_numbers(problem: Problem) -> None:
    params, batch = instance(problem)
    ours, plain = make_value_and_grad(problem)(params, batch), make_plain_value_and_grad(problem)(params, batch)
    torch.testing.assert_close(plain.objective, ours.objective)
    for name, expected in ours.grads.items():
        torch.testing.assert_close(plain.grads[name], expected, rtol=1e-3, atol=1e-6)
    leaves = torch.utils._pytree.tree_leaves(plain)
    assert not any(leaf.requires_grad for leaf in leaves)
    assert all(torch.allclose(plain.state.carry[name], value, atol=1e-6) for name, value in ours.state.carry.items())
    fused = problem.with_fused_kernels()
    torch.testing.assert_close(problem.evaluate(params, batch).losses, fused.evaluate(params, batch).losses)
