"""CABS applied: updates of whole micro-batches, beside a loop in NumPy that takes each update's batch as one."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from deepobs_func import optimizers, random
from deepobs_func.base import Batch
from deepobs_func.errors import ConfigError
from deepobs_func.problems.measures import Measure
from deepobs_func.runner import RunConfig
from deepobs_func.runner.execution import Execution
from deepobs_func.runner.step import Carry, make_step
from tests.runner.small import recorded, small_problem

F64 = torch.float64
LR, MOST, SIZE = 30.0, 6, 4


def problem_of(weight_decay=0.01):
    """Softmax regression, 18 parameters; its L2 factor is part of the gradient and not of the advice."""
    problem = small_problem()
    return dataclasses.replace(
        problem,
        measure=Measure(problem.measure.losses, problem.measure.correct, convex=True),
        weight_decay=weight_decay,
    )


def micro_batches(problem, count):
    return [problem.fake_batch(SIZE, seed=n, dtype=F64) for n in range(count)]


def losses_and_gradients(W, b, x, y):  # noqa: N803, the field's letter
    """By hand: softmax cross entropy of each example, and its gradients by kernel and bias, flat."""
    logits = x @ W.T + b
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    delta = p - np.eye(3)[y]
    rows = np.concatenate([(delta[:, :, None] * x[:, None, :]).reshape(len(x), -1), delta], 1)
    return -np.log(p[np.arange(len(y)), y]), rows


def test_twenty_micro_batches_beside_a_loop_over_whole_batches():
    problem = problem_of()
    optimizer = optimizers.sgd_cabs(LR / 10, micro_batches=MOST)
    params, state = problem.init(0, dtype=F64)
    carry, step = Carry(params, optimizer.init(params, random.key(0)), state), make_step(problem, optimizer)
    batches = micro_batches(problem, 20)
    names = list(params)
    W, b = (params[name].numpy().copy() for name in names)  # noqa: N806
    wanted, gathered, sizes = 1, [], []
    for batch in batches:
        carry, _ = step(carry, batch)
        gathered.append(batch)
        if len(gathered) == wanted:  # one update, of one large batch
            x, y = (np.concatenate([getattr(each, part).numpy() for each in gathered]) for part in ("x", "y"))
            losses, rows = losses_and_gradients(W, b, x, y)
            advice = LR / 10 * rows.var(0).sum() / losses.mean()
            gradient = rows.mean(0)
            W, b = (  # noqa: N806
                W - LR / 10 * (gradient[: W.size].reshape(W.shape) + 0.01 * W),
                b - LR / 10 * gradient[W.size :],
            )
            report = optimizer.report(carry.opt_state)
            assert float(report["batch_size"]) == wanted * SIZE
            assert float(report["advised_batch_size"]) == pytest.approx(advice, rel=1e-9)
            sizes.append(wanted)
            wanted, gathered = int(np.clip(np.round(advice / SIZE), 1, MOST)), []
        np.testing.assert_allclose(carry.params[names[0]].numpy(), W, rtol=1e-8, atol=1e-12)
        np.testing.assert_allclose(carry.params[names[1]].numpy(), b, rtol=1e-8, atol=1e-12)
    assert len(set(sizes)) > 1  # it grew, and was followed


def test_an_update_of_equal_micro_batches_is_that_of_one():
    """Where nothing differs there is no noise, the advice is 0, and a batch stays one micro-batch: plain SGD."""
    problem = problem_of()
    one = problem.fake_batch(1, dtype=F64)
    same = Batch(one.x.repeat(SIZE, 1), one.y.repeat(SIZE), one.noise, one.state)
    params, state = problem.init(0, dtype=F64)
    ours, plain = optimizers.sgd_cabs(0.1, micro_batches=4), optimizers.sgd(0.1)
    carries = [Carry(params, each.init(params, random.key(0)), state) for each in (ours, plain)]
    for _ in range(3):
        carries = [make_step(problem, each)(carry, same)[0] for each, carry in zip((ours, plain), carries, strict=True)]
    torch.testing.assert_close(carries[0].params, carries[1].params)


def test_one_micro_batch_is_the_optimizer_that_only_records():
    first, second = optimizers.sgd_cabs(0.1), optimizers.sgd_cabs(0.1, micro_batches=1)
    assert first.update is second.update
    with pytest.raises(ConfigError, match="micro_batches is 0; it must be a whole number from 1"):
        optimizers.sgd_cabs(0.1, micro_batches=0)


def test_a_run_visits_as_many_examples_and_reports_its_batch_sizes():
    made = RunConfig("small", "sgd_cabs", 3.0, hyperparams={"micro_batches": 4}, output_dir=None, epochs=6)
    made = dataclasses.replace(made, train_log_interval=1, batch_size=8)
    record = recorded(made, small_problem())
    sizes = record.extra["reports"]["batch_size"]
    assert len(sizes) == len(record.minibatch_train_losses) == 6 * record.extra["steps_per_epoch"]
    assert set(sizes) <= {8.0, 16.0, 24.0, 32.0}
    assert len(set(sizes)) > 1
    assert record.extra["calls"]["gradients"][-1] == 2 * len(sizes)  # the gradient and the statistics
    assert record.train_losses[-1] < record.train_losses[0]


def test_it_goes_on_from_a_checkpoint_and_in_a_population():
    problem = problem_of()
    optimizer = optimizers.sgd_cabs(LR / 10, micro_batches=MOST)
    params, state = problem.init(0, dtype=F64)
    batches = micro_batches(problem, 7)

    def train(lr, saved_after=None):
        opt_state = optimizer.init(params, random.key(0))
        carry = Carry(params, opt_state._replace(hyper={"lr": lr}), state)
        for n, batch in enumerate(batches):
            carry, _ = make_step(problem, optimizer)(carry, batch)
            if n == saved_after:
                tree = optimizer.save(carry.opt_state)
                carry = carry._replace(opt_state=optimizer.load(tree, carry.params, random.key(0)))
        return carry.params

    rates = torch.tensor([1.0, 3.0, 9.0], dtype=F64)
    together = torch.func.vmap(train)(rates)
    for member, lr in enumerate(rates):
        torch.testing.assert_close({name: leaf[member] for name, leaf in together.items()}, train(lr))
    torch.testing.assert_close(train(rates[1], saved_after=3), train(rates[1]), rtol=0, atol=0)


@pytest.mark.large
def test_compiled_it_is_the_eager_one():
    made = RunConfig("small", "sgd_cabs", 3.0, hyperparams={"micro_batches": 4}, output_dir=None, batch_size=8)
    runs = [recorded(dataclasses.replace(made, compile=choice), small_problem()) for choice in ("on", "off")]
    np.testing.assert_allclose(runs[0].test_losses, runs[1].test_losses, rtol=1e-4)
    assert Execution().compile is False
    assert not math.isnan(runs[0].test_losses[-1])
