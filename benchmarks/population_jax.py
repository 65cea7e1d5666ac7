"""Ours beside `jax.vmap` of a jitted step with optax: steps of Adam of many members, on one core.

    python -m benchmarks.population_jax [--problems quadratic_deep ...] [--rounds 15] [--quick]

The members of a population have the same data and learning rates of their own, as in a search. Both compute the same
function of the same parameters and batches and take turns in one process; what counts is its processor time. The
losses of the first ten steps agree to 1e-4, or the benchmark fails. The rest is as in `benchmarks.jax_beside`.
"""

from __future__ import annotations

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen=false"
os.environ["XLA_FLAGS"] += " intra_op_parallelism_threads=1"

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from benchmarks import jax_nets, recording
from benchmarks.jax_nets import Data, Net
from benchmarks.population_report import report_beside_jax
from benchmarks.recording import Benchmark, Run, Settings
from benchmarks.timing import interleaved
from deepobs_func import optimizers, problems, random
from deepobs_func.backend import onednn
from deepobs_func.backend.compiling import compiled
from deepobs_func.backend.kernels import using
from deepobs_func.base import Batch, ModelState
from deepobs_func.problems.oracle import Metrics
from deepobs_func.problems.problem import Problem, Tensors
from deepobs_func.runner.population.step import constants_of, make_step_of_all
from deepobs_func.runner.step import Carry

jax.config.update("jax_cpu_enable_async_dispatch", False)  # so that the work is done when a call returns

MEMBERS = {"quadratic_deep": 64, "mnist_logreg": 32, "two_d_branin": 64, "mnist_mlp": 4}
STEPS = {"quadratic_deep": 5, "mnist_logreg": 5, "two_d_branin": 5}
TEN, TOLERANCE, QUICK, BUDGET = 10, 1e-4, 8, 10.0
# Where Adam does not amplify rounding: at 3e-3, JAX's loss of mnist_mlp was after ten steps 7e-3 from that in float64.
LEAST_RATE = {"mnist_mlp": 1e-5}
OURS, JAX = "ours", "jax"


def rates(name: str, members: int) -> list[float]:
    """A learning rate for each member of a problem's population."""
    return [LEAST_RATE.get(name, 1e-4) * 10 ** (2 * index / members) for index in range(members)]


class Ours:
    """Our members: one seed, one vmapped and compiled call of some steps."""

    def __init__(self, problem: Problem, batches: list[Batch], members: int) -> None:
        self.problem = problem
        self.params, state = problem.init(0)
        multiplies = onednn.is_faster(torch.device("cpu"), self.params)
        self.kernels = using(onednn=multiplies)
        names = constants_of(problem)
        self.constants = {name: state.moments[name] for name in names}
        made = [optimizers.adam(lr) for lr in rates(problem.name, members)]
        rest = ModelState({k: v for k, v in state.moments.items() if k not in names}, {})
        carries = [Carry(self.params, each.init(self.params, random.key(0)), rest) for each in made]
        self.start = tree_map(lambda *leaves: torch.stack(leaves).unsqueeze(0), *carries)
        self.batches = [
            tree_map(lambda leaf: leaf.unsqueeze(0), batch._replace(state=ModelState({}, {}))) for batch in batches
        ]
        step = make_step_of_all(problem, made[0])

        def steps(carry: Carry, constants: Tensors, many: list[Batch]) -> tuple[Carry, Tensor]:
            losses = []
            for batch in many:
                carry, metrics = step(carry, constants, batch)
                losses.append(metrics.loss)
            return carry, torch.stack(losses)

        self._steps = compiled(steps, problem, onednn=multiplies)
        assert Metrics._fields == ("loss", "penalty")

    def losses(self) -> Tensor:
        """Of ten steps, `(10, members)`."""
        carry, found = self.start, []
        with self.kernels:
            for _ in range(0, TEN, len(self.batches)):
                carry, losses = self._steps(carry, self.constants, self.batches)
                found.append(losses.flatten(1))
        return torch.cat(found)[:TEN]

    def call(self) -> Any:
        """What is timed."""
        carry = self.start

        def call() -> None:
            nonlocal carry
            with self.kernels:
                carry, _ = self._steps(carry, self.constants, self.batches)

        return call


def two_d() -> Net:
    """Branin's function with the noise of its data."""

    def losses(point: Any, data: Data) -> Any:
        u, v = point
        valley = v - 5.1 / (4 * jnp.pi**2) * u**2 + 5 / jnp.pi * u - 6
        value = valley**2 + 10 * (1 - 1 / (8 * jnp.pi)) * jnp.cos(u) + 10
        return value + u * data.x + v * data.y

    return Net(lambda params, data, train: (params["u"], params["v"]), losses, None)


class Theirs:
    """The same in JAX: `jit` of some steps of `vmap` over members, donated buffers, optax's Adam."""

    def __init__(self, ours: Ours, batches: list[Batch], members: int) -> None:
        net = two_d() if ours.problem.name.startswith("two_d") else jax_nets.net(ours.problem)
        self.batches = [jax_nets.data_from_torch(batch) for batch in batches]
        self.params, self.members, self.rates = ours.params, members, jnp.array(rates(ours.problem.name, members))

        def loss(params: Any, data: Data) -> Any:
            return net.losses(net.outputs(params, data, True), data).mean()

        def step(params: Any, state: Any, rate: Any, data: Data) -> Any:
            value, grads = jax.value_and_grad(loss)(params, data)
            updates, state = optax.scale_by_adam().update(grads, state, params)
            params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
            return params, state, value

        def steps(params: Any, state: Any, many: list[Data]) -> Any:
            losses = []
            for data in many:
                params, state, value = jax.vmap(step, in_axes=(0, 0, 0, None))(params, state, self.rates, data)
                losses.append(value)
            return params, state, jnp.stack(losses)

        self._steps = jax.jit(steps, donate_argnums=(0, 1))

    def _beginning(self) -> tuple[Any, Any]:
        one = jax_nets.from_torch(self.params)
        params = jax.tree.map(lambda leaf: jnp.stack([leaf] * self.members), one)
        return params, jax.vmap(optax.scale_by_adam().init)(params)

    def losses(self) -> Tensor:
        """Of ten steps, `(10, members)`."""
        (params, state), found = self._beginning(), []
        for _ in range(0, TEN, len(self.batches)):
            params, state, losses = self._steps(params, state, self.batches)
            found.append(torch.tensor(jax.device_get(losses)))
        return torch.cat(found)[:TEN]

    def call(self) -> Any:
        """What is timed."""
        params, state = self._beginning()

        def call() -> None:
            nonlocal params, state
            params, state, losses = self._steps(params, state, self.batches)
            losses.block_until_ready()

        return call


def measure(name: str, settings: Settings) -> Run:
    """Times of one problem, in turns, on one thread."""
    torch.set_num_threads(1)
    problem, members = problems.get(name), 2 if settings.quick else MEMBERS[name]
    size = QUICK if settings.quick else problem.batch_size
    batches = [problem.fake_batch(size, seed) for seed in range(STEPS.get(name, 1))]
    ours = Ours(problem, batches, members)
    theirs = Theirs(ours, batches, members)
    mine, yours = ours.losses(), theirs.losses()
    apart = float(((mine - yours).norm() / yours.norm()).item())
    if apart > TOLERANCE:
        raise AssertionError(f"{name}: ours and JAX's differ: {apart}")
    sides = {OURS: ours.call(), JAX: theirs.call()}
    for call in sides.values():
        call()
    times = interleaved(sides, settings.rounds, time.process_time, budget=BUDGET)
    return {
        "members": members,
        "batch_size": size,
        "steps_per_call": len(batches),
        "jax": jax.__version__,
        "ratio": round(times[OURS].ratio(times[JAX]), 3),
        "quartiles": [round(each, 3) for each in times[OURS].spread(times[JAX])],
        "milliseconds": round(1e3 * times[OURS].median, 4),
        "jax_milliseconds": round(1e3 * times[JAX].median, 4),
        "apart": apart,
    }


BENCHMARK = Benchmark("population_jax", tuple(MEMBERS), measure, report_beside_jax)

if __name__ == "__main__":
    recording.main(BENCHMARK, __doc__)
