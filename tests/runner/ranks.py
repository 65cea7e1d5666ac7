"""Processes that train together on one machine: a function is called in each; what the first one returns is kept.

They are forked, after everything is imported, and talk by gloo.
"""

from __future__ import annotations

import itertools
import multiprocessing
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils import _pytree as pytree

from deepobs_func import RunConfig, optimizers, problems, random, run
from deepobs_func.backend import ranks as ranks_of
from deepobs_func.backend.kernels import using
from deepobs_func.backend.ranks import Ranks
from deepobs_func.base import Batch, ModelState, map_inputs
from deepobs_func.optimizers.base import Optimizer
from deepobs_func.problems.oracle import Oracle, make_plain_value_and_grad, make_value_and_grad
from deepobs_func.problems.pieces import Parts, PiecewiseOracle, in_parts
from deepobs_func.problems.problem import Problem
from deepobs_func.runner import make_step
from deepobs_func.runner.step import Carry

SECONDS = 600.0
STEPS = 10
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda: optimizers.sgd(0.05),
    "adam": lambda lr=0.01, epsilon=1e-8: optimizers.adam(lr, epsilon=epsilon),
    # At 0.05, the loss of mnist_2c2d rises to 170, and a change of 4e-16 of its parameters becomes one of 6e-2.
    "adahessian": lambda: optimizers.adahessian(0.001),
    "newton_cg": lambda: optimizers.newton_cg(0.5, cg_steps=3),
    "torch.optim.Adam": lambda lr=0.01, epsilon=1e-8: optimizers.from_class(torch.optim.Adam, lr, {"eps": epsilon}),
}
# The rate is that of the published run: at 0.01 the loss rises, and after ten steps float32 is 1.5 away from float64 in
# one process. By the usual epsilon a gradient of rounding alone makes a whole step: 1.4e-3 away on some processors.
GIVEN = {("mnist_vae", name): (1.5848931924611142e-4, 1e-4) for name in ("adam", "torch.optim.Adam")}
TOLERANCES = {"float64": 1e-10, "float32": 1e-5}
GLOBAL = {"mnist_2c2d": 8, "tolstoi_char_rnn": 48, "svhn_wrn164": 8, "mnist_vae": 8, "quadratic_deep": 8}


def together(size: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """What process 0 returns; an exception of any process is raised, with its place.

    Args:
        size: how many processes.
        function, arguments: called in each of them.
    """
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            context.Process(target=_member, args=(rank, size, folder, function, arguments)) for rank in range(size)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(SECONDS)
            if process.is_alive():
                process.kill()
        found = [_read(folder / f"{rank}.pt") for rank in range(size)]
    errors = [value for kind, value in found if kind == "error"]
    if errors:
        raise RuntimeError("\n".join(errors))
    return found[0][1]


def _read(path: Path) -> tuple[str, Any]:
    return torch.load(path, weights_only=False) if path.exists() else ("error", f"{path.name} was not written")


def _member(rank: int, size: int, folder: Path, function: Callable[..., Any], arguments: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=size, timeout=timedelta(seconds=SECONDS)
    )
    try:
        found = ("value", function(*arguments))
    except Exception:
        found = ("error", traceback.format_exc())
    if found[0] == "value" and rank:
        found = ("value", None)  # nobody asks for it
    # Not by pickle alone, which writes the storage of many leaves again for each of them.
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


def shard_of(batch: Batch, ranks: Ranks) -> Batch:
    x, y, noise, state = batch
    return Batch(map_inputs(ranks.shard, x), ranks.shard(y), ranks.shards(noise), _shard_of_state(state, ranks))


def _shard_of_state(state: ModelState, ranks: Ranks) -> ModelState:
    return ModelState(state.moments, ranks.shards(state.carry))


def batches(problem: Problem, size: int, dtype: torch.dtype) -> list[Batch]:
    """One for each step, the same everywhere, in float64 drawn and then rounded."""
    found = [problem.fake_batch(size, seed, dtype=torch.float64) for seed in range(STEPS)]
    cast = lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf
    return [torch.utils._pytree.tree_map(cast, batch) for batch in found]


def steps(name: str, optimizer: str, size: int, dtype: torch.dtype, *, local: int = 0, plain: bool = True) -> Any:
    """Ten steps: their losses, and the parameters and moments at the end.

    Args:
        name: of the problem.
        optimizer: of `OPTIMIZERS`.
        size: of the global batch.
        dtype: of everything.
        local: how many shards have statistics of their own, of batch norm; 0 for those of the whole batch.
        plain: whether the gradient is the plain one.
    """
    problem, ranks = problems.get(name), ranks_of.current()
    made = OPTIMIZERS[optimizer](*GIVEN.get((name, optimizer), ()))
    params, state = problem.init(0, dtype=torch.float64)
    state = state._replace(carry=problem.zero_carry(size, dtype=torch.float64))
    cast = lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf
    params, state = torch.utils._pytree.tree_map(cast, (params, state))
    parts = Parts(size // local if local and ranks.size == 1 else 0, ranks)
    step = make_step(problem, made, plain=plain, parts=parts)
    carry = Carry(params, made.init(params, random.key(0)), _shard_of_state(state, ranks))
    losses = []
    with using(ranks=ranks if ranks.size > 1 and not local else None):
        for batch in batches(problem, size, dtype):
            carry, metrics = step(carry, shard_of(batch, ranks))
            losses.append(metrics.loss)
    recurrent = {name: ranks.gathered(leaf) for name, leaf in carry.state.carry.items()}
    return torch.stack(losses), carry.params, carry.state.moments, recurrent


def all_steps(name: str, size: int, dtype: torch.dtype, local: int, chosen: tuple[str, ...]) -> dict[str, Any]:
    """By each of some optimizers."""
    return {optimizer: steps(name, optimizer, size, dtype, local=local) for optimizer in chosen}


def answers(name: str, size: int, micro: int = 0) -> dict[str, Any]:
    """All that an oracle can be asked, in float64."""
    problem, ranks = problems.get(name), ranks_of.current()
    params, state = problem.init(0, dtype=torch.float64)
    batch = problem.fake_batch(size, 1, dtype=torch.float64)._replace(
        state=state._replace(carry=problem.zero_carry(size, dtype=torch.float64))
    )
    bn = None if problem.separable else "frozen"
    parts, whole = Parts(micro, ranks), make_value_and_grad(problem)
    oracle = (
        Oracle(problem, whole, params, batch)
        if parts.is_whole
        else PiecewiseOracle(problem, in_parts(problem, whole, parts), params, shard_of(batch, ranks), parts)
    )
    with using(ranks=ranks if ranks.size > 1 else None):
        found = {
            "grad": oracle.grad(),
            "value": oracle.value(),
            "loss_at": oracle.loss_at(params),
            "hvp": oracle.hvp(params),
            "make_hvp": oracle.make_hvp()(params),
            "ggnvp": oracle.ggnvp(params) if problem.measure.convex else {},
            "moments": oracle.all().state.moments,
            "plain": in_parts(problem, make_plain_value_and_grad(problem), parts)(params, shard_of(batch, ranks)).grads,
        }
        found |= oracle.statistics(["sq_norms", "scatter", "gram", "grads", "sum_of_squares"], bn=bn)._asdict()
        found["graph"] = _of_a_graph(oracle, params)
    return found


def _of_a_graph(oracle: Oracle, params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A product with the Hessian by differentiating twice, as classes of torch do."""
    leaves = {name: leaf.clone().requires_grad_() for name, leaf in params.items()}
    grads = torch.autograd.grad(oracle.loss_at(leaves), list(leaves.values()), create_graph=True)
    products = torch.autograd.grad(grads, list(leaves.values()), [leaf.detach() for leaf in leaves.values()])
    return dict(zip(params, products, strict=True))


def recorded(name: str, sizes: tuple[int, int], options: dict[str, Any]) -> dict[str, Any]:
    """A run on a cut of the data: what its record holds."""
    problem = problems.get(name)
    if not problem.dataset.generated:
        train, test = sizes
        cut: dict[str, Any] = {"train_size": train, "test_size": test, "file_sizes": ()}
        if problem.dataset.sequence_length:
            cut["train_eval_size"] = train
        problem = replace(problem, dataset=replace(problem.dataset, **cut))
    values = {"data": "synthetic", "output_dir": None, "compile": "off", "train_log_interval": 1, "epochs": 1}
    values |= {"memory_format": "contiguous"}
    done = run(RunConfig(name, **(values | options)), problem)
    losses = [*done.record.minibatch_train_losses, *done.record.train_losses, *done.record.test_losses]
    return {
        "losses": losses,
        "accuracies": [*(done.record.train_accuracies or []), *(done.record.test_accuracies or [])],
        "params": done.params,
        "run_id": done.record.extra["run_id"],
        "execution": done.record.extra["execution"],
    }


def far(found: Any, expected: Any) -> float:
    """The largest distance of two tensors of two trees, as a share of the expected one's size."""
    pairs = zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True)
    return max(
        (
            float((a - b).double().norm() / b.double().norm().clamp(min=1e-3))
            for a, b in pairs
            if b is not None and b.numel()
        ),
        default=0.0,
    )


def apart(name: str, digits: str, size: int, optimizers: Sequence[str], shards: int = 0) -> dict[str, float]:
    """How far ten steps of several processes are from those of one, by optimizer.

    Args:
        name: the problem.
        digits: `"float64"` or `"float32"`.
        size: how many processes.
        optimizers: of `OPTIMIZERS`; products with the LSTM take minutes and are left out.
        shards: 0, or how many parts of the batch have statistics of their own.
    """
    chosen = [each for each in optimizers if name != "tolstoi_char_rnn" or each in ("sgd", "adam")]
    arguments = (name, GLOBAL[name], getattr(torch, digits), shards, tuple(chosen))
    expected, found = all_steps(*arguments), together(size, all_steps, *arguments)
    return {optimizer: far(found[optimizer], expected[optimizer]) for optimizer in chosen}


def main() -> None:
    """Prints the distances of all problems, types and numbers of processes."""
    for name, digits, size in itertools.product(GLOBAL, TOLERANCES, (2, 4)):
        print(name, digits, size, apart(name, digits, size, tuple(OPTIMIZERS)), flush=True)
        if name == "svhn_wrn164":
            print(name, digits, size, "local", apart(name, digits, size, ("sgd", "adam"), size), flush=True)


if __name__ == "__main__":
    main()
